"""The level confidence: chains that are moved by whole levels, their scores, and the calibration of the scores."""

from dataclasses import replace

import numpy as np
import pytest

from data_prep.geometry import Frame
from data_prep.sites import SITES, Condition, Level, View
from data_prep.studies.studies import Series, Slice
from locator.level_evidence import (
    DEFAULT_RULE,
    OTHER_SPINES_RULE,
    SHIFTS,
    UNSHIFTED,
    LevelCalibration,
    ScoreRule,
    fit_level_calibration,
    level_scores,
    shifted,
    true_shift,
)
from locator.network import SAGITTAL_CHANNELS
from locator.slices import SliceImage, SliceTriple

LEVEL_MM = 34.0
#: A straight spine: level k lies 34 mm below level k - 1; left is +x.
SPINE_N3 = np.array(
    [
        [{"left": 16.0, "right": -16.0, None: 0.0}[site.side], 0.0, -LEVEL_MM * list(Level).index(site.level)]
        for site in SITES
    ]
)


def image(x_mm: float, lowest_mm: float = -220.0) -> SliceImage:
    """A sagittal image around the spine, grey above a height and black below it."""
    frame = Frame((x_mm, -80.0, 60.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (2.0, 2.0), (140, 80))
    grey = np.zeros((140, 80), np.uint8)
    grey[: round((60.0 - lowest_mm) / 2)] = 100
    series = Series(1, View.SAGITTAL_T2_STIR, (Slice(1, frame, grey),), ((0,),), (0.0, 1.0))
    return SliceImage(np.stack([grey] * 3), frame, SliceTriple(series, 0, (0, 0, 0)))


def heatmaps(one: SliceImage, seen_levels: int, absent_below: int = 9) -> np.ndarray:
    """Heatmaps that show each landmark `seen_levels` below its place in `SPINE_N3`, where the image shows it."""
    result = np.zeros((len(SAGITTAL_CHANNELS), 140, 80), np.float32)
    for channel, (condition, level) in enumerate(SAGITTAL_CHANNELS):
        index = next(n for n, site in enumerate(SITES) if (site.condition, site.level) == (condition, level))
        place = list(Level).index(level) + seen_levels
        if place <= absent_below and abs(one.frame.distance_mm(SPINE_N3[index])) < 5:
            column, row = one.frame.to_pixel(SPINE_N3[index] - [0.0, 0.0, LEVEL_MM * seen_levels])
            result[channel, round(float(row)), round(float(column))] = 0.9
    for channel, (condition, level) in enumerate(SAGITTAL_CHANNELS):  # the foramina of the other side
        right = [n for n, s in enumerate(SITES) if (s.condition, s.level) == (condition, level) and s.side == "right"]
        for index in right:
            if abs(one.frame.distance_mm(SPINE_N3[index])) < 5:
                column, row = one.frame.to_pixel(SPINE_N3[index] - [0.0, 0.0, LEVEL_MM * seen_levels])
                result[channel, round(float(row)), round(float(column))] = 0.9
    return result


def scores(seen_levels: int) -> np.ndarray:
    images = [image(x_mm) for x_mm in (-16.0, 0.0, 16.0)]
    return level_scores(images, [heatmaps(one, seen_levels) for one in images], SPINE_N3)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_chain_moves_by_whole_levels_and_goes_on_beyond_its_ends(shift: int) -> None:
    np.testing.assert_allclose(shifted(SPINE_N3, shift), SPINE_N3 - [0.0, 0.0, LEVEL_MM * shift])
    assert SHIFTS[true_shift(shifted(SPINE_N3, -shift), SPINE_N3)] == shift
    some = np.where(np.arange(25)[:, None] % 7 == 0, SPINE_N3, np.nan)
    assert SHIFTS[true_shift(shifted(SPINE_N3, -shift) + 3.0, some)] == shift
    assert true_shift(SPINE_N3, np.full((25, 3), np.nan)) is None


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_shift_that_the_heatmaps_show_has_the_best_score(shift: int) -> None:
    found = scores(shift)
    assert SHIFTS[int(np.argmax(found))] == shift
    calibration = LevelCalibration(0.5, 40)
    assert (calibration.confidence(found) > 0.9) is (shift == 0)
    assert calibration.confidence(found) <= 41 / 42


@pytest.mark.parametrize("rule", [OTHER_SPINES_RULE, DEFAULT_RULE])
def test_levels_weigh_more_the_nearer_they_are_to_the_sacrum(rule: ScoreRule) -> None:
    """Slow version: the scores of single channels, each weighted by its level."""
    images = [image(x_mm) for x_mm in (-16.0, 0.0, 16.0)]
    right, high = ([heatmaps(one, seen_levels) for one in images] for seen_levels in (0, -1))
    is_low = np.array([level in (Level.L4_L5, Level.L5_S1) for _, level in SAGITTAL_CHANNELS])
    mixed = [np.where(is_low[:, None, None], own, other) for own, other in zip(right, high, strict=True)]
    expected, total = np.zeros(len(SHIFTS)), 0.0
    for channel, (_, level) in enumerate(SAGITTAL_CHANNELS):
        weight = rule.level_ratio ** (4 - list(Level).index(level))
        expected += weight * level_scores(images, mixed, SPINE_N3, np.arange(len(SAGITTAL_CHANNELS)) == channel, rule)
        total += weight
    found = level_scores(images, mixed, SPINE_N3, rule=rule)
    np.testing.assert_allclose(found, expected / total)
    is_low_first = rule == OTHER_SPINES_RULE
    assert SHIFTS[int(np.argmax(found))] == (0 if is_low_first else -1)  # the two lowest levels decide, or the majority


def test_a_site_is_supported_near_its_position_and_none_rules_out_an_alternative() -> None:
    """A peak 14 mm beside every site supports it within 16 mm and not within 12; an absent peak counts as the floor."""
    one = image(0.0)
    beside = np.roll(heatmaps(one, 0), 7, axis=2)
    near, far = (
        level_scores([one], [beside], SPINE_N3, rule=ScoreRule(1.0, near_mm, 0.01)) for near_mm in (16.0, 12.0)
    )
    assert near[UNSHIFTED] > far[UNSHIFTED] + 1
    absent = np.zeros_like(beside)
    absent[:, 0, 0] = 1.0  # every landmark is surely elsewhere
    canal_C = np.array([condition is Condition.SPINAL_CANAL_STENOSIS for condition, _ in SAGITTAL_CHANNELS])
    for floor in (0.02, 0.002):
        found = level_scores([one], [absent], SPINE_N3, canal_C, ScoreRule(1.0, 12.0, floor))
        assert found[UNSHIFTED] == pytest.approx(np.log(floor))


def test_heatmaps_that_show_nothing_leave_the_count_open() -> None:
    one = image(0.0)
    blank = level_scores([one], [np.zeros((len(SAGITTAL_CHANNELS), 140, 80), np.float32)], SPINE_N3)
    assert LevelCalibration(0.5, 40).confidence(blank) < 0.6
    assert LevelCalibration(0.5, 40).confidence(level_scores([], [], SPINE_N3)) == pytest.approx(1 / len(SHIFTS))


def test_an_image_that_ends_early_supports_the_alternatives_more() -> None:
    """Where the lowest levels are black, one level further down cannot be ruled out by them."""
    whole, cut = (image(0.0, lowest_mm) for lowest_mm in (-220.0, -150.0))
    seen = heatmaps(whole, 0)
    found = [level_scores([one], [seen], SPINE_N3) for one in (whole, cut)]
    gap = [score[UNSHIFTED] - score[SHIFTS.index(1)] for score in found]
    assert gap[1] <= gap[0]


def test_the_temperature_calibrates_the_confidence() -> None:
    """Of studies with a confidence of 0.9, some 90 % have the right levels, also in studies that were not fitted."""
    random = np.random.default_rng(3)

    def draw(studies: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        score_KS = random.normal(0.0, 0.3, (studies, len(SHIFTS)))
        score_KS[:, UNSHIFTED] += 1.0
        power = np.exp(score_KS / temperature)
        prob_KS = power / power.sum(axis=1, keepdims=True)
        return score_KS, np.array([random.choice(len(SHIFTS), p=row) for row in prob_KS])

    for temperature in (0.2, 0.4, 0.8):
        calibration = fit_level_calibration(*draw(400, temperature))
        assert calibration is not None and calibration.temperature == pytest.approx(temperature, rel=0.2)
        new, true = draw(4000, temperature)
        confidence = np.array([calibration.confidence(score_S) for score_S in new])
        own = np.abs(confidence - 0.9) < 0.05
        if own.sum() > 100:
            assert np.mean(true[own] == UNSHIFTED) == pytest.approx(confidence[own].mean(), abs=0.05)


def test_a_locator_that_errs_in_one_direction_is_corrected() -> None:
    """Fitted log odds are those that the studies were drawn with, and choose the right levels more often."""
    random = np.random.default_rng(5)
    odds, temperature = np.array([-2.0, -1.5, 0.0, 1.0, -2.0]), 0.3

    def draw(studies: int) -> tuple[np.ndarray, np.ndarray]:
        score_KS = random.normal(0.0, 0.4, (studies, len(SHIFTS)))
        score_KS[:, UNSHIFTED] += 0.3
        power = np.exp(score_KS / temperature + odds)
        return score_KS, np.array([random.choice(len(SHIFTS), p=row / row.sum()) for row in power])

    score_KS, true_K = draw(3000)
    calibration = fit_level_calibration(score_KS, true_K, with_log_odds=True)
    assert calibration is not None and calibration.has_direction and calibration.is_valid
    assert calibration.temperature == pytest.approx(temperature, rel=0.1)
    assert np.array(calibration.log_odds_S) == pytest.approx(odds, abs=0.3)
    score_KS, true_K = draw(3000)
    best_K = np.array([calibration.best(score_S) for score_S in score_KS])
    confidence = [calibration.confidence(score_S, chosen=best) for score_S, best in zip(score_KS, best_K, strict=True)]
    assert np.mean(confidence) == pytest.approx(np.mean(best_K == true_K), abs=0.03)
    assert np.mean(best_K == true_K) > np.mean(score_KS.argmax(axis=1) == true_K) + 0.05
    undirected = fit_level_calibration(score_KS, true_K)
    assert undirected is not None and not undirected.has_direction


def test_a_few_right_studies_do_not_make_it_certain() -> None:
    assert fit_level_calibration([], []) is None
    for studies in (1, 3, 10):
        calibration = fit_level_calibration([scores(0)] * studies, [UNSHIFTED] * studies)
        assert calibration is not None
        assert calibration.confidence(scores(0)) <= (studies + 1) / (studies + 2)
        assert calibration.confidence(scores(1)) < 0.5
    assert replace(calibration, studies=1).confidence(scores(0)) <= 2 / 3
