"""The count of levels: each alternative chain is searched for, and studies without the sacrum are told."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.phantom import write_cohort
from data_prep.sites import SITES
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import Study, read_study
from locator.cut_off import lower_end_cut_off
from locator.files import SHIPPED
from locator.level_evidence import SHIFTS, LevelCalibration
from locator.locator import (
    LEVEL_MM,
    LOWEST_CANAL,
    MAX_EXPECTED_ERROR_MM,
    MIN_SACRUM_MM,
    UNSEEN_SACRUM_FACTOR,
    LevelCount,
    Locator,
    load_locator,
    sacrum_is_visible,
)
from locator.slices import sagittal_images
from workspace.layout import DataRoot

DIRECTED = LevelCalibration(1.0, 100, (0.0, 0.0, 0.0, 1.0, 0.0))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = write_cohort(tmp_path_factory.mktemp("count"), train=1, test=0, seed=98)
    return read_study(split_cohort(DataRoot(root), "train").folders[0])[0]


@pytest.fixture(scope="module")
def locator() -> Locator:
    """The shipped networks, whose calibration prefers no chain."""
    return replace(load_locator(SHIPPED), level_calibration=LevelCalibration(1.0, 100))


def test_a_calibrated_locator_keeps_its_positions_without_the_sacrum(locator: Locator, study: Study) -> None:
    """The atlas knows less of such a study. The confidence tells the risk; without one, the atlas takes the sites."""
    found = locator.locate(study)
    assert found is not None
    cut = lower_end_cut_off(study, found.position_N3)
    end_mm = min(float(image.frame.to_patient((0, image.frame.shape[0] - 1))[2]) for image in sagittal_images(cut))
    lowest_mm = float(found.position_N3[LOWEST_CANAL, 2])
    lower = next(shift for shift in (0, 1) if lowest_mm - LEVEL_MM * shift - end_mm < MIN_SACRUM_MM)
    sure = tuple(50.0 if shift == lower else 0.0 for shift in SHIFTS)  # of a chain with no sacrum below it
    located = replace(locator, level_calibration=LevelCalibration(1.0, 100, sure)).locate(cut)
    assert located is not None and not sacrum_is_visible(sagittal_images(cut), located.position_N3)
    assert located.level_confidence == pytest.approx(UNSEEN_SACRUM_FACTOR * 101 / 102)
    assert len(located.reliable_positions) == len(SITES)


def test_a_count_without_the_sacrum_is_told_by_the_confidence_or_by_the_error() -> None:
    score_S = np.array([-3.0, -2.0, -0.1, -2.0, -3.0])
    seen, unseen = (LevelCount(0.0, score_S, shows_sacrum=shows) for shows in (True, False))
    plain = LevelCalibration(0.5, 100)
    assert unseen.error_with(None) > MAX_EXPECTED_ERROR_MM and seen.error_with(None) == 0.0
    assert unseen.error_with(plain) == 0.0 and unseen.confidence(None) is None
    assert unseen.confidence(plain) == seen.confidence(plain)  # fitted to copies without the sacrum, too
    directed = [count.confidence(DIRECTED) for count in (seen, unseen)]
    assert directed[0] is not None and directed[1] == pytest.approx(directed[0] * UNSEEN_SACRUM_FACTOR)
