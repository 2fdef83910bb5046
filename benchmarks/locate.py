"""Measure the speed and accuracy of a locator on phantom studies.

    python -m benchmarks.locate
    python -m benchmarks.locate --root PHANTOM --locator DATA/train/checkpoints/locator/final --hurt true

The benchmark measures the CPU time per study of locating all sites, against the time of reading the same study and of
the atlas, and the errors of the located positions, against those of the atlas alone. PHANTOM is the root of a phantom
cohort with a test split and phantom_truth/; with --hurt the errors are also measured on damaged studies: a series or a
block of axial slices is missing, or the slices are in reverse order. With --show FOLDER the ten studies with the
largest errors are drawn and explained. Without arguments a small phantom cohort and networks with random weights are
used, so that only the times are meaningful. It takes about a second per study, or three with --hurt.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_prep.conversion.convert import learn_from
from data_prep.geometry import Array
from data_prep.phantom import write_cohort
from data_prep.placement.regions import marked_positions, points_of
from data_prep.sites import SITES, View
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import Series, Study, StudyFolder, read_study
from data_prep.truth import read_truth
from locator.errors import PositionErrors, report_lines
from locator.locator import MAX_EXPECTED_ERROR_MM, LocatedStudy, Locator
from locator.network import new_network
from locator.saved_locator import load_locator
from locator.sheet import Case, explain_largest_error, write_sheets
from locator.site_placer import complete_by_atlas
from locator.spine_prior import learn_prior
from workspace.cli import run_command
from workspace.layout import DataRoot
from workspace.setting_types import PositiveInteger
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.locate"
#: Share of the studies from which a series is removed.
REMOVED_SHARE = 0.15
#: Number of studies that --show draws.
SHOWN_STUDIES = 10


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark of the locator."""

    root: str | None = None
    """The data root of a phantom cohort with a test split. By default a small cohort is written."""
    locator: str | None = None
    """The folder final/ of a locator. By default one with random weights is used."""
    studies: PositiveInteger = 80
    """The largest number of studies to locate."""
    hurt: bool = False
    """Also measure errors on damaged studies."""
    show: str | None = None
    """The folder into which sheets of the studies with the largest errors are drawn."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(settings.root) if settings.root else write_cohort(Path(folder), train=6, test=4, seed=1))
        locator = load_locator(Path(settings.locator)) if settings.locator else random_locator(root)
        cases = measure(locator, root, settings.studies, settings.hurt)
        if settings.show:
            show(cases, Path(settings.show))


def random_locator(root: DataRoot) -> Locator:
    """Return a locator with random weights, and the spine prior and atlas of the cohort's train split."""
    cohort = split_cohort(root, "train")
    atlas = learn_from(cohort)
    assert atlas is not None
    positions = [points_of(marked_positions(read_study(folder)[0])[0]) for folder in cohort.folders]
    return Locator(new_network().eval(), learn_prior(atlas.shape_N3, positions), atlas)


def measure(locator: Locator, root: DataRoot, max_studies: int, hurt: bool) -> list[Case]:
    """Print times and errors, and return the undamaged studies with their located positions."""
    truth = read_true_positions(root.path / "phantom_truth" / "truth.csv")
    folders = split_cohort(root, "test").folders[:max_studies]
    random = np.random.default_rng(0)
    changes = CHANGES if hurt else CHANGES[:1]
    seconds = {"reading": 0.0, "locating": 0.0, "atlas": 0.0}
    located_studies: dict[str, list[LocatedStudy]] = {name: [] for name, _ in changes}
    by_atlas: list[Array] = []
    cases = []
    for folder in folders:
        began = time.process_time()
        study = study_of(folder)
        seconds["reading"] += time.process_time() - began
        for name, change in changes:
            began = time.process_time()
            located = located_or_atlas(locator, change(study, random))
            located_studies[name].append(located)
            if name == changes[0][0]:
                seconds["locating"] += time.process_time() - began
                cases.append(Case(folder.study_id, truth[folder.study_id], located, partial(study_of, folder)))
        began = time.process_time()
        by_atlas.append(points_of(locator.atlas.place(study, {})))
        seconds["atlas"] += time.process_time() - began
    true_SN3 = np.array([truth[folder.study_id] for folder in folders])
    print_seconds(seconds, len(folders))
    unknown_SN = np.full((len(folders), len(SITES)), np.nan)
    print_errors("the atlas alone", PositionErrors(np.array(by_atlas), true_SN3, unknown_SN))
    for name, results in located_studies.items():
        located_SN3 = np.array([located.position_N3 for located in results])
        expected_error_SN = np.array([located.expected_error_N for located in results])
        print_errors(name, PositionErrors(located_SN3, true_SN3, expected_error_SN))
        unreliable = int((expected_error_SN > MAX_EXPECTED_ERROR_MM).sum())
        print(f"{unreliable} sites had too large an expected error and were placed by the atlas.", flush=True)
    return cases


