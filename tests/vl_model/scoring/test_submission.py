"""The submission: format, order, floor, and its score against true grades."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.sites import SITES, SUBMISSION_SITES
from vl_model.data.site_table import SITE_INDEX, SiteTable, full_table, site_table
from vl_model.scoring.metrics import competition_metric
from vl_model.scoring.submission import FLOOR, floored, read_solution, score_submission, write_submission

LABELS = ("Normal/Mild", "Moderate", "Severe")


def random_probabilities(studies: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet((3, 0.3, 0.1), size=(studies, len(SITES)))


def test_rows_columns_and_order(tmp_path: Path) -> None:
    prob_SX3 = random_probabilities(2)
    write_submission(tmp_path / "submission.csv", [20, 3], prob_SX3)
    table = pd.read_csv(tmp_path / "submission.csv")
    assert list(table.columns) == ["row_id", "normal_mild", "moderate", "severe"]
    # By study id, as a number, then alphabetically by condition and level.
    assert list(table["row_id"]) == [f"{study}_{site.key}" for study in (3, 20) for site in SUBMISSION_SITES]
    assert list(table["row_id"][:25]) == sorted(table["row_id"][:25])
    row = table[table["row_id"] == "20_spinal_canal_stenosis_l3_l4"].iloc[0]
    site = next(index for index, site in enumerate(SITES) if site.key == "spinal_canal_stenosis_l3_l4")
    assert row["severe"] == pytest.approx(floored(prob_SX3)[0, site, 2], abs=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["submission.csv"]


def test_the_order_is_that_of_a_sample_with_the_same_rows(tmp_path: Path) -> None:
    row_ids = [f"{study}_{site.key}" for study in (20, 3) for site in reversed(SUBMISSION_SITES)]
    sample = tmp_path / "sample_submission.csv"
    pd.DataFrame({"row_id": row_ids, "normal_mild": 1 / 3}).to_csv(sample, index=False)
    write_submission(tmp_path / "a.csv", [3, 20], random_probabilities(2), sample)
    assert list(pd.read_csv(tmp_path / "a.csv")["row_id"]) == row_ids
    write_submission(tmp_path / "b.csv", [3, 21], random_probabilities(2), sample)
    assert pd.read_csv(tmp_path / "b.csv")["row_id"][0].startswith("3_left_neural")


def test_floor_and_sum_hold_on_disk_for_extreme_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    prob_SX3 = rng.dirichlet((0.01, 0.01, 0.01), size=(40, len(SITES)))
    prob_SX3[0, 0] = [0.0, 0.0, 1.0]
    prob_SX3[0, 1] = [0.0, 0.5, 0.5]
    write_submission(tmp_path / "submission.csv", range(40), prob_SX3)
    written = pd.read_csv(tmp_path / "submission.csv")[["normal_mild", "moderate", "severe"]].to_numpy()
    assert written.min() >= FLOOR
    assert np.abs(written.sum(axis=1) - 1).max() < 1e-9
    ample = prob_SX3.min(axis=-1) > 2 * FLOOR
    assert floored(prob_SX3)[ample] == pytest.approx(prob_SX3[ample], abs=1e-12)


def test_impossible_probabilities_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    prob_SX3 = random_probabilities(1)
    with pytest.raises(ValueError, match=r"expected \(2, 25, 3\)"):
        write_submission(tmp_path / "s.csv", [1, 2], prob_SX3)
    with pytest.raises(ValueError, match="twice"):
        write_submission(tmp_path / "s.csv", [1, 1], np.concatenate([prob_SX3, prob_SX3]))
    prob_SX3[0, 3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        write_submission(tmp_path / "s.csv", [1], prob_SX3)
    assert not list(tmp_path.iterdir())


def wide_and_long(folder: Path, table: SiteTable) -> tuple[Path, Path]:
    """Return the same true grades in the format of train.csv, and with one row per site."""
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


def test_a_submission_scores_as_its_probabilities_do(tmp_path: Path) -> None:
    table = full_table([7, 5, 9], site_table([]))
    table.severity_N[:] = np.random.default_rng(2).choice([-1, 0, 1, 2], size=len(table), p=[0.1, 0.5, 0.2, 0.2])
    prob_SX3 = floored(random_probabilities(3))
    write_submission(tmp_path / "submission.csv", [7, 5, 9], prob_SX3)
    expected = competition_metric(table, prob_SX3.reshape(-1, 3))
    for solution in wide_and_long(tmp_path, table):
        assert np.array_equal(read_solution(solution).severity_N, table.severity_N)
        scored = score_submission(tmp_path / "submission.csv", solution)
        assert scored.as_dict() == pytest.approx(expected.as_dict(), abs=1e-9)


def test_only_the_test_split_of_a_truth_counts(tmp_path: Path) -> None:
    rows = [[1, "train", "spinal_canal_stenosis", "", "l1_l2", "severe"]]
    rows.append([2, "test", "spinal_canal_stenosis", "", "l1_l2", "moderate"])
    columns = ["study_id", "split", "condition", "side", "level", "severity"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "truth.csv", index=False)
    assert read_solution(tmp_path / "truth.csv").study_N.tolist() == [2]


def test_a_submission_without_a_graded_study_is_refused(tmp_path: Path) -> None:
    table = full_table([7, 5], site_table([]))
    table.severity_N[:] = 0
    write_submission(tmp_path / "submission.csv", [7], random_probabilities(1))
    with pytest.raises(ValueError, match="the row 5_spinal_canal_stenosis_l1_l2 is missing"):
        score_submission(tmp_path / "submission.csv", wide_and_long(tmp_path, table)[0])
    with pytest.raises(ValueError, match=r"or train\.csv's columns"):
        read_solution(tmp_path / "submission.csv")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a CSV file"),
        (bytes(range(256)), "not a CSV file"),
        (b"study_id,condition,side,level,severity\n", "contains no grade of the test split"),
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
    write_submission(tmp_path / "submission.csv", [7], random_probabilities(1))
    (tmp_path / "truth.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"truth\.csv: .*{said}"):
        score_submission(tmp_path / "submission.csv", tmp_path / "truth.csv")


@pytest.mark.parametrize(
    "row", ["7_nothing_l1_l2,1,0,0", "x_spinal_canal_stenosis_l1_l2,1,0,0", "7,a,b,c", "7,1", ",,,"]
)
def test_a_damaged_submission_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "submission.csv").write_text(f"row_id,normal_mild,moderate,severe\n{row}\n")
    (tmp_path / "truth.csv").write_text(
        "study_id,condition,side,level,severity\n7,spinal_canal_stenosis,,l1_l2,severe\n"
    )
    with pytest.raises(ValueError, match=r"submission\.csv: row "):
        score_submission(tmp_path / "submission.csv", tmp_path / "truth.csv")


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"sample\.csv: not a CSV file"):
        write_submission(tmp_path / "submission.csv", [7], random_probabilities(1), tmp_path / "sample.csv")


def test_site_index_is_the_order_of_sites() -> None:
    assert [SITE_INDEX[site] for site in SITES] == list(range(25))
