"""The pictures of one piece of evidence: the slice with the box, and the enlarged content of the box.

Pictures are drawn in millimetres, because rows and columns of a slice may have different spacings. A box is
(x0, y0, x1, y1) in (column, row) pixels, counted from the centre of the first pixel.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_prep.geometry import Frame
from vl_model.queries.picture_marks import draw_marks
from vl_model.queries.segment import Evidence, image_path

BOX_COLOUR = (255, 210, 63)
#: The longer side of a saved crop, and the least and the largest longer side of a saved slice, in pixels.
CROP_PIXELS, LEAST_PIXELS, LARGEST_PIXELS = 384, 512, 2048

#: What Pillow raises for a damaged PNG, or one that says it is enormous.
_DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    RuntimeError,  # a link that leads to itself
)


class NoPicture(ValueError):
    """The PNG of a slice cannot be shown. The message says why, without the folder."""


@dataclass(frozen=True, eq=False)
class EvidencePicture:
    """A slice in grey, with a box on it. frame: its place in the patient, if it is known."""

    grey: Image.Image
    box: tuple[float, float, float, float]
    frame: Frame | None

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """The distances between rows and between columns; without a known geometry, pixels are squares of 1 mm."""
        return (1.0, 1.0) if self.frame is None else self.frame.spacing_mm

    @property
    def size_mm(self) -> tuple[float, float]:
        """(width, height)"""
        row_mm, column_mm = self.spacing_mm
        return self.grey.width * column_mm, self.grey.height * row_mm

    def whole(self, longest: int | None = None) -> Image.Image:
        """Return the slice with the box, letters and scale bar; `longest` is its longer side in pixels.

        By default no pixel is lost (within `LARGEST_PIXELS`), and a small slice is enlarged to `LEAST_PIXELS`.
        """
        width_mm, height_mm = self.size_mm
        if longest is None:
            pixels = round(max(self.size_mm) / min(self.spacing_mm))
            longest = min(max(LEAST_PIXELS, pixels), LARGEST_PIXELS)
        per_mm = longest / max(self.size_mm)
        size = _size(width_mm * per_mm, height_mm * per_mm)
        drawn = self.grey.resize(size, Image.Resampling.LANCZOS).convert("RGB")
        x_per_pixel, y_per_pixel = size[0] / self.grey.width, size[1] / self.grey.height
        x0, y0, x1, y1 = self._shown_box
        left, top = x0 * x_per_pixel, y0 * y_per_pixel
        corners = (left, top, max(left, x1 * x_per_pixel - 1), max(top, y1 * y_per_pixel - 1))
        ImageDraw.Draw(drawn).rectangle(corners, outline=BOX_COLOUR, width=max(2, round(longest / 200)))
        if self.frame is not None:
            draw_marks(drawn, self.frame, per_mm)
        return drawn

    def crop(self, longest: int = CROP_PIXELS) -> Image.Image:
        """Return the content of the box, enlarged, with letters and scale bar."""
        x0, y0, x1, y1 = self._shown_box
        row_mm, column_mm = self.spacing_mm
        width_mm, height_mm = (x1 - x0) * column_mm, (y1 - y0) * row_mm
        per_mm = longest / max(width_mm, height_mm)
        size = _size(width_mm * per_mm, height_mm * per_mm)
        drawn = self.grey.resize(size, Image.Resampling.BICUBIC, self._shown_box).convert("RGB")
        if self.frame is not None:
            draw_marks(drawn, self.frame, per_mm)
        return drawn

    @property
    def _shown_box(self) -> tuple[float, float, float, float]:
        """The part of the box on the slice, counted from the corner of the first pixel; at least one pixel."""
        x0, y0, x1, y1 = self.box
        (left, right), (upper, lower) = _span(x0, x1, self.grey.width), _span(y0, y1, self.grey.height)
        return left, upper, right, lower


def _span(low: float, high: float, size: int) -> tuple[float, float]:
    first = float(np.clip(low + 0.5, 0, size - 1))
    return first, float(np.clip(high + 0.5, first + 1, size))


def _size(width: float, height: float) -> tuple[int, int]:
    return max(1, round(width)), max(1, round(height))


def read_picture(processed: Path, study_id: int, evidence: Evidence, frame: Frame | None) -> EvidencePicture:
    """Read the slice of a piece of evidence.

    Raises NoPicture if its PNG does not exist, is damaged, lies outside `processed` by way of a link, or has another
    size than `frame`, so that the box would lie elsewhere.
    """
    try:
        path = (processed / image_path(study_id, evidence)).resolve()
        if not path.is_relative_to(processed.resolve()):
            raise NoPicture("it lies outside processed_data")
        if not path.is_file():
            raise NoPicture("no such file")
        return EvidencePicture(_read_grey(path, frame), evidence.box, frame)
    except NoPicture:
        raise
    except _DAMAGED:
        raise NoPicture("it cannot be read") from None


def _read_grey(path: Path, frame: Frame | None) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=["PNG"]) as file:
            if frame is not None and file.size != frame.shape[::-1]:
                rows, columns = frame.shape
                raise NoPicture(f"it has {file.height} rows and {file.width} columns instead of {rows} and {columns}")
            return file.convert("L")
