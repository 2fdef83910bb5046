"""Find planted wrong labels with linear probes on a frozen base, several times, and train probes without them.

    python -m benchmarks.suspect_probes --root PHANTOM --base data/demo/first/train/checkpoints/base/final

The quick companion of `benchmarks.suspect_labels`: the crops of a prepared phantom cohort are embedded once, by a base
that was trained on another cohort. For each seed, 3 % of the true grades are moved to a neighbouring grade; probes are
fitted on two thirds of the studies, predict the other third, and are calibrated by cross-fitting, as in a report. The
table tells how many of the first labels were moved, by the order of the labels (`benchmarks.suspect_labels`). Then
probes without the first 1 % of the list, and probes of the true grades, are compared with probes of all labels: the
metric against the true grades of the held-out studies, averaged over the seeds and paired by study.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import describe_machine
from benchmarks.planted_labels import Grades, plant, true_grades
from benchmarks.suspect_labels import LIST_SHARES, grades_in_words, orders, with_interval
from data_prep.conversion.crops import open_crops, read_crop_geometry
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Site
from vl_model.data.site_rows import SiteRow, group_sites
from vl_model.data.site_table import Bools, Floats, Ints, SiteTable, site_table
from vl_model.evaluation.cross_fitting import cross_fit_kinds
from vl_model.evaluation.embed import embed_rows
from vl_model.evaluation.heads import LinearProbe
from vl_model.evaluation.raw_predictions import RawHeldOut
from vl_model.model.site_model_files import load_site_model
from vl_model.scoring.intervals import mean_intervals, paired_mean_differences
from vl_model.scoring.metrics import SEVERITY_WEIGHTS, StudySums, study_sums
from workspace.cli import run_command
from workspace.layout import data_root
from workspace.root_settings import RootSettings
from workspace.setting_types import PositiveInteger, Share
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.suspect_probes"
ALL, WITHOUT, TRUE = "with all labels", "without the listed", "true labels"


@dataclass(frozen=True, kw_only=True)
class Settings(RootSettings):
    """Settings of the benchmark of suspect labels with probes."""

    base: str
    """The folder final/ of the run whose model embeds the crops."""
    seeds: PositiveInteger = 3
    """The number of times that labels are moved."""
    moved: Share = 0.03
    """The share of the grades that is moved to a neighbouring grade."""
    dropped: Share = 0.01
    """The share of the graded sites that is left out of training."""
    parts: PositiveInteger = 3
    """The number of parts of the studies, each of which is predicted by a probe of the others."""


@dataclass(frozen=True)
class Sites:
    """The graded sites that an image shows, with their embeddings, and the part that each study belongs to."""

    table: SiteTable
    image_ND: Floats
    part_N: Ints

    def with_grades(self, grades: Grades) -> SiteTable:
        """Return the rows with other grades."""
        rows = zip(self.table.study_N.tolist(), self.table.site_N.tolist(), strict=True)
        return site_table((study_id, SITES[site], grades[study_id, SITES[site]]) for study_id, site in rows)


@dataclass(frozen=True)
class Predicted:
    """What probes say of the studies from which they did not learn: calibrated, and two kinds for the metric."""

    calibrated_N3: Floats
    metric_N3: Mapping[str, Floats]


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    torch.set_num_threads(1)
    root = data_root(settings.root)
    truth = true_grades(root)
    dataset, crops_R3HW = read_dataset(root.processed("train")), open_crops(root.processed("train"))
    rows = [row for row in group_sites(dataset.pairs) if (row.study_id, row.site) in truth]
    model = load_site_model(Path(settings.base))
    image_ND, _ = embed_rows(model, rows, crops_R3HW, 64, geometry=read_crop_geometry(root.processed("train")))
    sites = Sites(
        site_table((row.study_id, row.site, truth[row.study_id, row.site]) for row in rows),
        image_ND.astype(np.float64),
        parts_of(rows, settings.parts),
    )
    describe_machine("torch")
    measure(sites, truth, settings)


def parts_of(rows: list[SiteRow], parts: int) -> Ints:
    """Return the part of each row's study; studies take turns."""
    studies = sorted({row.study_id for row in rows})
    return np.array([studies.index(row.study_id) % parts for row in rows], dtype=np.int64)


