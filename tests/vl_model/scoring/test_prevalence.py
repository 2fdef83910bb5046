"""Prevalences: the shift against Bayes' rule row by row, and what is refused of a file."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.sites import SITES, Condition
from vl_model.data.site_table import CONDITIONS, full_table, site_table
from vl_model.scoring.metric_optimum import MetricRule
from vl_model.scoring.prevalence import prevalence_shift, read_prevalences

EXAMPLES = np.array([[80, 15, 5], [60, 30, 10], [50, 30, 20]])


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["condition,severity,prevalence", *rows]) + "\n")
    return path


def test_probabilities_follow_from_the_new_prevalences(tmp_path: Path) -> None:
    rows = (
        "Spinal canal stenosis,Normal/Mild,0.7",
        "spinal_canal_stenosis,moderate,0.1",
        "spinal_canal_stenosis,severe,0.2",
    )
    new = read_prevalences(write(tmp_path / "new.csv", *rows))
    assert new == {Condition.SPINAL_CANAL_STENOSIS: pytest.approx((0.7, 0.1, 0.2))}
    shift = prevalence_shift(new, EXAMPLES)
    table = full_table([3, 7], site_table([]))
    prob_N3 = np.random.default_rng(0).dirichlet((3, 1, 1), len(table))
    shifted_N3 = shift.shift(prob_N3, table)
    for row, site in enumerate(table.site_N):
        if SITES[site].condition is not Condition.SPINAL_CANAL_STENOSIS:
            assert shifted_N3[row] == pytest.approx(prob_N3[row])
            continue
        weights = [p * now / was for p, now, was in zip(prob_N3[row], (0.7, 0.1, 0.2), (0.8, 0.15, 0.05), strict=True)]
        assert shifted_N3[row] == pytest.approx([weight / sum(weights) for weight in weights])
    [line] = shift.lines()
    assert "Severe 0.050 -> 0.200" in line and "calibrators learned from" in line


def test_the_weights_of_the_metric_move_with_the_prevalences() -> None:
    same = prevalence_shift({Condition.SPINAL_CANAL_STENOSIS: (0.8, 0.15, 0.05)}, EXAMPLES)
    more = prevalence_shift({Condition.SPINAL_CANAL_STENOSIS: (0.6, 0.3, 0.1)}, EXAMPLES)
    rule = MetricRule(spinal_weight=6.5, any_severe_weight=1.7, dependence=0.3)
    assert vars(same.rule(rule)) == pytest.approx(vars(rule))
    assert more.rule(rule).spinal_weight == pytest.approx(6.5 * 1.6 / 1.3)
    assert more.rule(rule).any_severe_weight == pytest.approx(1 + 0.7 * 0.6 / 0.3)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["canal,severe,0.1"], "line 2: 'canal' is not a condition"),
        (["spinal_canal_stenosis,awful,0.1"], "line 2: 'awful' is not a severity"),
        (["spinal_canal_stenosis,severe,10%"], "line 2: '10%' is not a prevalence"),
        (["spinal_canal_stenosis,severe,0"], "line 2: '0' is not a prevalence"),
        (["spinal_canal_stenosis,severe,0.1"], "no row for normal_mild"),
        (["spinal_canal_stenosis,severe,0.1", "spinal_canal_stenosis,Severe,0.1"], "line 3: "),
        ([f"spinal_canal_stenosis,{grade},0.3" for grade in ("normal_mild", "moderate", "severe")], "have the sum 0.9"),
        ([], "has no row"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(rows: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"new\.csv") as refused:
        read_prevalences(write(tmp_path / "new.csv", *rows))
    assert said in str(refused.value)


def test_a_severity_without_an_example_cannot_be_shifted() -> None:
    examples = np.array([[80, 20, 0], [60, 30, 10], [0, 0, 0]])
    new = {Condition.SPINAL_CANAL_STENOSIS: (0.7, 0.2, 0.1)}
    with pytest.raises(ValueError, match="spinal_canal_stenosis: no Severe site"):
        prevalence_shift(new, examples)
    left_alone = prevalence_shift({}, examples)
    assert (left_alone.new_K3 == left_alone.old_K3).all() and len(left_alone.old_K3) == len(CONDITIONS)
