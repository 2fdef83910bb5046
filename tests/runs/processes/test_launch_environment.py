"""accelerate's variables do not change a training: they are hidden, and said."""

import json
from pathlib import Path

import pytest

from runs.processes.launch_environment import ignored_in_words, ignored_variables
from tests.training_runs import Train, assert_same_result

NEUTRAL = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_MIN_NUM_PARAMS": "100000000",
    "ACCELERATE_LOG_LEVEL": "info",
}
CHANGING = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "true",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_SPLIT_BATCHES": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "FSDP_ACTIVATION_CHECKPOINTING": "true",
    "PARALLELISM_CONFIG_TP_SIZE": "2",
}


def test_variables_that_would_change_the_training_are_named() -> None:
    assert not ignored_variables(NEUTRAL)
    assert ignored_variables(NEUTRAL | CHANGING) == CHANGING
    lines = ignored_in_words(CHANGING)
    assert "ACCELERATE_DYNAMO_BACKEND=EAGER is ignored: --compile decides" in lines
    assert "ACCELERATE_SPLIT_BATCHES=true is ignored" in lines


def test_the_environment_does_not_train_behind_the_flags_back(
    train: Train, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--max_train_steps", "2", "--per_device_train_batch_size", "10"]
    assert train("plain", *arguments) == 0
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")  # which is no word of accelerate's
    left_over = {"RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node7"}
    ended_job = {"SLURM_JOB_END_TIME": "1700000000"}
    for name, value in (CHANGING | left_over | ended_job).items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert train("heckled", *arguments) == 0
    said = capsys.readouterr().out
    for name in CHANGING:
        assert f"note: {name}=" in said
    assert "note: LOCAL_WORLD_SIZE=4 RANK=1 LOCAL_RANK=1 MASTER_ADDR=node7: ignored" in said.replace(
        "RANK=1 LOCAL_WORLD_SIZE=4", "LOCAL_WORLD_SIZE=4 RANK=1"
    )
    assert_same_result(tiny_root, "plain", "heckled")
    record = json.loads((tiny_root / "train" / "checkpoints" / "heckled" / "run.json").read_text())
    assert record["ignored_environment"] == CHANGING | left_over | ended_job
    told = {name: record[name] for name in ("processes", "processes_a_machine", "launcher", "sharded", "compiled")}
    assert told == {
        "processes": 1,
        "processes_a_machine": 1,
        "launcher": "python",
        "sharded": False,
        "compiled": False,
    }
    assert record["mixed_precision"] == "no" and record["gradient_accumulation_steps"] == 1
    assert record["environment"]["OMP_NUM_THREADS"] == "1"


def test_a_run_that_is_alone_is_locked(
    train: Train, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from workspace.locks import locked

    monkeypatch.setenv("RANK", "1")
    run = tiny_root / "train" / "checkpoints" / "held"
    run.mkdir(parents=True)
    with locked(run / ".lock", "training this run"):
        assert train("held", "--max_train_steps", "1") == 2
    assert "is training this run" in capsys.readouterr().err
