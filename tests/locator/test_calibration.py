"""The calibration of a locator: what it measures on held-out studies in which many levels are miscounted."""

from dataclasses import replace

import numpy as np

from data_prep.placement.pose import fit_pose
from data_prep.sites import SITES, Condition, View
from locator.calibration import HeldOutStudy, calibrate
from locator.detections import Detection, detection_kind
from locator.files import SHIPPED
from locator.level_count import LevelCount
from locator.level_evidence import SHIFTS, UNSHIFTED, shifted
from locator.locator import Locator
from locator.saved_locator import load_locator

NOISE_MM = 2.0
FORAMEN = Condition.NEURAL_FORAMINAL_NARROWING
KIND = detection_kind(FORAMEN, View.SAGITTAL_T1)


def held_out(locator: Locator, shift: int, study_id: int) -> HeldOutStudy:
    """Return a study whose chain of levels was detected `shift` levels too low, with noise."""
    generator = np.random.default_rng(study_id)
    marked_N3 = locator.prior.shape_N3 + generator.normal(0, 30, 3)
    found_N3 = shifted(marked_N3, shift)
    found_N3 = found_N3 + generator.normal(0, NOISE_MM, found_N3.shape)
    detections = tuple(
        Detection(index, found_N3[index], 1.0, KIND)
        for index, site in enumerate(SITES)
        if site.condition is FORAMEN and np.isfinite(found_N3[index]).all()
    )
    score_S = np.zeros(len(SHIFTS))
    score_S[UNSHIFTED] = 0.1
    pose = fit_pose(locator.prior.shape_N3, found_N3)
    return HeldOutStudy(study_id, marked_N3, pose, detections, LevelCount(0.0, score_S))


def test_miscounted_levels_lower_the_confidence_and_do_not_widen_the_detections() -> None:
    locator = load_locator(SHIPPED)
    right = [held_out(locator, 0, number) for number in range(30)]
    wrong = [held_out(locator, 1, number) for number in range(30, 50)]
    alone, mixed = calibrate(locator, right), calibrate(locator, right + wrong)
    assert np.allclose(alone.deviation_mm[KIND], NOISE_MM, rtol=0.25)
    assert np.array_equal(mixed.deviation_mm[KIND], alone.deviation_mm[KIND])
    assert mixed.error_scale == alone.error_scale
    score_S = right[0].count.score_S
    assert score_S is not None and alone.level_calibration is not None and mixed.level_calibration is not None
    assert mixed.level_calibration.confidence(score_S) < 0.75 < alone.level_calibration.confidence(score_S)


def test_a_calibration_knows_what_was_likely_before_the_heatmaps() -> None:
    locator = load_locator(SHIPPED)
    studies = [held_out(locator, int(number % 4 == 0), number) for number in range(40)]
    prior_S = np.where(np.arange(len(SHIFTS)) == UNSHIFTED, 0.0, -5.0)
    informed = [replace(study, count=replace(study.count, prior_S=prior_S)) for study in studies]
    plain, fitted = (calibrate(locator, some).level_calibration for some in (studies, informed))
    assert plain is not None and fitted is not None
    assert fitted.temperature > plain.temperature  # a quarter is wrong: what the prior adds, the scores must give back


def test_studies_without_the_sacrum_do_not_widen_the_expected_errors() -> None:
    """Their sites are further from the marks; the error of the others is not theirs."""
    locator = load_locator(SHIPPED)
    seen = [held_out(locator, 0, number) for number in range(30)]
    far = np.array([0.0, 9.0, 0.0])  # less than a level away
    unseen = [
        replace(
            study,
            study_id=study.study_id + 30,
            marked_N3=study.marked_N3 + far,
            count=replace(study.count, error_mm=25.0),
        )
        for study in seen
    ]
    scale = calibrate(locator, seen, fixed_deviations=True).error_scale
    assert calibrate(locator, seen + unseen, fixed_deviations=True).error_scale == scale
    told = [replace(study, count=replace(study.count, error_mm=0.0)) for study in unseen]
    assert calibrate(locator, seen + told, fixed_deviations=True).error_scale[FORAMEN] > scale[FORAMEN]
