"""How fast sites are located, beside the reading of the same studies; and, where the truth is known, how well.

    python -m benchmarks.locate
    python -m benchmarks.locate --root PHANTOM --locator DATA/train/checkpoints/locator/final --hurt true

Without arguments a few phantom studies are made, and networks that have learned nothing: they take as long as others.
With a phantom cohort's root (its test split, and phantom_truth/ beside it) the errors are told, also those of the
atlas alone, and with --hurt those on studies that lack a series or an axial block, or whose slices come in reverse;
with --show FOLDER the ten worst studies are drawn there, and why they are is said.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
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
from locator.errors import Measured, lines
from locator.locator import LARGEST_ERROR_MM, Located, Locator, load_locator, new_network
from locator.sheet import Case, reason, write_sheets
from locator.site_placer import completed
from locator.spine_prior import learn_prior
from workspace.cli import SettingsParser, run_command
from workspace.layout import DataRoot

PROG = "-m benchmarks.locate"
#: Share of studies that lack a series, where studies are hurt.
LACKING = 0.15
#: Studies that are shown.
WORST = 10


def main() -> None:
    parser = SettingsParser(PROG, __doc__)
    parser.add_argument("--root", type=str | None, default=None, help="a phantom cohort's root, with test studies")
    parser.add_argument("--locator", type=str | None, default=None, help="a locator's final/")
    parser.add_argument("--studies", type=int, default=80, help="at most")
    parser.add_argument("--hurt", type=bool, default=False, help="also on studies that were hurt")
    parser.add_argument("--show", type=str | None, default=None, help="a folder for sheets of the worst studies")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = DataRoot(Path(settings.root) if settings.root else write_cohort(Path(folder), train=6, test=4, seed=1))
        locator = load_locator(Path(settings.locator)) if settings.locator else untaught_locator(root)
        cases = measure(locator, root, settings.studies, settings.hurt)
        if settings.show:
            show(cases, Path(settings.show))


def untaught_locator(root: DataRoot) -> Locator:
    """Networks of random weights, and the spine of the cohort's train split."""
    cohort = split_cohort(root, "train")
    atlas = learn_from(cohort)
    assert atlas is not None
    positions = [points_of(marked_positions(read_study(folder)[0])[0]) for folder in cohort.folders]
    return Locator(new_network().eval(), learn_prior(atlas.shape_N3, positions), atlas)


def measure(locator: Locator, root: DataRoot, most: int, hurt: bool) -> list[Case]:
    """Print seconds and errors; the studies as they are, located."""
    truth = read_true_positions(root.path / "phantom_truth" / "truth.csv")
    folders = split_cohort(root, "test").folders[:most]
    random = np.random.default_rng(0)
    changes = CHANGES if hurt else CHANGES[:1]
    seconds = {"reading": 0.0, "locating": 0.0, "atlas": 0.0}
    places: dict[str, list[Located]] = {name: [] for name, _ in changes}
    by_atlas: list[Array] = []
    cases = []
    for folder in folders:
        began = time.process_time()
        study = study_of(folder)
        seconds["reading"] += time.process_time() - began
        for name, change in changes:
            began = time.process_time()
            located = located_or_atlas(locator, change(study, random))
            places[name].append(located)
            if name == changes[0][0]:
                seconds["locating"] += time.process_time() - began
                cases.append(Case(folder.study_id, truth[folder.study_id], located, partial(study_of, folder)))
        began = time.process_time()
        by_atlas.append(points_of(locator.atlas.place(study, {})))
        seconds["atlas"] += time.process_time() - began
    true_SN3 = np.array([truth[folder.study_id] for folder in folders])
    say_seconds(seconds, len(folders))
    unknown_SN = np.full((len(folders), len(SITES)), np.nan)
    say_errors("the atlas alone", Measured(np.array(by_atlas), true_SN3, unknown_SN))
    for name, found in places.items():
        error_SN = np.array([located.error_N for located in found])
        say_errors(name, Measured(np.array([located.place_N3 for located in found]), true_SN3, error_SN))
        unsure = int((error_SN > LARGEST_ERROR_MM).sum())
        print(f"{unsure} sites were too unsure, and the atlas's", flush=True)
    return cases


