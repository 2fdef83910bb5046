"""A plain baseline without any network: what a run has to beat for its training to have been worth it.

Each view of a site is described by the middle slice of its crop: histograms of oriented gradients and coarse grey
values of the square around the site. Principal components of these descriptors, learned from the training studies,
replace the embedding of the linear probe. The baseline is no head: it grades nothing, and no choice depends on it.

Legend: N sites, M sites that a view shows, T crops, F values of a descriptor, D features, V = 3 views.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from data_prep.conversion.crop_geometry import PIXEL_MM
from data_prep.sites import View
from vl_model.baseline.gradient_histograms import gradient_histograms
from vl_model.data.site_rows import SiteRow
from vl_model.data.site_table import Floats, Ints, SiteTable
from vl_model.evaluation.heads import LinearProbe

#: Width of the square that is described, of its cells, and of the squares of one mean grey value, in mm.
WINDOW_MM, CELL_MM, GREY_MM = 24.0, 4.0, 2.0
#: The grey values, 0 to 1, are multiplied by this, so that neither they nor the histograms outweigh the others.
GREY_WEIGHT = 2.0
COMPONENTS = 128
#: Inverse penalties, for features of norm one.
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
#: Crops that are described at once: a few megabytes of intermediate values, whatever the number of sites.
_CROPS_PER_BLOCK = 256

VIEWS: tuple[View, ...] = tuple(View)
#: What the predictions depend on besides the data.
SETTINGS = {
    "window_mm": WINDOW_MM,
    "cell_mm": CELL_MM,
    "grey_mm": GREY_MM,
    "grey_weight": GREY_WEIGHT,
    "components": COMPONENTS,
    "strengths": list(STRENGTHS),
}


class PlainBaseline:
    """Principal components of each view's descriptors, then a multinomial logistic regression per condition.

    Features: the components of each view, zero for a view that does not show the site; whether each view shows it; and
    the level, which the regression (`LinearProbe`) adds. The side is none: crops of the right are mirrored. The penalty
    is chosen by cross-validation over the studies that it is fitted on. Of several tiles in a view only the one at the
    site is described.

    pixel_mm: the width of the crops' pixels.

    Learned attributes: `component_of_`, per view the fitted PCA, for views of at least two sites; `probe_`.
    """

    def __init__(self, pixel_mm: float = PIXEL_MM) -> None:
        self.pixel_mm = pixel_mm

    def fit(self, table: SiteTable, rows: Sequence[SiteRow], crops: NDArray[np.uint8]) -> "PlainBaseline":
        """Fit on the labelled sites of `table` (N), whose crops are those of `rows` (N).

        Raises ValueError if no site is labelled.
        """
        labelled = np.flatnonzero(table.labelled_N)
        table, rows = table.take(labelled), [rows[row] for row in labelled.tolist()]
        self.component_of_: dict[View, PCA] = {}
        parts = []
        for view in VIEWS:
            shown_M, descriptor_MF = describe_view(rows, crops, view, self.pixel_mm)
            if len(shown_M) > 1:
                count = min(COMPONENTS, *descriptor_MF.shape)
                # Both ways are exact, and nothing in them is random; which one is quicker depends on the shape.
                solver = "covariance_eigh" if descriptor_MF.shape[0] > descriptor_MF.shape[1] else "full"
                with np.errstate(invalid="ignore"):  # the share of the variance, which equal pictures do not have
                    self.component_of_[view] = PCA(count, svd_solver=solver).fit(descriptor_MF)
            parts.append(self._view_features(view, len(rows), shown_M, descriptor_MF))
        self.probe_ = LinearProbe(STRENGTHS).fit(table, np.concatenate(parts, axis=1))
        return self

    def predict_log_proba(self, table: SiteTable, rows: Sequence[SiteRow], crops: NDArray[np.uint8]) -> Floats:
        """Return the natural logarithms of the probabilities (N, 3) of the sites of `table`, the sites of `rows`."""
        described = [(view, *describe_view(rows, crops, view, self.pixel_mm)) for view in VIEWS]
        parts = [self._view_features(view, len(rows), shown_M, value_MF) for view, shown_M, value_MF in described]
        return self.probe_.predict_log_proba(table, np.concatenate(parts, axis=1))

    def _view_features(self, view: View, count: int, shown_M: Ints, descriptor_MF: NDArray[np.float32]) -> Floats:
        """Return the features of one view (N, components + 1); the last column says whether the view shows the site."""
        if view not in self.component_of_:
            return np.zeros((count, 0))
        components = self.component_of_[view]
        feature_ND = np.zeros((count, components.n_components_ + 1))
        if len(shown_M):
            feature_ND[shown_M, :-1] = components.transform(descriptor_MF)
            feature_ND[shown_M, -1] = 1.0
        return feature_ND


def describe_view(
    rows: Sequence[SiteRow], crops: NDArray[np.uint8], view: View, pixel_mm: float = PIXEL_MM
) -> tuple[Ints, NDArray[np.float32]]:
    """Return the sites that a view shows (M indices among the rows) and their descriptors (M, F).

    The descriptor of a site with several crops at its place in the view is the mean of theirs.
    """
    tiles = [
        (index, crop)
        for index, row in enumerate(rows)
        for crop, its_view, lies_at_site in zip(row.crops, row.views, row.lies_at_site, strict=True)
        if its_view is view and lies_at_site
    ]
    if not tiles:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.float32)
    site_T, crop_T = np.array(tiles, dtype=np.int64).T
    starts = range(0, len(crop_T), _CROPS_PER_BLOCK)
    descriptor_TF = np.concatenate([describe_crops(crops, crop_T[s : s + _CROPS_PER_BLOCK], pixel_mm) for s in starts])
    shown_M, first_M, count_M = np.unique(site_T, return_index=True, return_counts=True)
    mean_MF = np.add.reduceat(descriptor_TF, first_M) / count_M[:, None]
    return shown_M, mean_MF.astype(np.float32)


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
