"""Descriptors of crops: histograms of oriented gradients and coarse grey values of the square around the site.

Legend: R crops in the file, T crops that are asked for, F values of a descriptor, N images, H and W pixels.
"""

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion.crop_geometry import PIXEL_MM
from vl_model.baseline.gradient_histograms import gradient_histograms
from vl_model.data.site_table import Ints

#: Width of the square that is described, of its cells, and of the squares of one mean grey value, in mm.
WINDOW_MM, CELL_MM, GREY_MM = 24.0, 4.0, 2.0
#: The grey values, 0 to 1, are multiplied by this, so that neither they nor the histograms outweigh the others.
GREY_WEIGHT = 2.0
#: Crops that are described at once: a few megabytes of intermediate values, whatever the number of sites.
_CROPS_PER_BLOCK = 256


class CropDescriptors:
    """Descriptors of stored crops, each of which is made once: the models of all folds learn from the same crops.

    crops: uint8 (R, slices, H, W). pixel_mm: the width of their pixels.
    """

    def __init__(self, crops: NDArray[np.uint8], pixel_mm: float = PIXEL_MM) -> None:
        self._crops, self._pixel_mm = crops, pixel_mm
        self._made_R = np.zeros(len(crops), dtype=bool)
        self._descriptor_RF = np.zeros((len(crops), 0), dtype=np.float32)

    def describe(self, crop_T: Ints) -> NDArray[np.float32]:
        """Return the descriptors (T, F) of these crops."""
        missing_M = np.unique(crop_T[~self._made_R[crop_T]])
        for start in range(0, len(missing_M), _CROPS_PER_BLOCK):
            block_B = missing_M[start : start + _CROPS_PER_BLOCK]
            descriptor_BF = describe_crops(self._crops, block_B, self._pixel_mm)
            if not self._descriptor_RF.shape[1]:
                # Memory is taken when a row is written.
                self._descriptor_RF = np.empty((len(self._crops), descriptor_BF.shape[1]), dtype=np.float32)
            self._descriptor_RF[block_B] = descriptor_BF
        self._made_R[missing_M] = True
        return self._descriptor_RF[crop_T]


def describe_crops(crops: NDArray[np.uint8], crop_T: Ints, pixel_mm: float = PIXEL_MM) -> NDArray[np.float32]:
    """Return the descriptors (T, F) of stored crops: the histograms, then the coarse grey values.

    Of the stored pixels (R, slices, H, W), only the middle square of the middle slice is read. The squares of one grey
    value have the nearest whole number of pixels, and cells and window consist of whole such squares.
    """
    coarse = max(1, round(GREY_MM / pixel_mm))
    window, cell = (round(mm / GREY_MM) * coarse for mm in (WINDOW_MM, CELL_MM))
    top, left = ((size - window) // 2 - 1 for size in crops.shape[2:])  # one pixel around, for the gradients
    image_THW = crops[crop_T, crops.shape[1] // 2, top : top + window + 2, left : left + window + 2]
    inner_THW = image_THW[:, 1:-1, 1:-1].astype(np.float32) / 255
    grey_Thw = inner_THW.reshape(-1, window // coarse, coarse, window // coarse, coarse).mean(axis=(2, 4))
    return np.concatenate(
        [gradient_histograms(image_THW, cell), GREY_WEIGHT * grey_Thw.reshape(len(grey_Thw), -1)], axis=1
    )