def measure(sites: Sites, truth: Grades, settings: Settings) -> None:
    """Plant, rank, train without the listed, and print both tables."""
    truth = {key: truth[key] for key in keys_of(sites.table)}
    everything = np.ones(len(sites.table), dtype=bool)
    clean = predict(sites, sites.table, everything)
    counts = [round(share * len(sites.table)) for share in LIST_SHARES]
    first = round(settings.dropped * len(sites.table))
    found: dict[str, list[list[float]]] = {}
    listed: dict[str, Ints] = {}
    sums: dict[tuple[str, str], list[StudySums]] = {}
    left_out: list[str] = []
    for seed in range(1, settings.seeds + 1):
        moved = plant(truth, settings.moved, seed)
        noisy = sites.with_grades({**truth, **moved})
        moved_N = noisy.severity_N != sites.table.severity_N
        predicted = predict(sites, noisy, everything)
        for name, score_N in orders(noisy, predicted.calibrated_N3).items():
            order = np.argsort(-score_N, kind="stable")
            found.setdefault(name, []).append([float(moved_N[order[:count]].mean()) for count in counts])
            listed[name] = listed.get(name, np.zeros(0, dtype=np.int64))
            listed[name] = np.concatenate([listed[name], noisy.severity_N[order[: counts[0]]]])
            if name == "margin":
                kept_N = ~np.isin(np.arange(len(order)), order[:first])
        left_out.append(f"{int((~kept_N & moved_N).sum())} of {first}")
        outcomes = {ALL: predicted, WITHOUT: predict(sites, noisy, kept_N), TRUE: clean}
        for training, outcome in outcomes.items():
            for kind, prob_N3 in outcome.metric_N3.items():
                sums.setdefault((kind, training), []).append(study_sums(sites.table, prob_N3))
    studies = len(sites.table.study_ids)
    print(f"{len(sites.table)} graded sites of {studies} studies, {len(moved)} of them moved, {settings.seeds} times")
    print_orders(found, listed, counts)
    print(f"\nmoved among the first {first} by the margin, which are left out: {', '.join(left_out)}")
    print("metric against the true grades of the held-out studies, mean over the times; lower is better")
    for kind in clean.metric_N3:
        print(kind)
        print_trainings({training: sums[kind, training] for training in (ALL, WITHOUT, TRUE)})


def keys_of(table: SiteTable) -> list[tuple[int, Site]]:
    return [(int(study), SITES[site]) for study, site in zip(table.study_N, table.site_N, strict=True)]


def predict(sites: Sites, table: SiteTable, learns_N: Bools) -> Predicted:
    """Predict each part of the studies by a probe of the others, which learns from the rows `learns_N` alone."""
    log_prob_N3 = np.zeros((len(table), 3))
    for part in np.unique(sites.part_N):
        held_out = sites.part_N == part
        probe = LinearProbe().fit(table.take(~held_out & learns_N), sites.image_ND[~held_out & learns_N])
        log_prob_N3[held_out] = probe.predict_log_proba(table.take(held_out), sites.image_ND[held_out])
    unused_N3 = np.full((len(table), 3), 1 / 3)
    raw = RawHeldOut(table, np.ones(len(table), dtype=bool), unused_N3, unused_N3, {})
    kinds = cross_fit_kinds(log_prob_N3, raw, seed=0)
    by_rule_N3 = np.exp(log_prob_N3) * np.asarray(SEVERITY_WEIGHTS)
    return Predicted(
        kinds["calibrated"],
        {
            "raw by rule": by_rule_N3 / by_rule_N3.sum(axis=1, keepdims=True),
            "calibrated on the labels that were learned from": kinds["metric_optimal"],
        },
    )


def print_orders(found: Mapping[str, list[list[float]]], listed: Mapping[str, Ints], counts: list[int]) -> None:
    shares = "".join(f"{f'{count} ({share:.0%})':>12}" for count, share in zip(counts, LIST_SHARES, strict=True))
    print(f"\nshare of moved labels among the first, mean over the times\n{'order':<14}{shares}   ", end="")
    print(f"known grades of the first {counts[0]}, all times")
    for name, rows in found.items():
        cells = "".join(f"{share:>12.3f}" for share in np.mean(rows, axis=0))
        print(f"{name:<14}{cells}   {grades_in_words(listed[name])}")


def print_trainings(sums: Mapping[str, list[StudySums]]) -> None:
    for name, runs in sums.items():
        print(f"  {name:<22}{with_interval(mean_intervals(runs)['score'])}", end="")
        if name == ALL:
            print()
            continue
        difference = paired_mean_differences(runs, sums[ALL])["score"]
        print(f"   minus the first {difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})")


if __name__ == "__main__":
    run_command(PROG, main)
