"""Copies of studies whose lower end is cut off, so that their levels cannot be counted from the sacrum."""

from dataclasses import replace

import numpy as np

from data_prep.geometry import Array
from data_prep.sites import SITES, Condition
from data_prep.studies.studies import Series, Slice, Study

#: The copies end this far below the lowest mark, of the canal if it is marked, mm; a negative distance is above it.
LOWEST_MM, HIGHEST_MM = -45.0, 15.0

_CANAL = [index for index, site in enumerate(SITES) if site.condition is Condition.SPINAL_CANAL_STENOSIS]


def lower_end_cut_off(study: Study, marked_N3: Array) -> Study:
    """Return a copy in which sagittal images are black below a height that depends on the study's id.

    Args:
        study: The study.
        marked_N3: Marked positions in mm, NaN where unmarked. Without any mark the study is returned as it is.
    """
    heights = marked_N3[_CANAL if np.isfinite(marked_N3[_CANAL]).any() else slice(None), 2]
    if not np.isfinite(heights).any():
        return study
    share = float(np.random.default_rng(study.study_id).random())
    end_mm = float(np.nanmin(heights)) - (LOWEST_MM + share * (HIGHEST_MM - LOWEST_MM))
    return replace(study, series=tuple(_cut_series(series, end_mm) for series in study.series))


def _cut_series(series: Series, end_mm: float) -> Series:
    if series.view is None or not series.view.is_sagittal:
        return series
    return replace(series, slices=tuple(_cut_slice(image, end_mm) for image in series.slices))


def _cut_slice(image: Slice, end_mm: float) -> Slice:
    if image.frame is None:
        return image
    rows, columns = np.indices(image.frame.shape)
    height = image.frame.to_patient(np.stack([columns, rows], axis=-1))[..., 2]
    return replace(image, source=np.where(height < end_mm, 0, image.grey).astype(np.uint8))
