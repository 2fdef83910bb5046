"""The launch is read from the launcher's arguments and configuration files."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runs import launch
from runs.launch import Launch, read_launch, threads_per_process


def test_launch_is_read_from_the_launchers_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = tmp_path / "two.yaml"
    config.write_text("num_processes: 2\nuse_cpu: true\n")
    assert read_launch([]) == Launch()  # neither a configuration file nor arguments
    assert read_launch(["--config_file", str(config)]) == Launch(2, use_cpu=True)
    assert read_launch(["--config_file", str(config), "--num_processes=4"]) == Launch(4, use_cpu=True)
    assert read_launch(["--cpu", "--num_processes", "3", "--mixed_precision", "no"]) == Launch(3, use_cpu=True)
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.json").write_text(json.dumps({"num_processes": 8}))
    assert read_launch(["--mixed_precision", "no"]) == read_launch([]) == Launch(8)


def test_the_default_configuration_file_is_read_if_the_launcher_has_no_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_processes: 2\nuse_cpu: true\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_vl.py", "--run", "x"])
    parent = SimpleNamespace(cmdline=lambda: ["python", "/bin/accelerate", "launch", "train_vl.py", "--run", "x"])
    monkeypatch.setattr(launch.psutil, "Process", lambda _: parent)
    with pytest.raises(ValueError, match="configured for 2 processes but started 1"):
        launch.check_launch()
    parent.cmdline = lambda: ["bash"]
    assert launch.check_launch() == Launch()


def test_cores_are_divided_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_process() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert threads_per_process() == 1
