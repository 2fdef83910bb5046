"""Calibration of a locator on held-out studies, and its errors on them.

`calibrate` measures, on studies that the locator was not trained on, the deviation of each kind of detection from the
marks, the ratio of the true error to the posterior's deviation, and the temperature of the level confidence, which
chooses between chains of levels.
`locate_cross_fitted` calibrates on one half of these studies and locates the other half, so that reported errors come
from studies that were not calibrated on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.pose import Pose
from data_prep.sites import SITES, Condition
from data_prep.studies.studies import Study
from locator.cut_off import lower_end_cut_off
from locator.detections import DEFAULT_DEVIATIONS_MM, DETECTION_KINDS, Detection
from locator.errors import PositionErrors
from locator.level_count import LevelCount
from locator.level_evidence import UNSHIFTED, LevelCalibration, fit_level_calibration, true_shift
from locator.locator import LocatedStudy, Locator
from locator.marked_studies import MarkedStudy

#: Standard deviations are measured from at least this many detections, and have this lower bound (mm).
MIN_DETECTIONS, MIN_DEVIATION_MM = 20, 0.6
#: Median absolute deviation -> standard deviation of a normal distribution.
MAD_TO_DEVIATION = 1.4826
#: Median over mean of the squared distance for three independent, equally distributed normal coordinates: the median of
#: chi-squared with 3 degrees of freedom, 2.366, over its mean, 3.
MEDIAN_OVER_MEAN = 2.366 / 3
#: Bounds of the error scale: a few sites cannot make it absurd.
MIN_SCALE, MAX_SCALE = 0.5, 4.0

_CONDITION_N = np.array([site.condition for site in SITES])


@dataclass(frozen=True)
class HeldOutStudy:
    """A held-out study's marks, and the networks' output on it.

    Attributes:
        study_id: Its id.
        marked_N3: Marked positions in mm, NaN where unmarked.
        pose: The approximate pose; None if no image has geometry.
        detections: The detections in all its series.
        count: What the study shows of the count of its levels.
        cut_off: Whether this is a copy whose lower end was cut off (`lower_end_cut_off`). Such copies show how often
            levels are miscounted; no other statistic is of them.
    """

    study_id: int
    marked_N3: Array
    pose: Pose | None
    detections: tuple[Detection, ...]
    count: LevelCount
    cut_off: bool = False

    def locate(self, locator: Locator) -> LocatedStudy | None:
        """Locate the sites on the chain of levels that was found, without running the networks again."""
        if self.pose is None:
            return None
        posterior = locator.fuse(self.pose, self.detections)
        return locator.with_expected_errors(posterior, self.detections, self.count)


def detect_held_out(locator: Locator, marked: MarkedStudy, processed: Path) -> list[HeldOutStudy]:
    """Run a locator's networks on a study that it was not trained on, and on its copy without the lower end."""
    study = marked.read(processed)
    return [detect_in(locator, marked, study, is_cut_off=is_cut_off) for is_cut_off in (False, True)]


def detect_in(locator: Locator, marked: MarkedStudy, study: Study, is_cut_off: bool = False) -> HeldOutStudy:
    """Run a locator's networks on a study, or on a copy of it without the lower end; `marked` has its marks."""
    pose, detections, count = locator.detect(lower_end_cut_off(study, marked.position_N3) if is_cut_off else study)
    return HeldOutStudy(marked.study_id, marked.position_N3, pose, tuple(detections), count, is_cut_off)


def as_it_would_locate(
    calibrated: Locator, study: HeldOutStudy, studies: Sequence[MarkedStudy], processed: Path
) -> HeldOutStudy:
    """Return a study with the chain of levels that a calibrated locator chooses in it.

    Args:
        calibrated: The locator.
        study: What the locator found before it was calibrated. It runs again only if it moves the chain.
        studies: The held-out studies.
        processed: The folder ``processed_data`` that they are from.
    """
    calibration, count = calibrated.level_calibration, study.count
    if calibration is None or count.score_S is None or calibration.best(count.score_S, count.prior_S) == UNSHIFTED:
        return study
    marked = next(one for one in studies if one.study_id == study.study_id)
    return detect_in(calibrated, marked, marked.read(processed), study.cut_off)


def calibrate(
    locator: Locator,
    held_out: Sequence[HeldOutStudy],
    *,
    fixed_deviations: bool = False,
    with_direction: bool = False,
) -> Locator:
    """Return the locator with the calibration that was measured on held-out studies and their copies.

    Args:
        locator: It.
        held_out: What it found in the studies while it had no level calibration, which would have moved chains.
        fixed_deviations: Whether the deviations of detections stay as they are.
        with_direction: Whether to measure in which direction it miscounts the levels of complete studies, too.
    """
    # What a wrong count of levels costs is told by the level confidence alone.
    complete = [study for study in held_out if not study.cut_off and not _is_miscounted(locator, study)]
    deviations = locator.deviation_mm if fixed_deviations else _deviations(complete)
    measured = replace(locator, deviation_mm=deviations, error_scale=dict.fromkeys(Condition, 1.0))
    scaled = replace(measured, error_scale=_error_scales(measured, complete))
    return replace(scaled, level_calibration=_level_calibration(scaled, held_out, with_direction))


