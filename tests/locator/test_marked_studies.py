"""Marked studies: read back from the tables and PNG files that a preparation wrote."""

import csv
import io
from pathlib import Path

import numpy as np

from data_prep.conversion.study_conversion import _write_images
from data_prep.conversion.study_records import SLICE_COLUMNS
from data_prep.placement.regions import Position, region
from data_prep.sites import SITES, Source, View
from data_prep.studies.studies import Series, Slice, Study
from locator.marked_studies import MarkedStudy
from tests.dicom_files import SAGITTAL, frame


def test_a_study_read_back_knows_its_other_contrasts(tmp_path: Path) -> None:
    """Their images lie in no stack: a region around one of them would end everything."""
    random = np.random.default_rng(0)

    def image(number: int, x_mm: float, other_contrast: bool) -> Slice:
        geometry = frame((x_mm, -50.0, 50.0), SAGITTAL, (1.0, 1.0), (100, 100))
        return Slice(number, geometry, random.integers(0, 255, (100, 100), np.uint8), None, other_contrast)

    shown = [image(number, x_mm, False) for number, x_mm in enumerate((-8.8, -4.4, 4.4, 8.8), start=1)]
    others = [image(number, x_mm, True) for number, x_mm in enumerate((-8.8, -4.4, 0.0, 4.4, 8.8), start=11)]
    series = Series(5, View.SAGITTAL_T2_STIR, (*shown, *others), (tuple(range(4)),), (0.0, 255.0))
    study = Study(7, (series, Series(6, None, tuple(others), (), (0.0, 255.0))))
    rows, _, _ = _write_images(study, tmp_path)
    with (text := io.StringIO()):
        csv.writer(text).writerows([SLICE_COLUMNS, *rows])
        back = MarkedStudy(7, 0, text.getvalue(), np.full((len(SITES), 3), np.nan)).read(tmp_path)
    for own, read in zip(study.series, back.series, strict=True):
        assert (read.view, read.stacks, sorted(read.frames)) == (own.view, own.stacks, sorted(own.frames))
        kept = own.view is not None
        assert [one.other_contrast for one in read.slices] == [one.other_contrast and kept for one in own.slices]
    position = Position(SITES[0], (0.0, 0.0, 0.0), Source.ATLAS)
    found, expected = (region(one, position, View.SAGITTAL_T2_STIR) for one in (back, study))
    assert found == expected