def located_or_atlas(locator: Locator, study: Study) -> LocatedStudy:
    """Place sites as the conversion does: the atlas places those with a large expected error; NaN without geometry."""
    located = locator.locate(study)
    if located is None:
        return LocatedStudy(np.full((len(SITES), 3), np.nan), np.full(len(SITES), np.nan), ())
    positions = complete_by_atlas(locator.atlas, study, {}, located.reliable_positions)
    return replace(located, position_N3=points_of(positions))


def print_errors(name: str, errors: PositionErrors) -> None:
    print("\n".join([f"\n{name}:", *report_lines(errors)]), flush=True)


def study_of(folder: StudyFolder) -> Study:
    return read_study(folder)[0]


def show(cases: list[Case], folder: Path) -> None:
    """Print and draw the studies with the largest errors."""
    print(f"\nThe {SHOWN_STUDIES} studies with the largest errors, and the site of each error:")
    for case in sorted(cases, key=lambda one: -one.largest_error_mm)[:SHOWN_STUDIES]:
        site = "" if case.located is None else f" {SITES[int(np.nanargmax(case.error_N))].words}"
        print(f"{case.study_id}:{site} {case.largest_error_mm:.1f} mm off, {explain_largest_error(case)}")
    for path in write_sheets(cases, folder, SHOWN_STUDIES):
        print(path)


def print_seconds(seconds: dict[str, float], studies: int) -> None:
    """Print times as CPU seconds of one thread, which are meaningful on a busy machine too."""
    each = {name: total / studies for name, total in seconds.items()}
    print(f"{studies} studies, CPU seconds per study: " + ", ".join(f"{name} {each[name]:.2f}" for name in each))
    total = each["reading"] + each["locating"]
    print(f"{1 / total:.2f} studies per second and thread; reading takes {each['reading'] / total:.0%} of the time.")
    print(f"The locator takes {each['locating'] / max(each['atlas'], 1e-9):.1f} times as long as the atlas.")


def read_true_positions(path: Path) -> dict[int, Array]:
    """Return the true positions of each study's sites: (25, 3) in mm, by study."""
    positions: dict[int, Array] = {}
    for one in read_truth(path):
        position_N3 = positions.setdefault(one.study_id, np.full((len(SITES), 3), np.nan))
        if one.position_mm is not None:
            position_N3[SITES.index(one.site)] = one.position_mm
    return positions


Change = Callable[[Study, np.random.Generator], Study]


def unchanged(study: Study, random: np.random.Generator) -> Study:  # noqa: ARG001
    return study


def without_a_series(study: Study, random: np.random.Generator) -> Study:
    """Remove one series, of any view, from a share `REMOVED_SHARE` of the studies."""
    if random.random() >= REMOVED_SHARE or len(study.series) < 2:
        return study
    removed = int(random.integers(len(study.series)))
    return replace(study, series=study.series[:removed] + study.series[removed + 1 :])


def in_reverse(study: Study, random: np.random.Generator) -> Study:  # noqa: ARG001
    return replace(study, series=tuple(series_in_reverse(series) for series in study.series))


def series_in_reverse(series: Series) -> Series:
    last = len(series.slices) - 1
    stacks = tuple(tuple(last - index for index in stack) for stack in series.stacks)
    return replace(series, slices=series.slices[::-1], stacks=stacks)


def without_an_axial_block(study: Study, random: np.random.Generator) -> Study:
    """Remove the axial slices of one fifth of the axial volume's height from every study."""
    part = int(random.integers(5))
    return replace(study, series=tuple(without_part(study, series, part) for series in study.series))


def without_part(study: Study, series: Series, part: int) -> Series:
    if series.view is not View.AXIAL_T2:
        return series
    heights = [frame.centre_mm[2] for one in study.of_view(View.AXIAL_T2) for frame in one.frames.values()]
    edges = np.linspace(min(heights) - 1, max(heights) + 1, 6)
    kept = [
        index
        for index in range(len(series.slices))
        if index not in series.frames or not edges[part] <= series.frames[index].centre_mm[2] < edges[part + 1]
    ]
    number = {index: new_index for new_index, index in enumerate(kept)}
    stacks = tuple(tuple(number[index] for index in stack if index in number) for stack in series.stacks)
    slices = tuple(series.slices[index] for index in kept)
    return replace(series, slices=slices, stacks=tuple(stack for stack in stacks if stack))


CHANGES: tuple[tuple[str, Change], ...] = (
    ("complete studies", unchanged),
    (f"one series removed from {REMOVED_SHARE:.0%} of the studies", without_a_series),
    ("slices in reverse order", in_reverse),
    ("a fifth of the axial slices removed", without_an_axial_block),
)


if __name__ == "__main__":
    run_command(PROG, main)
