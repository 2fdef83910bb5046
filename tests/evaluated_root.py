"""A small phantom cohort with an evaluated run: what the tests of predictions and of `load_run` read."""

import json
import sys
from pathlib import Path
from typing import Literal

import pytest

from data_prep.conversion.pairs import read_dataset
from data_prep.phantom.cohort import write_cohort
from workspace.cli import run_command


def run_here(module: object, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a script in this process and return its exit status."""
    name = f"{module.__name__}.py"  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as left:
        run_command(name, module.main)  # type: ignore[attr-defined]
    return int(left.value.code or 0)


def write_run(
    root: Path, run: str, base: str, held_out_folds: list[int], seed: int = 0, tune: Literal["lora", "full"] = "lora"
) -> None:
    """Write a finished run as train_vl.py leaves it, whose adapters or towers have not learned anything yet."""
    import torch

    from vl_model.model.settings import ModelSettings
    from vl_model.model.site_model import build_site_model
    from vl_model.model.site_model_files import save_site_model

    folder = root / "train" / "checkpoints" / run
    fingerprint = read_dataset(root / "train" / "processed_data").fingerprint
    torch.manual_seed(seed)
    model = build_site_model(ModelSettings(base, tune=tune))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1 * seed)
    save_site_model(model, folder / "final", {"dataset_fingerprint": fingerprint, "steps": 0})
    record = {"settings": {"model": base}, "held_out_folds": held_out_folds, "dataset_fingerprint": fingerprint}
    record["finished"] = True
    (folder / "run.json").write_text(json.dumps(record))


def write_evaluated_root(root: Path, base: str) -> None:
    """Write a prepared cohort of five training and two test studies, the evaluated run `first`, and `unevaluated`."""
    import eval_vl
    import prepare_data

    write_cohort(root, train=5, test=2, seed=3, scanners="first", size="small", workers=1, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        assert run_here(prepare_data, ["--root", str(root), "--workers", "1"], patch) == 0
        write_run(root, "first", base, [0, 1])
        write_run(root, "unevaluated", base, [0, 1])
        assert run_here(eval_vl, ["--root", str(root), "--run", "first"], patch) == 0
