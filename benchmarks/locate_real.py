"""Measure how well sites are placed in the real studies of a marked cohort, by the shipped atlas and by locators.

    python -m benchmarks.locate_real --root REAL --locators shipped
    python -m benchmarks.locate_real --root REAL --locators OLD/train/checkpoints/locator/final --studies 120
    python -m benchmarks.locate_real --root REAL --locators REAL/train/checkpoints/locator/final --folds 0
    python -m benchmarks.locate_real --root REAL --locators shipped --cut_off true
    python -m benchmarks.locate_real --root WHOLE --by_level true

REAL is a data root whose marked train split prepare_data.py has converted. Every study is placed as if it had no marks,
by each placer, and the positions are compared with the marks. Only figures are printed. A study has the right levels
if no shift of its located sites by whole levels brings them nearer to its marks. Errors are those within the sagittal
plane: the position across it is limited by the distance between slices. With --by_level the errors of each study are
printed by level. It takes about a tenth of a second per study of four slices, and a second per complete study.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.machine import describe_machine
from data_prep.geometry import Array
from data_prep.placement.placer import Placer
from data_prep.placement.regions import points_of
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Condition, Level
from locator.cut_off import lower_end_cut_off
from locator.files import SHIPPED, SHIPPED_LOCATOR
from locator.level_evidence import SHIFTS, true_shift
from locator.marked_studies import MarkedStudy, draw_marked_studies
from locator.site_placer import make_placer
from workspace.cli import run_command
from workspace.layout import data_root
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.locate_real"
#: Bounds of the bins of level confidence.
CONFIDENCES = (0.0, 0.5, 0.7, 0.85, 0.95, 1.0)
RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the benchmark of placing sites in real studies."""

    root: str
    """The data root, with a marked train split that prepare_data.py has converted."""
    locators: tuple[str, ...] = ()
    """The folders final/ of locators to compare with the shipped atlas, or shipped for the one of the program."""
    folds: tuple[NonNegativeInteger, ...] = ()
    """The folds whose studies are placed. By default all."""
    studies: PositiveInteger | None = None
    """The number of studies to place, drawn at random. By default all."""
    seed: NonNegativeInteger = 0
    """The seed of that draw."""
    by_level: bool = False
    """Print the errors of each study by level."""
    cut_off: bool = False
    """Place copies of the studies whose sagittal images end at about their lowest level, without the sacrum."""


@dataclass(frozen=True)
class Placed:
    """The placed sites of one study: positions, marks, expected errors and level confidence; NaN where unknown."""

    position_N3: Array
    marked_N3: Array
    expected_error_N: Array
    level_confidence: float

    @property
    def error_N(self) -> Array:
        """Errors within the sagittal plane, mm; infinite where a marked site was not placed."""
        distance = np.linalg.norm((self.position_N3 - self.marked_N3)[:, 1:], axis=1)
        return np.where(np.isfinite(self.marked_N3[:, 1]) & np.isnan(distance), np.inf, distance)

    @property
    def shift(self) -> int:
        """How many levels the sites lie too low; 0 if the levels are right."""
        # The marks' x is not compared: a level is a matter of height.
        position, marked = (np.where([False, True, True], points, 0.0) for points in (self.position_N3, self.marked_N3))
        marked[~np.isfinite(self.marked_N3).all(axis=1)] = np.nan
        found = true_shift(position, marked)
        assert found is not None
        return -SHIFTS[found]


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    torch.set_num_threads(1)
    processed = data_root(settings.root).processed("train")
    studies = draw_marked_studies(processed, settings.folds, settings.studies, settings.seed)
    placers: dict[str, Placer] = {"the shipped atlas": shipped_atlas()}
    for number, folder in enumerate(settings.locators, start=1):
        is_shipped = folder == SHIPPED_LOCATOR
        name = "the shipped locator" if is_shipped else f"locator {number}"
        placers[name] = make_placer(SHIPPED if is_shipped else Path(folder), shipped_atlas())
    describe_machine("torch", "numpy")
    for name, placer in placers.items():
        began = time.process_time()
        placed = [place(placer, study, processed, settings.cut_off) for study in tqdm(studies, disable=None)]
        seconds = (time.process_time() - began) / len(studies)
        kind = "copies of studies without the lower end" if settings.cut_off else "studies"
        print(f"\n{name}, {len(studies)} {kind}, {seconds:.2f} CPU seconds each with reading:")
        print("\n".join([*summary_lines(placed), *(level_lines(placed) if settings.by_level else [])]), flush=True)


