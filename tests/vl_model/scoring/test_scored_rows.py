"""Which rows count: unknown studies, missing rows, conditions that nobody predicts, and truths of any make."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.sites import SITES
from vl_model.data.site_table import SiteTable, full_table, site_table
from vl_model.scoring.constant_baseline import constant_baseline
from vl_model.scoring.metrics import competition_metric
from vl_model.scoring.prediction_table import PredictionTable
from vl_model.scoring.scored_rows import (
    constants_of_others,
    graded_rows,
    read_truth_table,
    scored_rows,
    shared_rows,
)

LABELS = ("Normal/Mild", "Moderate", "Severe")


def random_truth(studies: list[int], seed: int = 0, unlabelled: float = 0.1) -> SiteTable:
    table = full_table(studies, site_table([]))
    shares = [unlabelled, *((1 - unlabelled) * np.array([0.6, 0.2, 0.2]))]
    table.severity_N[:] = np.random.default_rng(seed).choice([-1, 0, 1, 2], size=len(table), p=shares)
    return table


def predictions_of(table: SiteTable, seed: int = 0) -> PredictionTable:
    """Return random predictions of all rows of a table, in another order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table))
    prob_N3 = rng.dirichlet((3, 1, 1), size=len(table))
    return PredictionTable(Path("a.csv"), table.study_N[order], table.site_N[order], prob_N3, prob_N3, 0.0)


def without(predictions: PredictionTable, rows: np.ndarray) -> PredictionTable:
    keep = ~rows
    return PredictionTable(
        predictions.path,
        predictions.study_N[keep],
        predictions.site_N[keep],
        predictions.prob_N3[keep],
        predictions.given_N3[keep],
        0.0,
    )


def write_truth(folder: Path, table: SiteTable) -> tuple[Path, Path]:
    """Write the same true grades in the format of train.csv, and with one row per site."""
    wide: dict[int, dict[str, str]] = {}
    long = []
    for study, site_index, severity in zip(table.study_N, table.site_N, table.severity_N, strict=True):
        site, label = SITES[site_index], LABELS[severity] if severity >= 0 else ""
        wide.setdefault(int(study), {"study_id": str(study)})[site.key] = label
        long.append([study, site.condition, site.side or "", site.level, label.lower().replace("/", "_")])
    pd.DataFrame(wide.values()).to_csv(folder / "train.csv", index=False)
    columns = ["study_id", "condition", "side", "level", "severity"]
    pd.DataFrame(long, columns=columns).to_csv(folder / "truth.csv", index=False)
    return folder / "train.csv", folder / "truth.csv"


def test_both_formats_of_a_truth_are_read_alike(tmp_path: Path) -> None:
    table = random_truth([7, 5, 9])
    for path in write_truth(tmp_path, table):
        read = read_truth_table(path)
        assert read.study_N.tolist() == table.study_N.tolist() and np.array_equal(read.severity_N, table.severity_N)


def test_only_the_test_split_of_a_truth_counts(tmp_path: Path) -> None:
    rows = [[1, "train", "spinal_canal_stenosis", "", "l1_l2", "severe"]]
    rows.append([2, "test", "spinal_canal_stenosis", "", "l1_l2", "moderate"])
    columns = ["study_id", "split", "condition", "side", "level", "severity"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "truth.csv", index=False)
    assert read_truth_table(tmp_path / "truth.csv").study_N.tolist() == [2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a CSV file"),
        (bytes(range(256)), "not a CSV file"),
        (b"study_id,condition,side,level,severity\n", "contains no grade"),
        (
            b"study_id,condition,side,level,severity\nx,spinal_canal_stenosis,,l1_l2,severe\n",
            "line 2: study_id 'x': not a whole number",
        ),
        (
            b"study_id,condition,side,level,severity\n1,stenosis,,l1_l2,severe\n",
            "line 2: 'stenosis' is not a condition; expected one of spinal_canal_stenosis, ",
        ),
    ],
)
def test_a_damaged_truth_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "truth.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"truth\.csv: .*{said}"):
        graded_rows(tmp_path / "truth.csv")


def test_each_graded_row_gets_its_own_prediction() -> None:
    table = random_truth([7, 5, 9])
    graded = table.take(table.labelled_N)
    predictions = predictions_of(full_table([9, 3, 7, 5, 4], site_table([])))
    rows = scored_rows(graded, predictions)
    by_site = predictions.by_site()
    expected = [by_site[int(study), int(site)] for study, site in zip(graded.study_N, graded.site_N, strict=True)]
    assert rows.prob_N3.tolist() == expected and rows.unknown == (3, 4) and not rows.filled_N.any()
    assert rows.table.severity_N.tolist() == graded.severity_N.tolist()


def test_missing_rows_are_named_filled_or_left_out() -> None:
    table = random_truth([7, 5, 9, 11], unlabelled=0.0)
    complete = predictions_of(table)
    lacks = (complete.study_N == 5) & (complete.site_N == 1)
    predictions = without(complete, lacks)
    with pytest.raises(ValueError, match=r"1 graded row is missing, of 1 of 4 studies \(5_spinal_canal_sten"):
        scored_rows(table, predictions)

    filled = scored_rows(table, predictions, "constant")
    assert filled.filled_N.sum() == 1 and len(filled.table) == 100
    assert filled.prob_N3[filled.filled_N] == pytest.approx(constants_of_others(table)[filled.filled_N])
    left = scored_rows(table, predictions, "leave_out")
    assert left.left_out == (5,) and left.table.study_ids == [7, 9, 11]
    ours, theirs = shared_rows(left, filled)
    assert np.array_equal(ours.row_N, theirs.row_N) and len(ours.table) == 75
    assert not theirs.filled_N.any()


def test_constants_are_learned_from_other_studies() -> None:
    """With five studies each group is one study: its own grades must not change its constants."""
    table = random_truth([1, 2, 3, 4, 5], unlabelled=0.2)
    table = table.take(table.labelled_N)
    for study in table.study_ids:
        own = table.study_N == study
        expected = constant_baseline(table.take(~own), table.take(own))
        assert np.array_equal(constants_of_others(table)[own], expected)


def test_a_condition_that_is_not_predicted_has_no_part() -> None:
    table = random_truth([7, 5], unlabelled=0.0)
    complete = predictions_of(table)
    canal = without(complete, complete.site_N >= 5)
    rows = scored_rows(table, canal)
    metric = competition_metric(rows.table, rows.prob_N3)
    assert rows.unpredicted == (1, 2) and np.isnan(metric.score) and np.isfinite(metric.any_severe)
    whole = scored_rows(table, canal, "constant")
    assert whole.unpredicted == () and np.isfinite(competition_metric(whole.table, whole.prob_N3).score)


def test_files_of_other_studies_are_refused() -> None:
    table = random_truth([7, 5], unlabelled=0.0)
    with pytest.raises(ValueError, match=r"none of its 2 studies is in the table of true grades \(1, 2 here, 5, 7 th"):
        scored_rows(table, predictions_of(random_truth([1, 2])))
    left_only = table.take(table.condition_N == 0)
    others = predictions_of(table.take(table.condition_N == 1))
    with pytest.raises(ValueError, match="predicts none of the 10 graded rows"):
        scored_rows(left_only, others)
    half = predictions_of(table)
    with pytest.raises(ValueError, match="lacks graded rows of every study"):
        scored_rows(table, without(half, half.site_N == 0), "leave_out")
