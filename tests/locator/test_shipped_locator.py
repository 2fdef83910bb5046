"""The locator that ships with the program: its files, and what it places."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.phantom import Scanners, write_cohort
from data_prep.placement.atlas import UNSEEN_SACRUM_FACTOR, Atlas
from data_prep.placement.regions import marked_positions, points_of
from data_prep.sites import SITES
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import read_study
from locator.field_height import FieldHeight, heights
from locator.files import LOCATOR, SHIPPED, WEIGHTS, check_locator
from locator.knowledge import EVERYTHING
from locator.level_count import level_count_error_mm
from locator.level_evidence import SHIFTS, LevelCalibration, ScoreRule, shifted
from locator.saved_locator import load_locator
from locator.site_placer import LocatorPlacer, make_placer
from locator.slices import sagittal_images
from workspace.layout import DataRoot

#: The shipped weights are to stay below this.
LARGEST_BYTES = 8_000_000


def test_its_files_are_small_and_whole_and_say_what_they_are() -> None:
    check_locator(SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < LARGEST_BYTES
    assert {path.name for path in SHIPPED.iterdir()} == {LOCATOR, WEIGHTS, "README.md"}
    locator = load_locator(SHIPPED)
    assert all(locator.knowledge.channels[name].all() for name in EVERYTHING.channels)
    assert locator.level_calibration is not None
    notes = json.loads((SHIPPED / LOCATOR).read_text())["notes"]
    assert "synthetic" in notes["trained_on"] and "RSNA 2024" in notes["calibrated_on"]
    card = (SHIPPED / "README.md").read_text()
    assert "RSNA 2024, foraminal sites, 250-pixel copies" in card and "not a medical device" in card


def test_data_without_marks_is_placed_by_it_and_the_choice_travels(tmp_path: Path) -> None:
    """It never saw these patients. The placer reaches workers without a path: theirs may be another one."""
    root = write_cohort(tmp_path, train=3, test=0, seed=97, scanners=Scanners.VARIED)
    placer = make_placer(None, None)
    assert isinstance(placer, LocatorPlacer) and str(SHIPPED).encode() not in pickle.dumps(placer)
    assert isinstance(make_placer(None, None, may_ship=False), Atlas)
    assert make_placer(SHIPPED, None) == placer
    error = []
    for folder in split_cohort(DataRoot(root), "train").folders:
        study, _ = read_study(folder)
        marked = points_of(marked_positions(study)[0])
        placed = pickle.loads(pickle.dumps(placer)).place(study, {})
        assert set(placed) == set(SITES)
        assert all(position.level_confidence and position.expected_error_mm for position in placed.values())
        error.append(np.linalg.norm(points_of(placed) - marked, axis=1))
    assert np.nanmedian(error) < 5 and np.nanmean(np.array(error) < 15) > 0.6


@pytest.mark.parametrize("levels_lower", [-1, 1])
def test_the_height_in_the_field_moves_a_chain_that_heatmaps_leave_open(tmp_path: Path, levels_lower: int) -> None:
    """Every shift has nearly the same score; marked spines lay where this one lies if it is moved by a level."""
    root = write_cohort(tmp_path, train=1, test=0, seed=98)
    study, _ = read_study(split_cohort(DataRoot(root), "train").folders[0])
    locator = replace(load_locator(SHIPPED), level_calibration=None, field_height=None)
    plain = locator.locate(study)
    assert plain is not None
    frames = [series.frames.values() for series in study.series if series.view is not None and series.view.is_sagittal]
    target = float(heights(frames, shifted(plain.position_N3, levels_lower)))
    open_rule = ScoreRule(min_support=0.999)
    moved = replace(locator, score_rule=open_rule, field_height=FieldHeight(target, 0.03, 100)).locate(study)
    assert moved is not None
    assert np.all((moved.position_N3 - plain.position_N3)[:, 2] * levels_lower < -15)


def test_its_direction_decides_and_the_confidence_is_that_of_the_chosen_levels(tmp_path: Path) -> None:
    """A calibration that is sure of one level lower moves the whole chain down by one, and says how sure it is.

    So low in the images, the chain has no sacrum below it, from which its levels could be counted.
    """
    root = write_cohort(tmp_path, train=1, test=0, seed=98)
    study, _ = read_study(split_cohort(DataRoot(root), "train").folders[0])
    locator = replace(load_locator(SHIPPED), level_calibration=LevelCalibration(1.0, 100))
    plain = locator.locate(study)
    lower = tuple(50.0 if shift == 1 else 0.0 for shift in SHIFTS)
    moved = replace(locator, level_calibration=LevelCalibration(1.0, 100, lower)).locate(study)
    assert plain is not None and moved is not None and plain.level_confidence is not None
    assert level_count_error_mm(sagittal_images(study), moved.position_N3) > 0
    assert moved.level_confidence == pytest.approx(UNSEEN_SACRUM_FACTOR * 101 / 102)
    step = (moved.position_N3 - plain.position_N3)[:, 2]
    assert np.all(step < -15)
