"""Tests of runs/processes/accelerators.py: the precision of each device."""

import pytest
import torch

from runs.processes import accelerators
from runs.processes.accelerators import choose_precision


def test_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", use_cpu=True) == "no" and choose_precision("bf16", use_cpu=True) == "bf16"
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert choose_precision("auto", use_cpu=False) == choose_precision("fast", use_cpu=False) == expected
    for has_instructions, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(accelerators, "cpu_computes_in_bf16", lambda answer=has_instructions: answer)
        assert choose_precision("fast", use_cpu=True) == expected
