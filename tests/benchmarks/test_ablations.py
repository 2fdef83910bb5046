"""The ablations on a tiny data set: results are kept between runs, and conditions differ as their names state."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from benchmarks import ablations
from benchmarks.ablation_conditions import CONDITIONS, Condition, named
from benchmarks.ablation_run import MovingAverage, Plan, with_first_views, write_unmirrored
from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import Side
from vl_model.data.site_rows import group_sites
from vl_model.scoring.metrics import StudySums

CHOSEN = ["right sides not mirrored", "bare base"]


@pytest.fixture
def plan(tiny_root: Path, tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # restored after the test
    processed = tiny_root / "train" / "processed_data"
    write_unmirrored(processed, tmp_path / "unmirrored.npy")
    return Plan(str(processed), tiny_base, str(tmp_path / "unmirrored.npy"), 1, 8, "no")


def test_conditions_are_computed_once_and_printed(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "ablations.jsonl"
    conditions = named(CHOSEN)
    ablations.measure(results, plan, conditions[:2], seeds=range(1), workers=1)
    lines = results.read_text().splitlines()
    assert len(lines) == 2
    # A kill has cut the file off within a line: that result is computed again, with the same scores, then the others.
    results.write_text("\n".join(lines)[:-40])
    ablations.measure(results, plan, conditions, seeds=range(1), workers=1)
    again = results.read_text().splitlines()
    assert again[0] == lines[0] and len(again) == 3
    assert json.loads(again[1])["loss"] == json.loads(lines[1])["loss"]
    capsys.readouterr()
    ablations.measure(results, plan, conditions, seeds=range(1), workers=1)
    out, err = capsys.readouterr()
    assert err.startswith("0 of 3 results") and results.read_text().splitlines() == again
    table = [row for row in out.splitlines() if row.startswith("| ")]
    assert [row.split(" | ")[0] for row in table[1:]] == [f"| {condition.name}" for condition in conditions]
    assert "minus default" in table[0] and table[1].count("to") == 2 and table[2].count("to") == 4

    assert f"{plan.steps} steps of {plan.batch_size} sites, seed 0. " in out

    ablations.measure(results, plan, conditions[:1], seeds=range(1, 2), workers=1)  # a further seed, by itself
    out, err = capsys.readouterr()
    assert err.startswith("1 of 1 results") and "sites, seed 1. " in out
    assert results.read_text().splitlines()[:3] == again
    ablations.measure(results, plan, conditions[:1], seeds=range(2), workers=1)
    out, err = capsys.readouterr()
    assert err.startswith("0 of 2 results") and "mean of the seeds 0 to 1. " in out

    older = json.loads(again[2])
    del older["settings"]["averaging"]  # a result from before this setting existed
    assert ablations.is_done(ablations.Job(conditions[2], 0), {(conditions[2].name, 0): older})

    other = replace(plan, steps=3)
    assert not ablations.read_results(results, other)  # results of another training length are ignored
    changed = ablations.Job(replace(conditions[1], learning_rate=1.0), 0)
    found = ablations.read_results(results, plan)
    assert not ablations.is_done(changed, found) and ablations.is_done(ablations.Job(conditions[1], 0), found)


def test_a_condition_that_is_not_allowed_is_left_out_and_the_others_are_compared(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = named(["bare base"])[-1]
    too_wide = replace(bare, name="too wide", view_mm=500.0)
    results = tmp_path / "ablations.jsonl"
    ablations.measure(results, plan, [bare, too_wide], seeds=range(1), workers=1)
    out, err = capsys.readouterr()
    assert "too wide is left out: " in err and "500" in err
    assert "| bare base |" in out and "too wide" not in out
    with pytest.raises(ValueError, match="to which others are compared"):
        ablations.measure(results, plan, [too_wide, bare], seeds=range(1), workers=1)


def test_differences_by_seed_are_of_the_graded_parts() -> None:
    """A cohort that grades one condition has no whole score."""
    weight_SG = np.tile([0.0, 1.0, 0.0, 0.0], (4, 1))
    own, default = (StudySums(np.arange(4), weight_SG * loss, weight_SG) for loss in (0.5, 0.75))
    assert ablations.differences_by_seed([own], [default]) == "-0.250"


def test_an_unreadable_line_is_reported_with_its_number(plan: Plan, tmp_path: Path) -> None:
    results = tmp_path / "ablations.jsonl"
    results.write_text('{"plan": 1}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2 is not a result of this benchmark"):
        ablations.read_results(results, plan)


def test_unmirrored_crops_differ_from_the_crops_on_the_right_alone(plan: Plan, tiny_root: Path) -> None:
    processed = tiny_root / "train" / "processed_data"
    stored, unmirrored = open_crops(processed), np.load(plan.unmirrored, mmap_mode="r")
    for row in group_sites(read_dataset(processed).pairs)[:50]:
        for crop, view in zip(row.crops, row.views, strict=True):
            axis = 0 if view.is_sagittal else 2
            expected = np.flip(stored[crop], axis) if row.site.side is Side.RIGHT else stored[crop]
            assert np.array_equal(unmirrored[crop], expected)


def test_the_first_view_is_the_one_that_readers_mark(tiny_root: Path) -> None:
    for row in group_sites(read_dataset(tiny_root / "train" / "processed_data").pairs):
        found = with_first_views(row, 1)
        assert found.views == row.views[:1] and found.crops == row.crops[:1] and with_first_views(row, 2) == row


def test_conditions_have_different_names_and_settings() -> None:
    assert len({condition.name for condition in CONDITIONS}) == len(CONDITIONS)
    for condition in CONDITIONS[1:]:
        assert replace(condition, name=CONDITIONS[0].name) != CONDITIONS[0]
    assert CONDITIONS[0] == Condition("default")
    with pytest.raises(ValueError, match="--conditions 'mixup'"):
        named(["mixup"])


def test_the_moving_average_equals_a_direct_computation() -> None:
    layer = torch.nn.Linear(2, 1)
    weights = [layer.weight.detach().clone()]
    average = MovingAverage(layer, 0.5)
    for _ in range(30):
        with torch.no_grad():
            layer.weight += torch.randn(1, 2)
        weights.append(layer.weight.detach().clone())
        average.add()
    factors = [0.5**age for age in reversed(range(len(weights)))]
    expected = sum(factor * weight for factor, weight in zip(factors, weights, strict=True)) / sum(factors)
    average.copy_to_model()
    assert torch.allclose(layer.weight, expected, atol=1e-6)
    without_decay = MovingAverage(layer, 0.0)
    with torch.no_grad():
        layer.weight += 1
    last = layer.weight.detach().clone()
    without_decay.add()
    without_decay.copy_to_model()
    assert torch.equal(layer.weight, last)
