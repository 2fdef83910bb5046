"""The submission: format, order and floor."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.sites import SITES, SUBMISSION_SITES
from vl_model.scoring.submission import FLOOR, _check, floored, read_sample_submission, write_submission


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


def test_a_damaged_submission_is_a_defect_that_no_flag_hides(tmp_path: Path) -> None:
    """The writer's own check raises, and is no assertion, which ``python -O`` would leave out."""
    path = tmp_path / "submission.csv"
    write_submission(path, [7], random_probabilities(1))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[1]]))
    with pytest.raises(RuntimeError, match="one of them twice"):
        _check(path, 1)
    name = lines[-1].partition(",")[0]
    path.write_text("\n".join([*lines[:-1], f"{name},0.5,0.5,0.5"]))
    with pytest.raises(RuntimeError, match="of another sum than 1"):
        _check(path, 1)


def write_sample(path: Path, row_ids: list[str]) -> Path:
    pd.DataFrame({"row_id": row_ids, "severe": 1 / 3}).to_csv(path, index=False)
    return path


def test_a_samples_order_is_kept_and_what_differs_is_said(tmp_path: Path) -> None:
    own = [f"{study}_{site.key}" for study in (20, 3) for site in reversed(SUBMISSION_SITES)]
    lacking = own.pop(7)
    sample = read_sample_submission(write_sample(tmp_path / "sample.csv", own))
    assert sample.study_ids == (20, 3)
    study_ids = [3, 20, 5]
    path = tmp_path / "submission.csv"
    assert write_submission(path, study_ids, random_probabilities(3), order=sample.order(study_ids)) == ""
    rows = list(pd.read_csv(path)["row_id"])
    assert rows[: len(own)] == own
    assert set(rows[len(own) :]) == {lacking, *(f"5_{site.key}" for site in SITES)}
    surplus, lacks = sample.notes([3, 20, 5])
    assert surplus == "sample.csv has no row for 1 study (5), whose rows follow its own"
    assert lacks == f"sample.csv lacks 1 row ({lacking}) of its own studies, which follow its own rows"
    usual = [f"{study}_{site.key}" for study in (3, 20) for site in SUBMISSION_SITES]
    (named,) = read_sample_submission(write_sample(tmp_path / "b.csv", usual)).notes([3])
    assert named == "b.csv names 1 study (20) without images, which get the best constants"
    (other,) = read_sample_submission(write_sample(tmp_path / "c.csv", usual[::-1])).notes([3, 20])
    assert other == "c.csv has another order than by study id and site, which is kept"


def test_an_order_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    usual = [f"{study}_{site.key}" for study in (3, 20) for site in SUBMISSION_SITES]
    sample = write_sample(tmp_path / "sample.csv", usual)
    path = tmp_path / "submission.csv"
    assert write_submission(path, [20, 3], random_probabilities(2), sample) == ""
    why = write_submission(path, [20, 4], random_probabilities(2), sample)
    assert why == "sample.csv lacks 25 of its rows and has 25 others: the order is by study id and site"


@pytest.mark.parametrize(
    ("row_ids", "said"),
    [
        (["7_knee"], "line 2: 'knee' is not a site"),
        (["x_spinal_canal_stenosis_l1_l2"], "line 2: row id 'x_spinal_canal_stenosis_l1_l2' does not begin with"),
        (["7_spinal_canal_stenosis_l1_l2"] * 2, "line 3: row id '7_spinal_canal_stenosis_l1_l2' appears twice"),
    ],
)
def test_a_wrong_sample_is_refused(row_ids: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sample\.csv") as refused:
        read_sample_submission(write_sample(tmp_path / "sample.csv", row_ids))
    assert said in str(refused.value)
