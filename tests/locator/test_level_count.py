"""The count of levels: what decides it, and what becomes of studies that do not show the sacrum."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.phantom import write_cohort
from data_prep.placement.atlas import SACRUM_MM, UNSEEN_SACRUM_FACTOR
from data_prep.sites import SITES
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import Study, read_study
from locator.cut_off import lower_end_cut_off
from locator.field_height import FieldHeight, heights
from locator.files import SHIPPED
from locator.level_count import LEVEL_MM, LOWEST_CANAL, UNSEEN_SACRUM_ERROR_MM, LevelCount, level_count_error_mm
from locator.level_evidence import SHIFTS, LevelCalibration, shifted
from locator.locator import MAX_EXPECTED_ERROR_MM, LocatedStudy, Locator
from locator.saved_locator import load_locator
from locator.slices import sagittal_images
from locator.suspects import find_suspects
from workspace.layout import DataRoot

DIRECTED = LevelCalibration(1.0, 100, (0.0, 0.0, 0.0, 1.0, 0.0))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = write_cohort(tmp_path_factory.mktemp("count"), train=1, test=0, seed=98)
    return read_study(split_cohort(DataRoot(root), "train").folders[0])[0]


@pytest.fixture(scope="module")
def bare() -> Locator:
    """The shipped networks, without calibration and knowledge of heights."""
    return replace(load_locator(SHIPPED), level_calibration=None, field_height=None)


def height_of(study: Study, position_N3: np.ndarray) -> float:
    series = [one.frames.values() for one in study.series if one.view is not None and one.view.is_sagittal]
    return float(heights(series, position_N3))


@pytest.mark.parametrize("levels_lower", [-1, 1])
def test_the_fitted_temperature_weighs_heatmaps_against_the_height(
    bare: Locator, study: Study, levels_lower: int
) -> None:
    """Marked spines lay a level beside this one. Before a calibration, and with a cold one, clear heatmaps prevail."""
    plain = bare.locate(study)
    assert plain is not None
    beside = FieldHeight(height_of(study, shifted(plain.position_N3, levels_lower)), 0.03, 100)
    for temperature, weight, moves in ((None, 1.0, False), (0.1, 1.0, False), (1e4, 1.0, True), (1e4, 0.0, False)):
        calibration = None if temperature is None else LevelCalibration(temperature, 100)
        rule = replace(bare.score_rule, height_weight=weight)
        located = replace(bare, field_height=beside, score_rule=rule, level_calibration=calibration).locate(study)
        assert located is not None
        step = (located.position_N3 - plain.position_N3)[:, 2] * levels_lower
        assert np.all(step < -15) if moves else np.allclose(step, 0)


def test_the_height_counts_by_its_weight(bare: Locator, study: Study) -> None:
    locator = replace(bare, field_height=FieldHeight(0.0, 0.05, 100))
    priors = []
    for weight in (1.0, 0.25):
        count = replace(locator, score_rule=replace(bare.score_rule, height_weight=weight)).detect(study)[2]
        priors.append(count.prior_S)
    assert np.ptp(priors[0]) > 1
    np.testing.assert_allclose(priors[1], priors[0] / 4)


def test_a_calibrated_locator_keeps_its_positions_without_the_sacrum(bare: Locator, study: Study) -> None:
    """The atlas knows less of such a study. The confidence tells the risk; without one, the atlas takes the sites."""
    found = bare.locate(study)
    assert found is not None
    cut = lower_end_cut_off(study, found.position_N3)
    images = sagittal_images(cut)
    end_mm = min(float(image.slices.frame.to_patient((0, image.slices.frame.shape[0] - 1))[2]) for image in images)
    lowest_mm = float(found.position_N3[LOWEST_CANAL, 2])
    lower = next(shift for shift in (0, 1) if lowest_mm - LEVEL_MM * shift - end_mm < SACRUM_MM)
    sure = tuple(50.0 if shift == lower else 0.0 for shift in SHIFTS)  # of a chain with no sacrum below it
    located = replace(bare, level_calibration=LevelCalibration(1.0, 100, sure)).locate(cut)
    assert located is not None and level_count_error_mm(images, located.position_N3) > 0
    assert located.level_confidence == pytest.approx(UNSEEN_SACRUM_FACTOR * 101 / 102)
    assert len(located.reliable_positions) == len(SITES)
    # A chain that is moved upwards again has the lowest vertebra below it, not the sacrum.
    upwards = tuple(50.0 if shift == -1 else 0.0 for shift in SHIFTS)
    unsure = bare.detect(cut)[2]
    higher = replace(bare, level_calibration=LevelCalibration(1.0, 100, upwards)).detect(cut)[2]
    assert higher.error_mm == unsure.error_mm


def test_a_count_without_the_sacrum_is_told_by_the_confidence_or_by_the_error() -> None:
    score_S = np.array([-3.0, -2.0, -0.1, -2.0, -3.0])
    seen, unseen = (LevelCount(error_mm, score_S) for error_mm in (0.0, UNSEEN_SACRUM_ERROR_MM))
    plain = LevelCalibration(0.5, 100)
    assert unseen.untold_error_mm(None) > MAX_EXPECTED_ERROR_MM and seen.untold_error_mm(None) == 0.0
    assert unseen.untold_error_mm(plain) == 0.0 and unseen.confidence(None) is None
    assert unseen.confidence(plain) == seen.confidence(plain)  # fitted to copies without the sacrum, too
    directed = [count.confidence(DIRECTED) for count in (seen, unseen)]
    assert directed[0] is not None and directed[1] == pytest.approx(directed[0] * UNSEEN_SACRUM_FACTOR)


def test_marks_are_no_suspects_where_the_count_of_levels_is_unsure(bare: Locator) -> None:
    marked_N3 = bare.prior.shape_N3
    located_N3 = shifted(marked_N3, 1)
    for confidence, suspects in ((0.5, 0), (0.999, len(SITES))):
        located = LocatedStudy(located_N3, np.full(len(SITES), 2.0), (), confidence)
        expected = np.hypot(2.0, LEVEL_MM * np.sqrt(1 - confidence))
        np.testing.assert_allclose(located.total_error_N, expected)
        assert located.reliable_positions[SITES[0]].expected_error_mm == pytest.approx(expected, abs=0.01)
        assert len(list(find_suspects(1, marked_N3, located_N3, located.total_error_N))) == suspects