def located_or_atlas(locator: Locator, study: Study) -> Located:
    """As the conversion places sites: the atlas's where the predicted error is too large; NaN where it has none."""
    located = locator.locate(study)
    if located is None:
        return Located(np.full((len(SITES), 3), np.nan), np.full(len(SITES), np.nan), ())
    return replace(located, place_N3=points_of(completed(locator.atlas, study, {}, located.sure)))


def say_errors(name: str, measured: Measured) -> None:
    print("\n".join([f"\n{name}:", *lines(measured)]), flush=True)


def study_of(folder: StudyFolder) -> Study:
    return read_study(folder)[0]


def show(cases: list[Case], folder: Path) -> None:
    print(f"\nthe {WORST} worst studies, by their worst site:")
    for case in sorted(cases, key=lambda one: -one.worst)[:WORST]:
        site = "" if case.located is None else f" {SITES[int(np.nanargmax(case.error_N))].words}"
        print(f"{case.study_id}:{site} {case.worst:.1f} mm off, {reason(case)}")
    for path in write_sheets(cases, folder, WORST):
        print(path)


def say_seconds(seconds: dict[str, float], studies: int) -> None:
    """CPU seconds of one thread: they hold on a busy machine too."""
    each = {name: total / studies for name, total in seconds.items()}
    print(f"{studies} studies, CPU seconds a study: " + ", ".join(f"{name} {each[name]:.2f}" for name in each))
    whole = each["reading"] + each["locating"]
    print(f"{1 / whole:.2f} studies a second and thread, of which reading takes {each['reading'] / whole:.0%}")
    print(f"the locator takes {each['locating'] / max(each['atlas'], 1e-9):.1f} times the atlas's time")


def read_true_positions(path: Path) -> dict[int, Array]:
    """Return the true positions of each study's sites: (25, 3) in mm, by study."""
    positions: dict[int, Array] = {}
    for one in read_truth(path):
        position_N3 = positions.setdefault(one.study_id, np.full((len(SITES), 3), np.nan))
        if one.position_mm is not None:
            position_N3[SITES.index(one.site)] = one.position_mm
    return positions


Change = Callable[[Study, np.random.Generator], Study]


def as_it_is(study: Study, random: np.random.Generator) -> Study:  # noqa: ARG001
    return study


def lacking_a_series(study: Study, random: np.random.Generator) -> Study:
    """In `LACKING` of studies one series, of any view, is gone."""
    if random.random() >= LACKING or len(study.series) < 2:
        return study
    gone = int(random.integers(len(study.series)))
    return replace(study, series=study.series[:gone] + study.series[gone + 1 :])


def in_reverse(study: Study, random: np.random.Generator) -> Study:  # noqa: ARG001
    return replace(study, series=tuple(series_in_reverse(series) for series in study.series))


def series_in_reverse(series: Series) -> Series:
    last = len(series.slices) - 1
    stacks = tuple(tuple(last - index for index in stack) for stack in series.stacks)
    return replace(series, slices=series.slices[::-1], stacks=stacks)


def lacking_a_block(study: Study, random: np.random.Generator) -> Study:
    """Every study lacks the axial slices of one fifth of the axial volume's height."""
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
    number = {index: place for place, index in enumerate(kept)}
    stacks = tuple(tuple(number[index] for index in stack if index in number) for stack in series.stacks)
    slices = tuple(series.slices[index] for index in kept)
    return replace(series, slices=slices, stacks=tuple(stack for stack in stacks if stack))


CHANGES: tuple[tuple[str, Change], ...] = (
    ("as they are", as_it_is),
    (f"{LACKING:.0%} of studies lacking a series", lacking_a_series),
    ("slices in reverse", in_reverse),
    ("a fifth of the axial slices missing", lacking_a_block),
)


if __name__ == "__main__":
    run_command(PROG, main)
