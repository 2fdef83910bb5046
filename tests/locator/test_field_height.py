"""The height of a chain of levels in the field of view, and what it tells of the count of levels."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_prep.geometry import Frame
from data_prep.sites import SITES, Level, View
from data_prep.studies.studies import Series, Slice
from locator.field_height import (
    LONGEST_FIELD_MM,
    MIN_DEVIATION,
    MIN_STUDIES,
    FieldHeight,
    fit_field_height,
    heights,
    read_field_height,
)
from locator.level_evidence import SHIFTS, UNSHIFTED, LevelCalibration, fit_level_calibration, shifted
from locator.slices import SliceImage, SliceTriple

LEVEL_MM = 34.0
#: A straight spine, whose middle level lies at z = 0.
SPINE_N3 = np.array([[0.0, 0.0, LEVEL_MM * (2 - list(Level).index(site.level))] for site in SITES])
CHAINS_SN3 = np.array([shifted(SPINE_N3, shift) for shift in SHIFTS])
#: The height of each shift is the mean of 25 positions in a field of 300 mm whose middle lies 10 mm below the spine's.
HEIGHT_S = np.array([(position_N3[:, 2].sum() / 25 + 10.0) / 300 for position_N3 in CHAINS_SN3])


def image(frame: Frame, series_id: int = 1) -> SliceImage:
    series = Series(
        series_id, View.SAGITTAL_T1, (Slice(1, frame, np.zeros(frame.shape, np.uint8)),), ((0,),), (0.0, 1.0)
    )
    return SliceImage(np.zeros((3, 4, 4), np.uint8), frame, SliceTriple(series, 0, (0, 0, 0)))


def upright(rows: int = 300, middle_mm: float = -10.0) -> Frame:
    """A field of `rows` millimetres, of which the patient's height is along the columns."""
    top = middle_mm + (rows - 1) / 2
    return Frame((0.0, -80.0, top), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (1.0, 1.0), (rows, 160))


def lying(columns: int = 300, middle_mm: float = -10.0) -> Frame:
    """The same field, stored with the patient's height along the rows, from the feet upwards."""
    bottom = middle_mm - (columns - 1) / 2
    return Frame((0.0, -80.0, bottom), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0), (160, columns))


@pytest.mark.parametrize("frame", [upright(), lying()])
def test_heights_are_shares_of_the_field_however_it_is_stored(frame: Frame) -> None:
    np.testing.assert_allclose(heights([image(frame)], CHAINS_SN3), HEIGHT_S)


def test_heights_of_several_series_are_averaged_and_long_fields_left_out() -> None:
    """A field of the whole spine is not centred on its lumbar part. Every series counts once, however many slices."""
    first, second, whole = upright(), upright(rows=240, middle_mm=0.0), upright(rows=int(LONGEST_FIELD_MM) + 1)
    images = [image(first), image(first), image(second, 2), image(whole, 3)]
    expected = (HEIGHT_S + CHAINS_SN3[:, :, 2].mean(axis=1) / 240) / 2
    np.testing.assert_allclose(heights(images, CHAINS_SN3), expected)
    assert np.isnan(heights([image(whole)], CHAINS_SN3)).all() and np.isnan(heights([], CHAINS_SN3)).all()


def test_the_log_density_is_that_of_students_t_and_unknown_heights_tell_nothing() -> None:
    from scipy.stats import t as student_t

    height = FieldHeight(-0.01, 0.05, 40)
    values = np.linspace(-0.4, 0.4, 33)
    exact = student_t.logpdf(values, 5, -0.01, 0.05) - student_t.logpdf(-0.01, 5, -0.01, 0.05)
    np.testing.assert_allclose(height.log_density(values), exact)
    assert np.array_equal(height.log_density(np.array([np.nan, -0.01])), [0.0, 0.0])


def test_a_distribution_needs_studies_and_is_never_narrow() -> None:
    random = np.random.default_rng(1)
    drawn = random.normal(0.02, 0.06, 400)
    fitted = fit_field_height(np.array([*drawn, np.nan]))
    assert fitted == FieldHeight(pytest.approx(drawn.mean()), pytest.approx(drawn.std(ddof=1)), 400)
    assert fit_field_height(drawn[: MIN_STUDIES - 1]) is None
    narrow = fit_field_height(np.full(MIN_STUDIES, 0.1))
    assert narrow is not None and narrow.deviation == MIN_DEVIATION


def test_a_distribution_is_kept_in_json_and_a_damaged_one_refused() -> None:
    height = FieldHeight(-0.0144, 0.0532, 786)
    content = height.to_json()
    assert read_field_height(json.loads(json.dumps(content))) == height and read_field_height(None) is None
    for damaged in ({"deviation": 0.0}, {"studies": 3}, {"mean": float("nan")}, {"mean": "high"}):
        with pytest.raises(ValueError, match=r"the height in the field is|could not convert"):
            read_field_height({**content, **damaged})
    with pytest.raises(KeyError):
        read_field_height({"mean": 0.0})


def test_heights_decide_where_heatmaps_are_unsure_and_calibration_stays_honest() -> None:
    """Drawn studies: the true shift has scores and heights of its own; more right levels, and confidences that hold."""
    random = np.random.default_rng(7)

    def draw(studies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        true_K = random.choice(len(SHIFTS), studies, p=[0.02, 0.06, 0.7, 0.2, 0.02])
        score_KS = random.normal(0.0, 0.3, (studies, len(SHIFTS)))
        score_KS[np.arange(studies), true_K] += 0.5
        height_K = random.normal(-0.01, 0.05, studies)  # of the true shift
        return score_KS, true_K, height_K[:, None] - 0.11 * (np.array(SHIFTS) - np.array(SHIFTS)[true_K][:, None])

    score_KS, true_K, height_KS = draw(3000)
    plain = fit_level_calibration(score_KS, true_K, with_log_odds=True)
    fitted = fit_level_calibration(score_KS, true_K, height_KS=height_KS, with_log_odds=True)
    assert plain is not None and plain.field_height is None and fitted is not None
    assert fitted.field_height == FieldHeight(pytest.approx(-0.01, abs=0.003), pytest.approx(0.05, rel=0.05), 3000)
    score_KS, true_K, height_KS = draw(3000)
    by_scores = np.array([plain.best(score_S) for score_S in score_KS])
    by_both = [fitted.best(*evidence) for evidence in zip(score_KS, height_KS, strict=True)]
    assert np.mean(by_both == true_K) > np.mean(by_scores == true_K) + 0.03
    confidence = [
        fitted.confidence(score_S, height_S, best)
        for score_S, height_S, best in zip(score_KS, height_KS, by_both, strict=True)
    ]
    assert np.mean(confidence) == pytest.approx(np.mean(by_both == true_K), abs=0.02)
    unknown = np.full(len(SHIFTS), np.nan)
    for known in (None, unknown):
        without = fitted.probability(score_KS[0], known)
        assert np.array_equal(without, replace(fitted, field_height=None).probability(score_KS[0]))


def test_no_field_outweighs_clear_heatmaps() -> None:
    """The spine lies at the very edge of the field; in all marked studies it lay in the middle."""
    calibration = LevelCalibration(0.25, 788, field_height=FieldHeight(0.0, 0.05, 788))
    clear_S = np.full(len(SHIFTS), -3.0)
    clear_S[UNSHIFTED] = -0.3
    edge_S = 0.5 - 0.11 * np.array(SHIFTS)
    assert calibration.best(clear_S, edge_S) == UNSHIFTED
    assert calibration.confidence(clear_S, edge_S) > 0.95
