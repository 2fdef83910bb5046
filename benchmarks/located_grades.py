"""Measure the effect of errors in the sites' positions on the grades of runs.

    python -m benchmarks.located_grades --root data/demo/second --run lora --cohort PHANTOM --locator LOCATOR/final

The benchmark measures the competition's metric of runs on a phantom cohort whose sites are placed in three ways: at
their true positions, by a locator, and by the shipped atlas. PHANTOM is the root of a phantom cohort, with a test split
and phantom_truth/, that neither the runs nor the locator were trained on. Every test study is converted three times,
and the runs' heads grade all three conversions as they would be submitted. Each score is compared with the score at the
true positions; the ratios are paired by study and have 95 % intervals. With --kept FOLDER the conversions stay in that
folder, and a second call reuses them. For 80 studies the three conversions and one run take some minutes on two cores.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.locate import read_true_positions
from data_prep.conversion.convert import convert_cohort
from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.crops import open_crops, read_crop_geometry
from data_prep.conversion.executors import open_pool
from data_prep.conversion.pairs import read_dataset
from data_prep.geometry import Array
from data_prep.placement.placer import Placer
from data_prep.placement.regions import Position, vector
from data_prep.placement.shipped_atlas import shipped_atlas
from data_prep.sites import SITES, Site, Source
from data_prep.studies.cohorts import Cohort, split_cohort
from data_prep.studies.studies import Study
from locator.files import check_locator
from locator.site_placer import make_placer
from prompts.render import caption
from vl_model.data.site_rows import group_sites
from vl_model.data.site_table import SiteTable, full_table
from vl_model.evaluation.embed import embed_rows
from vl_model.evaluation.embeddings import Embeddings
from vl_model.evaluation.grader import read_grader
from vl_model.model.run_crops import crops_of_run
from vl_model.model.site_model_files import load_site_model
from vl_model.scoring.intervals import Interval, metric_intervals, paired_ratios
from vl_model.scoring.metrics import StudySums, study_sums
from vl_model.scoring.scored_rows import read_truth_table
from vl_model.scoring.submission import floored
from workspace.cli import run_command, usable_cores
from workspace.layout import DataRoot, data_root
from workspace.root_settings import RootSettings
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.located_grades"
BATCH_SIZE = 64


@dataclass(frozen=True)
class TruePositions:
    """Places every site at its true position in the phantom; position_N3 in mm, by study."""

    position_N3: Mapping[int, Array]
    fingerprint: str = "the truth"

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        return {
            site: Position(site, vector(position), Source.ANNOTATED)
            for site, position in zip(SITES, self.position_N3[study.study_id], strict=True)
            if site not in known
        }


@dataclass(frozen=True, kw_only=True)
class Settings(RootSettings):
    """Settings of the benchmark of located grades."""

    run: tuple[str, ...]
    """The names of evaluated runs."""
    cohort: str
    """The data root of a phantom cohort with a test split."""
    locator: str
    """The folder final/ of a locator."""
    kept: str | None = None
    """The folder in which the conversions are kept. By default they are deleted at the end."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root, cohort_root = data_root(settings.root), data_root(settings.cohort, "cohort")
    check_locator(Path(settings.locator))
    torch.set_num_threads(1)
    truth = cohort_root.path / "phantom_truth" / "truth.csv"
    placers: dict[str, Placer] = {
        "true positions": TruePositions(read_true_positions(truth)),
        "locator": make_placer(Path(settings.locator), shipped_atlas()),
        "shipped atlas": shipped_atlas(),
    }
    cohort = split_cohort(cohort_root, "test")
    known = read_truth_table(truth)
    table = full_table(cohort.study_ids, known.take(known.of_studies(cohort.study_ids)))
    print(f"{len(cohort.study_ids)} studies, {int(table.labelled_N.sum())} graded sites; lower scores are better")
    sums: dict[str, dict[str, StudySums]] = {run: {} for run in settings.run}
    with tempfile.TemporaryDirectory() as temporary:
        for (name, placer), run in product(placers.items(), settings.run):
            geometry = crops_of_run(root.run(run) / "final")
            made_from: tuple[Any, ...] = (placer.fingerprint, str(cohort_root.path), cohort.study_ids)
            if geometry.changes:
                made_from = (*made_from, geometry)
            processed = Path(settings.kept or temporary) / hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]
            if not (processed / "dataset.json").is_file():
                convert(cohort, processed, placer, geometry)
            sums[run][name] = grade(root, run, processed, table)
    for run, by_placer in sums.items():
        print_scores(run, by_placer)


def convert(cohort: Cohort, processed: Path, placer: Placer, geometry: CropGeometry) -> None:
    with open_pool(usable_cores()) as pool:
        convert_cohort(cohort, processed, atlas=None, placer=placer, caption=caption, pool=pool, geometry=geometry)


def grade(root: DataRoot, run: str, processed: Path, table: SiteTable) -> StudySums:
    """Return each study's part in the metric, as the better head of a run grades it."""
    rows = group_sites(read_dataset(processed).pairs)
    model = load_site_model(root.run(run) / "final")
    crops, geometry = open_crops(processed), read_crop_geometry(processed)
    image_ND, _ = embed_rows(model, rows, crops, BATCH_SIZE, geometry=geometry)
    embeddings = Embeddings(rows, image_ND, {})
    prob_N3 = read_grader(root.run(run) / "heads").predict_proba(table, [embeddings], "metric_optimal")
    return study_sums(table, floored(prob_N3))


def print_scores(run: str, sums: Mapping[str, StudySums]) -> None:
    """Print a run's score and its parts for each placer, and their ratios to those at the true positions."""
    true = sums["true positions"]
    print(f"\n{run:22s}{'score':>24}{'spinal':>9}{'foraminal':>11}{'subarticular':>14}{'any severe':>12}")
    for name, placed in sums.items():
        block = metric_intervals(placed)
        score = block["score"]
        print(f"{name:22s}{f'{score.value:.3f} ({score.low:.3f} to {score.high:.3f})':>24}{parts(block)}")
        if placed is not true:
            ratios = paired_ratios(placed, true)
            score = ratios["score"]
            ratio = f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
            print(f"{'  ratio to true':22s}{ratio:>24}{parts(ratios)}", flush=True)


def parts(block: Mapping[str, Interval]) -> str:
    widths = {"spinal": 9, "foraminal": 11, "subarticular": 14, "any_severe": 12}
    return "".join(f"{block[name].value:>{width}.3f}" for name, width in widths.items())


if __name__ == "__main__":
    run_command(PROG, main)
