"""The evidence for the count of levels: how well the heatmaps agree with the located chain, moved by whole levels.

A locator's largest error is a chain of levels that lies one level too high or too low. Every such chain is an
alternative with the same shape: at a shift of +1, each level lies where the next lower one was located. Its score is
the weighted mean logarithm of the probabilities that the heatmaps give its sites. A softmax of the scores, whose
temperature is fitted to studies that the locator did not learn from, is the probability of each shift; that of the
chosen one is the level confidence. Where it is known how high spines lie in the field of view (`field_height`), that
gives each shift a prior probability.

Dimensions: S shifts, N = 25 sites, K studies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Array
from data_prep.sites import SITES, Level
from locator.network import SAGITTAL_CHANNELS
from locator.slices import DARK_GREY, SliceImage

#: The alternatives, in levels; a positive shift is towards the sacrum.
SHIFTS = (-2, -1, 0, 1, 2)
UNSHIFTED = SHIFTS.index(0)
#: The log odds of a locator that errs in neither direction more than its scores say.
NO_DIRECTION = (0.0,) * len(SHIFTS)
#: The logarithms of equal prior probabilities.
NO_PRIOR_S = np.zeros(len(SHIFTS))
#: A site of an alternative is supported by slices this near to its position.
NEAR_ACROSS_MM = 8.0
#: Temperatures that are tried.
TEMPERATURES = np.geomspace(0.02, 20.0, 121)
#: Steps of fitting the log odds of the shifts.
LOG_ODDS_STEPS = 100

_LEVEL_N = np.array([list(Level).index(site.level) for site in SITES])
_LEVEL_C = np.array([list(Level).index(level) for _, level in SAGITTAL_CHANNELS])
#: The sites of each sagittal channel: one of the canal, or the foramina of both sides.
_SITES_OF_CHANNEL = [
    [index for index, site in enumerate(SITES) if (site.condition, site.level) == channel]
    for channel in SAGITTAL_CHANNELS
]


@dataclass(frozen=True)
class ScoreRule:
    """How heatmaps become scores. A calibration belongs to one rule.

    Attributes:
        level_ratio: The weight of a level's sites, as a share of the next lower level's.
        near_mm: A site is supported by the heatmap this near to its position within a slice; less than half of the
            distance between levels, which is about 35 mm.
        min_support: The smallest probability that a heatmap gives a site: no single site rules out an alternative.
        height_weight: The weight of the height in the field of view (`field_height`), as a power of its probabilities.
            A study whose lower end is cut off has a field that was planned too high: the full weight would then
            outweigh the heatmaps.
    """

    level_ratio: float = 1.0
    near_mm: float = 12.0
    min_support: float = 0.02
    height_weight: float = 0.25

    @property
    def is_valid(self) -> bool:
        """Whether its numbers are possible."""
        is_score_valid = 0 < self.level_ratio <= 1 and 0 < self.near_mm < np.inf and 0 < self.min_support < 1
        return is_score_valid and 0 <= self.height_weight <= 1


#: The rule of a locator that is used on spines like those it was trained on.
DEFAULT_RULE = ScoreRule()
#: The rule of a locator that is used on other spines: what its heatmaps tell of a level is less certain the more levels
#: it had to count from the sacrum, and their peaks lie further beside the sites.
OTHER_SPINES_RULE = ScoreRule(level_ratio=0.4, near_mm=16.0, min_support=0.002, height_weight=0.5)


@dataclass(frozen=True)
class LevelCalibration:
    """The relation of scores to probabilities, from held-out studies.

    Attributes:
        temperature: The scores are divided by it.
        studies: The number of studies that it was fitted to.
        log_odds_S: What is added to them then: the logarithm of how much more often each shift is the true one than its
            score says. A locator that was trained on other spines may err in one direction.
    """

    temperature: float
    studies: int
    log_odds_S: tuple[float, ...] = NO_DIRECTION

    @property
    def is_valid(self) -> bool:
        """Whether its numbers are possible."""
        is_complete = len(self.log_odds_S) == len(SHIFTS) and bool(np.isfinite(self.log_odds_S).all())
        return self.temperature > 0 and self.studies > 0 and is_complete

    def to_json(self) -> dict[str, Any]:
        """Return its numbers, as `read_level_calibration` reads them."""
        return {
            "temperature": round(self.temperature, 5),
            "studies": self.studies,
            "log_odds": np.round(self.log_odds_S, 4).tolist(),
        }

    @property
    def has_direction(self) -> bool:
        """Whether it prefers a shift whatever the scores are; it was then fitted to complete studies only."""
        return self.log_odds_S != NO_DIRECTION

    def best(self, score_S: Array, prior_S: Array = NO_PRIOR_S) -> int:
        """Return the index of the most probable shift; the arguments are those of `probability`."""
        return int(np.argmax(self.probability(score_S, prior_S)))

    def confidence(self, score_S: Array, prior_S: Array = NO_PRIOR_S, chosen: int = UNSHIFTED) -> float:
        """Return the probability that a shift is the true one: by default, that the levels are counted rightly.

        It is at most (n + 1) / (n + 2), the probability after n right counts: n held-out studies show no more.
        """
        return min(float(self.probability(score_S, prior_S)[chosen]), (self.studies + 1) / (self.studies + 2))

    def probability(self, score_S: Array, prior_S: Array = NO_PRIOR_S) -> Array:
        """Return the probability of each shift, (..., S).

        Args:
            score_S: The scores of `level_scores`.
            prior_S: The logarithm of the prior probability of each shift, up to a constant.
        """
        return _softmax(score_S / self.temperature + prior_S + np.array(self.log_odds_S))


#: Weighs the scores of a locator that is not calibrated yet: its temperature is near those that were fitted.
UNCALIBRATED = LevelCalibration(temperature=0.3, studies=1)


def read_score_rule(content: Mapping[str, Any]) -> ScoreRule:
    """Read the score rule of a locator.json; older ones do not tell the weight of the height, or the ratio only.

    Raises:
        KeyError, TypeError, ValueError: It is damaged.
    """
    told = content.get("score_rule")
    if told is None:
        rule = ScoreRule(level_ratio=float(content.get("level_ratio", DEFAULT_RULE.level_ratio)), height_weight=1.0)
    else:
        told = {"height_weight": 1.0, **told}
        rule = ScoreRule(**{one.name: float(told[one.name]) for one in fields(ScoreRule)})
    if not rule.is_valid:
        raise ValueError(
            f"level_ratio is {rule.level_ratio}, near_mm {rule.near_mm}, min_support {rule.min_support}, "
            f"height_weight {rule.height_weight}; the first three should be positive, the first at most 1, the third "
            "below 1, and the last from 0 to 1"
        )
    return rule


def read_level_calibration(content: Mapping[str, Any] | None) -> LevelCalibration | None:
    """Read what `LevelCalibration.to_json` returned; None for None, as in older locators.

    Raises:
        KeyError, TypeError, ValueError: It is damaged.
    """
    if content is None:
        return None
    odds = tuple(float(number) for number in content.get("log_odds", NO_DIRECTION))
    calibration = LevelCalibration(float(content["temperature"]), int(content["studies"]), odds)
    if not calibration.is_valid:
        raise ValueError(f"the calibration of the level confidence is {content}; its numbers should be positive")
    return calibration


def level_scores(
    images: Sequence[SliceImage],
    heatmaps: Sequence[npt.NDArray[np.float32]],
    position_N3: Array,
    known_C: npt.NDArray[np.bool_] | None = None,
    rule: ScoreRule = DEFAULT_RULE,
) -> Array:
    """Return the score of each shift, (S,).

    Args:
        images: The sagittal images.
        heatmaps: The heatmaps of each image, (C, H, W).
        position_N3: The located positions, mm.
        known_C: The channels that count; None for all.
        rule: How heatmaps become scores.
    """
    channels = np.arange(len(SAGITTAL_CHANNELS)) if known_C is None else np.flatnonzero(known_C)
    weight_C = rule.level_ratio ** -_LEVEL_C[channels].astype(float)
    weight_C /= weight_C.sum()
    shifted_SN3 = alternatives(position_N3)
    scores_of_series = []
    for series_id in sorted({image.slices.series.series_id for image in images}):
        own = [number for number, image in enumerate(images) if image.slices.series.series_id == series_id]
        scores_of_series.append(
            _series_scores([images[n] for n in own], [heatmaps[n] for n in own], shifted_SN3, channels, weight_C, rule)
        )
    return np.mean(scores_of_series, axis=0) if scores_of_series else np.zeros(len(SHIFTS))


def alternatives(position_N3: Array) -> Array:
    """Return the positions of a chain at each shift, (S, N, 3)."""
    return np.array([shifted(position_N3, shift) for shift in SHIFTS])


def shifted(position_N3: Array, shift: int) -> Array:
    """Return the positions of a chain that is moved by a number of levels.

    Beyond its ends the chain goes on as between its last two levels.
    """
    result = np.empty_like(position_N3)
    last = len(Level) - 1
    for index, level in enumerate(_LEVEL_N):
        chain_L3 = position_N3[index - level : index - level + last + 1]  # `SITES` has the levels of a site in a row
        target = level + shift
        inside = int(np.clip(target, 0, last))
        beyond = target - inside
        step = chain_L3[1] - chain_L3[0] if beyond < 0 else chain_L3[last] - chain_L3[last - 1]
        result[index] = chain_L3[inside] + beyond * step
    return result


def _series_scores(
    images: Sequence[SliceImage],
    heatmaps: Sequence[npt.NDArray[np.float32]],
    shifted_SN3: Array,
    channels: npt.NDArray[np.intp],
    weight_C: Array,
    rule: ScoreRule,
) -> Array:
    distance_ISN = np.abs([image.frame.distance_mm(shifted_SN3) for image in images])
    pixel_ISN2 = np.array([image.frame.to_pixel(shifted_SN3) for image in images])
    total_CI = np.array([heatmap_CHW.sum(axis=(1, 2)) for heatmap_CHW in heatmaps]).T
    radius = round(rule.near_mm / images[0].frame.spacing_mm[0])
    scores = np.zeros(len(SHIFTS))
    for channel, weight in zip(channels.tolist(), weight_C.tolist(), strict=True):
        sites = _SITES_OF_CHANNEL[channel]
        for site in sites:
            for shift in range(len(SHIFTS)):
                found = [
                    float(heatmaps[number][channel][window].sum())
                    for number in np.flatnonzero(distance_ISN[:, shift, site] <= NEAR_ACROSS_MM).tolist()
                    if (
                        images[number].grey_3HW[1][window := _window(pixel_ISN2[number, shift, site], radius)]
                        > DARK_GREY
                    ).any()
                ]
                if found:
                    support = max(found)
                else:  # the alternative puts the site off the images: no image should then show it
                    support = 1.0 - float(total_CI[channel].max())
                scores[shift] += weight * np.log(max(support, rule.min_support)) / len(sites)
    return scores


def _window(pixel: Array, radius: int) -> tuple[slice, slice]:
    column, row = (round(float(number)) for number in pixel)
    rows, columns = (slice(max(0, middle - radius), max(0, middle + radius + 1)) for middle in (row, column))
    return rows, columns


def true_shift(position_N3: Array, marked_N3: Array) -> int | None:
    """Return the index in `SHIFTS` of the shift that brings a located chain nearest to the marks.

    None without marks.
    """
    distances = [np.linalg.norm(shifted(position_N3, shift) - marked_N3, axis=1) for shift in SHIFTS]
    if not np.isfinite(distances[0]).any():
        return None
    return int(np.argmin([np.nanmedian(distance) for distance in distances]))


def fit_level_calibration(
    score_KS: Sequence[Array],
    true_K: Sequence[int],
    *,
    prior_KS: Sequence[Array] | None = None,
    with_log_odds: bool = False,
) -> LevelCalibration | None:
    """Fit the temperature by maximum likelihood; None without studies.

    One more study, of average scores and a level off, is added, because few held-out studies have wrong levels: the
    temperature would otherwise be 0 if none of them has.

    Args:
        score_KS: The scores of each study.
        true_K: The index of its true shift.
        prior_KS: The logarithms of the prior probabilities of its shifts; None if all are alike.
        with_log_odds: Whether to fit the log odds of the shifts too. Each shift then counts one more study (Laplace):
            none is impossible.
    """
    if not len(score_KS):
        return None
    average_S = np.mean(score_KS, axis=0)
    others = [shift for shift in range(len(SHIFTS)) if shift != UNSHIFTED]
    second = max(others, key=lambda shift: float(average_S[shift]))
    scores, true = np.vstack([score_KS, average_S]), np.array([*true_K, second])
    priors = np.zeros(scores.shape)
    if prior_KS is not None:
        priors[:-1] = prior_KS
    candidates = [
        LevelCalibration(
            float(temperature), len(score_KS), _log_odds(scores / temperature + priors, true, with_log_odds)
        )
        for temperature in TEMPERATURES
    ]
    return max(candidates, key=lambda candidate: _likelihood(candidate, scores, priors, true))


def _likelihood(calibration: LevelCalibration, score_KS: Array, prior_KS: Array, true_K: npt.NDArray[np.intp]) -> float:
    probability_KS = calibration.probability(score_KS, prior_KS)
    return float(np.log(np.maximum(probability_KS[np.arange(len(true_K)), true_K], 1e-12)).sum())


def _log_odds(logit_KS: Array, true_K: npt.NDArray[np.intp], is_fitted: bool) -> tuple[float, ...]:
    """Return the log odds, 0 for no shift, under which the mean probability of each shift is its frequency.

    They maximise the likelihood at a given temperature. They are found by iterative proportional fitting (Deming and
    Stephan 1940).
    """
    log_odds_S = np.zeros(len(SHIFTS))
    if is_fitted:
        frequency_S = np.bincount(true_K, minlength=len(SHIFTS)) + 1.0
        frequency_S /= frequency_S.sum()
        for _ in range(LOG_ODDS_STEPS):
            log_odds_S += np.log(frequency_S / np.maximum(_softmax(logit_KS + log_odds_S).mean(axis=0), 1e-12))
        log_odds_S -= log_odds_S[UNSHIFTED]
    return tuple(log_odds_S.tolist())


def _softmax(score: Array) -> Array:
    power = np.exp(score - score.max(axis=-1, keepdims=True))
    result: Array = power / power.sum(axis=-1, keepdims=True)
    return result
