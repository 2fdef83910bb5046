"""Copies of studies whose lower end is cut off, so that their levels cannot be counted from the sacrum."""

from dataclasses import replace

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.regions import vector
from data_prep.sites import SITES, Condition
from data_prep.studies.studies import Series, Slice, Study

#: A series that shows less than this above the cut is left out.
LEAST_MM = 50.0
#: The copies end this far below the lowest mark, of the canal if it is marked, mm; a negative distance is above it.
LOWEST_MM, HIGHEST_MM = -45.0, 15.0

_CANAL = [index for index, site in enumerate(SITES) if site.condition is Condition.SPINAL_CANAL_STENOSIS]


def lower_end_cut_off(study: Study, marked_N3: Array) -> Study:
    """Return a copy whose sagittal images end at a height that depends on the study's id, as if planned so.

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
    slices = tuple(_cut_slice(image, end_mm) for image in series.slices)
    if any(image.frame is not None and image.frame.length_mm < LEAST_MM for image in slices):
        return replace(series, slices=(), stacks=())
    return replace(series, slices=slices)


def _cut_slice(image: Slice, end_mm: float) -> Slice:
    """Leave out the rows (or columns, whichever run along the patient) that lie below a height; one at least stays."""
    frame = image.frame
    if frame is None:
        return image
    along = 0 if frame.is_upright else 1
    line_K2 = np.tile((np.array(frame.shape) - 1) / 2, (frame.shape[along], 1))  # (row, column) through the middle
    line_K2[:, along] = np.arange(frame.shape[along])
    height_K = frame.to_patient(line_K2[:, ::-1])[:, 2]
    kept = np.flatnonzero(height_K >= min(end_mm, height_K.max()))
    grey = image.grey.take(kept, axis=along)
    first = np.array([0, 0])
    first[along] = kept[0]
    position = vector(frame.to_patient(first[::-1]))
    return replace(image, source=grey, frame=replace(frame, position_mm=position, shape=grey.shape))
