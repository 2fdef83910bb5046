"""The height of a chain of levels in the field of view, and what it tells of the count of levels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.geometry import Frame
from data_prep.sites import SITES, Condition, Level
from locator.field_height import (
    LONGEST_FIELD_MM,
    MIN_DEVIATION,
    MIN_STUDIES,
    FieldHeight,
    heights,
    learn_field_height,
    read_field_height,
)
from locator.level_evidence import SHIFTS, UNSHIFTED, LevelCalibration, fit_level_calibration, shifted
from locator.marked_studies import MarkedStudy

LEVEL_MM = 34.0
FRAME_COLUMNS = [
    *(f"{name}_{axis}{unit}" for name, unit in (("position", "_mm"), ("row", ""), ("column", "")) for axis in "xyz"),
    *("spacing_row_mm", "spacing_column_mm", "rows", "columns"),
]
#: A straight spine, whose middle level lies at z = 0.
SPINE_N3 = np.array([[0.0, 0.0, LEVEL_MM * (2 - list(Level).index(site.level))] for site in SITES])
CHAINS_SN3 = np.array([shifted(SPINE_N3, shift) for shift in SHIFTS])
#: The height of each shift is the mean of 25 positions in a field of 300 mm whose middle lies 10 mm below the spine's.
HEIGHT_S = np.array([(position_N3[:, 2].sum() / 25 + 10.0) / 300 for position_N3 in CHAINS_SN3])


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
    np.testing.assert_allclose(heights([[frame]], CHAINS_SN3), HEIGHT_S)


def test_heights_of_several_series_are_averaged_and_long_fields_left_out() -> None:
    """A field of the whole spine is not centred on its lumbar part. Every series counts once, however many slices."""
    first, second, whole = upright(), upright(rows=240, middle_mm=0.0), upright(rows=int(LONGEST_FIELD_MM) + 1)
    expected = (HEIGHT_S + CHAINS_SN3[:, :, 2].mean(axis=1) / 240) / 2
    np.testing.assert_allclose(heights([[first, first], [second], [], [whole]], CHAINS_SN3), expected)
    assert np.isnan(heights([[whole]], CHAINS_SN3)).all() and np.isnan(heights([], CHAINS_SN3)).all()


def test_the_log_density_is_that_of_students_t_and_unknown_heights_tell_nothing() -> None:
    from scipy.stats import t as student_t

    height = FieldHeight(-0.01, 0.05, 40)
    values = np.linspace(-0.4, 0.4, 33)
    exact = student_t.logpdf(values, 5, -0.01, 0.05) - student_t.logpdf(-0.01, 5, -0.01, 0.05)
    np.testing.assert_allclose(height.log_density(values), exact)
    assert np.array_equal(height.log_density(np.array([np.nan, -0.01])), [0.0, 0.0])


def marked(study_id: int, height: float, sites: np.ndarray, view: str = "sagittal_t1") -> MarkedStudy:
    """A study of one slice, some of whose sites are marked, with its spine at a height of its field of 300 mm."""
    frame = upright(middle_mm=-300 * height)
    position_N3 = np.where(sites[:, None], SPINE_N3, np.nan)
    numbers = (*frame.position_mm, *frame.row_direction, *frame.column_direction, *frame.spacing_mm, *frame.shape)
    columns = {
        "study_id": study_id,
        "series_id": 7,
        "instance_number": 1,
        "image": "1.png",
        "view": view,
        "stack": 0,
        **dict(zip(FRAME_COLUMNS, numbers, strict=True)),
        "window_low": 0.0,
        "window_high": 1.0,
    }
    lines = ",".join(columns) + "\n" + ",".join(str(value) for value in columns.values()) + "\n"
    return MarkedStudy(study_id, 0, lines, position_N3)


def test_heights_are_learned_from_whichever_sites_are_marked() -> None:
    """Slow version: the heights that the studies were laid out with. Foramina of three levels show the same middle."""
    random = np.random.default_rng(1)
    everything = np.ones(len(SITES), dtype=bool)
    some = np.array(
        [site.condition is Condition.NEURAL_FORAMINAL_NARROWING and site.level in list(Level)[1:4] for site in SITES]
    )
    drawn = random.normal(0.02, 0.06, 60)
    studies = [marked(number, height, (everything, some)[number % 2]) for number, height in enumerate(drawn)]
    learned = learn_field_height(studies, Path(), SPINE_N3)
    assert learned == FieldHeight(pytest.approx(drawn.mean()), pytest.approx(drawn.std(ddof=1)), 60)
    one_level = np.array([site.level is Level.L5_S1 for site in SITES])
    silent = [marked(97, 0.3, one_level), marked(98, 0.3, everything, "axial_t2"), marked(99, 0.3, ~everything)]
    assert learn_field_height([*studies, *silent], Path(), SPINE_N3) == learned
    assert learn_field_height(studies[: MIN_STUDIES - 1], Path(), SPINE_N3) is None
    narrow = learn_field_height([marked(number, 0.1, everything) for number in range(MIN_STUDIES)], Path(), SPINE_N3)
    assert narrow is not None and narrow.deviation == MIN_DEVIATION


def test_damaged_lines_are_named() -> None:
    study = marked(5, 0.0, np.ones(len(SITES), dtype=bool))
    damaged = replace(study, lines=study.lines.replace("sagittal_t1", "sideways"))
    with pytest.raises(ValueError, match=r"somewhere/slices\.csv: study 5: damaged \(.*sideways"):
        learn_field_height([damaged], Path("somewhere"), SPINE_N3)


def test_a_distribution_is_kept_in_json_and_a_damaged_one_refused() -> None:
    height = FieldHeight(-0.0144, 0.0532, 786)
    content = height.to_json()
    assert read_field_height(json.loads(json.dumps(content))) == height and read_field_height(None) is None
    for damaged in ({"deviation": 0.0}, {"studies": 0}, {"mean": float("nan")}, {"mean": "high"}):
        with pytest.raises(ValueError, match=r"field_height is|could not convert"):
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
    height = FieldHeight(-0.01, 0.05, 3000)
    plain = fit_level_calibration(score_KS, true_K, with_log_odds=True)
    priors = height.log_density(height_KS)
    fitted = fit_level_calibration(score_KS, true_K, prior_KS=list(priors), with_log_odds=True)
    assert plain is not None and fitted is not None
    score_KS, true_K, height_KS = draw(3000)
    evidence = list(zip(score_KS, height.log_density(height_KS), strict=True))
    by_scores = np.array([plain.best(score_S) for score_S in score_KS])
    by_both = np.array([fitted.best(*one) for one in evidence])
    assert np.mean(by_both == true_K) > np.mean(by_scores == true_K) + 0.03
    confidence = [fitted.confidence(*one, chosen=best) for one, best in zip(evidence, by_both.tolist(), strict=True)]
    assert np.mean(confidence) == pytest.approx(np.mean(by_both == true_K), abs=0.02)


def test_no_field_outweighs_clear_heatmaps() -> None:
    """The spine lies at the very edge of the field; in all marked studies it lay in the middle."""
    calibration, height = LevelCalibration(0.25, 788), FieldHeight(0.0, 0.05, 788)
    clear_S = np.full(len(SHIFTS), -3.0)
    clear_S[UNSHIFTED] = -0.3
    edge_S = height.log_density(0.5 - 0.11 * np.array(SHIFTS))
    assert calibration.best(clear_S, edge_S) == UNSHIFTED
    assert calibration.confidence(clear_S, edge_S) > 0.95