def place(placer: Placer, marked: MarkedStudy, processed: Path, is_cut_off: bool) -> Placed:
    """Place the sites of a study, or of its copy without the lower end, as if it had no marks."""
    study = marked.read(processed)
    positions = placer.place(lower_end_cut_off(study, marked.position_N3) if is_cut_off else study, {})
    expected, confidence = np.full(len(SITES), np.nan), np.nan
    for site, position in positions.items():
        if position.expected_error_mm is not None:
            expected[SITES.index(site)] = position.expected_error_mm
        if position.level_confidence is not None:
            confidence = float(np.fmin(confidence, position.level_confidence))
    return Placed(points_of(positions), marked.position_N3, expected, confidence)


def summary_lines(placed: Sequence[Placed]) -> list[str]:
    """Return the share of studies with right levels, errors, and what became of expected errors and confidences."""
    shift_S = np.array([study.shift for study in placed])
    error = np.concatenate([study.error_N[np.isfinite(study.marked_N3).all(axis=1)] for study in placed])
    wrong = ", ".join(f"{(shift_S == shift).sum()} by {shift:+d}" for shift in sorted({*shift_S.tolist()} - {0}))
    low, high = interval(shift_S == 0)
    lines = [
        f"right levels in {(shift_S == 0).sum()} of {len(shift_S)} studies, {(shift_S == 0).mean():.1%} "
        f"({low:.1%}-{high:.1%}); levels too low: {wrong or 'none'}",
        f"error within the sagittal plane, mm, of {len(error)} sites: median {np.median(error):.1f}, "
        f"90 % {np.percentile(error, 90, method='higher'):.1f}; within 10 mm {(error <= 10).mean():.1%}",
    ]
    confidence_S = np.array([study.level_confidence for study in placed])
    in_bins = [(confidence_S > low) & (confidence_S <= high) for low, high in pairwise(CONFIDENCES)]
    known = [
        f"{confidence_S[own].mean():.2f} -> {(shift_S[own] == 0).mean():.2f} ({own.sum()})"
        for own in in_bins
        if own.any()
    ]
    if known:
        lines.append("level confidence -> share of right levels (studies): " + ", ".join(known))
    return [*lines, *_expected_error_lines(placed)]


def _expected_error_lines(placed: Sequence[Placed]) -> list[str]:
    error = np.concatenate([study.error_N for study in placed])
    expected = np.concatenate([study.expected_error_N for study in placed])
    known = np.flatnonzero(np.isfinite(error) & np.isfinite(expected))
    if not len(known):
        return []
    order = known[np.argsort(expected[known])]
    fifths = [
        f"{np.sqrt(np.mean(expected[part] ** 2)):.1f} -> {np.sqrt(np.mean(error[part] ** 2)):.1f}"
        for part in np.array_split(order, 5)
        if len(part)
    ]
    return ["expected -> observed error, root mean squares in fifths of the sites, mm: " + ", ".join(fifths)]


def interval(right_S: Array) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a share of studies."""
    draws = np.random.default_rng(0).integers(0, len(right_S), (RESAMPLES, len(right_S)))
    low, high = np.percentile(np.asarray(right_S, dtype=float)[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def level_lines(placed: Sequence[Placed]) -> list[str]:
    """Return the mean error of each study, by condition and level."""
    lines = []
    for number, study in enumerate(placed, start=1):
        confidence = "" if np.isnan(study.level_confidence) else f", level confidence {study.level_confidence:.2f}"
        lines.append(f"study {number}: levels {study.shift:+d}{confidence}; mm at {', '.join(x.words for x in Level)}:")
        for condition in Condition:
            errors = [_mean_error(study, condition, level) for level in Level]
            if np.isfinite(errors).any():
                lines.append(f"  {condition.words:28s}" + "".join(f"{error:7.1f}" for error in errors))
    return lines


def _mean_error(study: Placed, condition: Condition, level: Level) -> float:
    own = [index for index, site in enumerate(SITES) if (site.condition, site.level) == (condition, level)]
    return float(np.mean(study.error_N[own]))


if __name__ == "__main__":
    run_command(PROG, main)
