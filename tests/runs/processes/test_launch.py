"""The launch is read from the launcher's arguments and configuration files."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runs.processes import launch
from runs.processes.launch import Launch, read_launch, threads_per_process
from workspace.cli import usable_cores


def test_launch_is_read_from_the_launchers_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    config = tmp_path / "two.yaml"
    config.write_text("num_processes: 2\nuse_cpu: true\n")
    assert read_launch([]) == Launch()  # neither a configuration file nor arguments
    assert read_launch(["--config_file", str(config)]) == Launch(2, use_cpu=True)
    assert read_launch(["--config_file", str(config), "--num_processes=4"]) == Launch(4, use_cpu=True)
    assert read_launch(["--cpu", "--num_processes", "3", "--mixed_precision", "no"]) == Launch(3, use_cpu=True)
    assert read_launch(["--cpu", "--config_file", str(config)]) == Launch(2, use_cpu=True)
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.json").write_text(json.dumps({"num_processes": 8}))
    assert read_launch(["--cpu"]) == Launch(None, use_cpu=True)  # as accelerate, which reads no default file then
    assert read_launch(["--mixed_precision", "no"]) == read_launch([]) == Launch(8)


def test_the_default_configuration_file_is_read_if_the_launcher_has_no_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_processes: 2\nuse_cpu: true\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_vl.py", "--run", "x"])
    script = ["train_vl.py", "--run", "x"]
    for command in (
        ["python", "/bin/accelerate", "launch", *script],
        ["/bin/accelerate-launch", *script],
        ["python", "-m", "accelerate.commands.launch", *script],
        ["python", "-m", "accelerate.commands.accelerate_cli", "launch", "/somewhere/train_vl.py", "--run", "x"],
        ["python", "-c", "from accelerate.commands.launch import main; main()", "-m", "train_vl", "--run", "x"],
        ["/envs/a/bin/python3.11", "/envs/a/lib/accelerate/commands/launch.py", "--mixed_precision", "no", *script],
    ):
        monkeypatch.setattr(launch.psutil, "Process", lambda _, command=command: ancestors(["bash"], command, ["srun"]))
        with pytest.raises(ValueError, match="configured for 2 processes but started 1"):
            launch.check_launch()
    for command in (
        ["bash"],
        ["/envs/accelerate/bin/torchrun", "--nproc_per_node", "1", *script],
        ["python", "launch_all.py", "--config", "accelerate_configs/cpu_2.yaml", *script],
        ["/bin/accelerate", "launch", "another.py"],
    ):
        monkeypatch.setattr(launch.psutil, "Process", lambda _, command=command: ancestors(command))
        assert launch.check_launch() == Launch()


def ancestors(*commands: list[str]) -> SimpleNamespace | None:
    """Stand in for a process and its parents, which have these command lines."""
    if not commands:
        return None
    return SimpleNamespace(cmdline=lambda: commands[0], parent=lambda: ancestors(*commands[1:]))


@pytest.mark.parametrize("name", ["ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG"])
def test_a_training_that_there_is_not_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "True")
    with pytest.raises(ValueError, match=f"{name} is set"):
        launch.check_launch()


def test_a_flag_of_the_environment_is_yes_or_no(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("yes", True), ("1", True), ("True", True), ("off", False), ("", False)):
        monkeypatch.setenv("ACCELERATE_USE_CPU", value)
        assert launch.check_launch().use_cpu == expected
    monkeypatch.setenv("ACCELERATE_USE_CPU", "maybe")
    with pytest.raises(ValueError, match="ACCELERATE_USE_CPU='maybe': should be true or false"):
        launch.check_launch()


def test_tasks_of_srun_without_a_world_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    [note] = launch.check_launch().notes
    assert note.startswith("srun started 4 tasks")


def test_cores_are_divided_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_process() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    alone = threads_per_process()  # of a job that is over: this process is alone
    for name, value in {"RANK": "0", "WORLD_SIZE": "1000", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert threads_per_process() == 1 and alone == usable_cores()