def _is_miscounted(locator: Locator, study: HeldOutStudy) -> bool:
    located = study.locate(locator)
    return located is not None and true_shift(located.position_N3, study.marked_N3) not in (None, UNSHIFTED)


def _level_calibration(
    locator: Locator, held_out: Sequence[HeldOutStudy], with_direction: bool
) -> LevelCalibration | None:
    scores, priors, shifts = [], [], []
    for study in held_out:
        if study.cut_off and with_direction:
            continue
        located = study.locate(locator)
        shift = None if located is None else true_shift(located.position_N3, study.marked_N3)
        if shift is not None and study.count.score_S is not None:
            scores.append(study.count.score_S)
            priors.append(study.count.prior_S)
            shifts.append(shift)
    return fit_level_calibration(scores, shifts, prior_KS=priors, with_log_odds=with_direction)


def level_reliability(
    results: Sequence[tuple[HeldOutStudy, LocatedStudy | None]], bins: Sequence[float] = (0.0, 0.5, 0.8, 0.95, 1.0)
) -> list[tuple[float, float, int]]:
    """Compare level confidences with the share of right levels.

    Returns:
        Per bin of level confidence that holds a study: the mean confidence, the share of studies whose levels are
        right, and the number of studies.
    """
    known = [
        (located.level_confidence, true_shift(located.position_N3, study.marked_N3) == UNSHIFTED)
        for study, located in results
        if located is not None and located.level_confidence is not None and np.isfinite(study.marked_N3).any()
    ]
    confidence, is_right = (np.array([pair[n] for pair in known], dtype=float) for n in range(2))
    bin_of = np.digitize(confidence, bins[1:-1])
    return [
        (float(confidence[own].mean()), float(is_right[own].mean()), int(own.sum()))
        for own in (bin_of == number for number in range(len(bins) - 1))
        if own.any()
    ]


def locate_cross_fitted(
    locator: Locator, held_out: Sequence[HeldOutStudy], studies: Sequence[MarkedStudy], processed: Path
) -> list[tuple[HeldOutStudy, LocatedStudy | None]]:
    """Locate each study by a locator that was calibrated on the other half; the results are sorted by study id.

    The arguments are those of `calibrate` and `as_it_would_locate`.
    """
    ids = sorted({study.study_id for study in held_out})
    halves = [[study for study in held_out if study.study_id in set(ids[half::2])] for half in range(2)]
    results = []
    for own, other in (halves, halves[::-1]):
        calibrated = calibrate(locator, other) if other else locator
        chosen = [as_it_would_locate(calibrated, study, studies, processed) for study in own]
        results += [(study, study.locate(calibrated)) for study in chosen]
    return sorted(results, key=lambda result: result[0].study_id)


def position_errors(results: Sequence[tuple[HeldOutStudy, LocatedStudy | None]]) -> PositionErrors:
    """Compare located positions with the marks."""
    no_positions, no_errors = np.full((len(SITES), 3), np.nan), np.full(len(SITES), np.nan)
    return PositionErrors(
        np.array([located.position_N3 if located else no_positions for _, located in results]),
        np.array([study.marked_N3 for study, _ in results]),
        np.array([located.total_error_N if located else no_errors for _, located in results]),
    )


def _deviations(held_out: Sequence[HeldOutStudy]) -> dict[str, Array]:
    residuals_of: dict[str, list[Array]] = {kind: [] for kind in DETECTION_KINDS}
    for study in held_out:
        for detection in study.detections:
            residual = detection.position_mm - study.marked_N3[detection.index]
            if np.isfinite(residual).all():
                residuals_of[detection.kind].append(residual)
    return {
        kind: np.maximum(MAD_TO_DEVIATION * np.median(np.abs(residuals), axis=0), MIN_DEVIATION_MM)
        if len(residuals) >= MIN_DETECTIONS
        else DEFAULT_DEVIATIONS_MM[kind]
        for kind, residuals in residuals_of.items()
    }


def _error_scales(locator: Locator, held_out: Sequence[HeldOutStudy]) -> dict[Condition, float]:
    ratios_of: dict[Condition, list[float]] = {condition: [] for condition in Condition}
    for study in held_out:
        located = study.locate(locator)
        if located is None or study.count.error_mm:
            continue
        squared_N = np.sum((located.position_N3 - study.marked_N3) ** 2, axis=1) / located.expected_error_N**2
        for condition, ratio in zip(_CONDITION_N, squared_N, strict=True):
            if np.isfinite(ratio):
                ratios_of[condition].append(ratio)
    return {condition: _error_scale(ratios) for condition, ratios in ratios_of.items()}


def _error_scale(squared_ratios: Sequence[float]) -> float:
    """Return the ratio of true to expected error, from the median of the squared ratios; 1 if there are too few.

    The mean would be dominated by a few sites far from their marks, and describe no other study.
    """
    if len(squared_ratios) < MIN_DETECTIONS:
        return 1.0
    return float(np.clip(np.sqrt(np.median(squared_ratios) / MEDIAN_OVER_MEAN), MIN_SCALE, MAX_SCALE))
