"""accelerate reads every launch configuration, and the Slurm script runs with stand-ins for Slurm's commands."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from runs.processes.launch import read_launch

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "accelerate_configs"
SLURM_SCRIPT = CONFIGS / "slurm.sbatch"
STAND_INS = Path(__file__).parent / "slurm_stand_in"
PROCESSES = {"cpu": 1, "cpu_2": 2, "one_gpu": 1, "multi_gpu": 2, "kaggle_t4x2": 2, "multi_node": 8, "fsdp2": 2}


def test_every_configuration_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == PROCESSES.keys()


@pytest.mark.parametrize(("name", "processes"), PROCESSES.items())
def test_accelerate_and_read_launch_agree(name: str, processes: int) -> None:
    path = str(CONFIGS / f"{name}.yaml")
    config = load_config_from_file(path)  # refuses unknown keys
    assert isinstance(config, ClusterConfig) and config.num_processes == processes
    arguments, *_ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", path, "train_vl.py", "--seed", "1"])
    )
    assert arguments.num_processes == processes and arguments.training_script == "train_vl.py"
    assert (arguments.multi_gpu or arguments.use_fsdp) == (processes > 1)  # started by torchrun
    assert arguments.use_fsdp == (name == "fsdp2") and (not arguments.use_fsdp or arguments.fsdp_version == 2)
    launch = read_launch(["--config_file", path])
    assert (launch.processes, launch.use_cpu) == (processes, name.startswith("cpu"))


@pytest.mark.parametrize(
    "path",
    [SLURM_SCRIPT, *STAND_INS.iterdir(), REPOSITORY / "demo" / "run.sh", REPOSITORY / ".ci" / "run"],
    ids=lambda path: path.name,
)
def test_shellcheck_finds_nothing(path: Path) -> None:
    done = subprocess.run([Path(sys.executable).parent / "shellcheck", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def slurm_environment(root: Path, run: str, nodes: int, tmp_path: Path) -> dict[str, str]:
    """Return the environment that Slurm would set on its first node, if each node has one GPU."""
    return {
        **os.environ,
        "PATH": f"{STAND_INS}:{os.environ['PATH']}",
        "SCONTROL_CALLS": str(tmp_path / "scontrol.txt"),
        "LUMBAR_ROOT": str(root),
        "LUMBAR_RUN": run,
        "LUMBAR_ENVIRONMENT": sys.prefix,
        "SLURM_JOB_ID": str(os.getpid()),  # the port depends on it, and differs between tests
        "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
        "SLURM_NNODES": str(nodes),
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "1",
        "HF_HOME": "/nonexistent",
    }


def test_the_slurm_script_starts_one_run_on_two_nodes(tiny_root: Path, tiny_base: str, tmp_path: Path) -> None:
    """Two launchers on one machine start one training of two processes, and run.json records it."""
    arguments = ["--model", tiny_base, "--max_train_steps", "2", "--per_device_train_batch_size", "10"]
    done = subprocess.run(
        ["bash", SLURM_SCRIPT, *arguments, "--report_to", "none"],
        cwd=REPOSITORY,
        env=slurm_environment(tiny_root, "nodes", 2, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes, device cpu" in done.stdout and "it starts at the first step" in done.stdout
    record = json.loads((tiny_root / "train" / "checkpoints" / "nodes" / "run.json").read_text())
    assert record["processes"] == 2 and record["finished"]
    with (tiny_root / "train" / "logs" / "nodes" / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"]
    assert (tmp_path / "scontrol.txt").read_text() == "show hostnames node[1-2]\n"  # the job is not requeued


def test_a_job_that_runs_out_of_time_is_requeued(tiny_root: Path, tiny_base: str, tmp_path: Path) -> None:
    """Slurm signals the batch script only: the run stops with a checkpoint, and the job is requeued."""
    arguments = ["--model", tiny_base, "--max_train_steps", "100000", "--per_device_train_batch_size", "10"]
    environment = slurm_environment(tiny_root, "short", 1, tmp_path)
    run = tiny_root / "train" / "checkpoints" / "short"
    with subprocess.Popen(
        ["bash", SLURM_SCRIPT, *arguments, "--report_to", "none"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        wait_for_rows(tiny_root / "train" / "logs" / "short" / "metrics.csv", job)
        job.send_signal(signal.SIGUSR1)
        output, errors = job.communicate()
    assert job.returncode == 0, errors
    assert "run short is not finished" in output
    assert (tmp_path / "scontrol.txt").read_text().splitlines()[-1] == f"requeue {os.getpid()}"
    assert not json.loads((run / "run.json").read_text())["finished"] and list(run.glob("checkpoint-*/state.json"))


CLOCK = "the end of the Slurm job"


@pytest.mark.parametrize(
    ("record", "step", "launcher_status", "status", "words", "is_requeued"),
    [
        ({"finished": True}, 9, 0, 0, "", False),
        ({"finished": False, "stopped_by": CLOCK}, 9, 0, 0, "job 7 is requeued", True),
        ({"finished": False, "stopped_by": "the file STOP"}, 9, 0, 0, "was not stopped by Slurm", False),
        ({"finished": False, "stopped_by": "SIGTERM"}, 9, 0, 0, "was not stopped by Slurm", False),
        # Requeuing would go on for ever: an evaluation before the next step takes longer than the job.
        ({"finished": False, "stopped_by": CLOCK}, 5, 0, 1, "wrote no new checkpoint before it had to stop", False),
        # This start failed before it wrote its record: run.json is that of an earlier start.
        ({"finished": False, "stopped_by": CLOCK}, 5, 2, 2, "failed with status 2", False),
    ],
)
def test_a_job_is_requeued_if_its_time_limit_stopped_it_after_a_step(
    record: dict[str, object],
    step: int,
    launcher_status: int,
    status: int,
    words: str,
    is_requeued: bool,
    tmp_path: Path,
) -> None:
    """Replace srun by a script that writes the record and the newest checkpoint of a run resumed from step 5.

    Args:
        record: the content of run.json.
        step: the step of the newest checkpoint.
        launcher_status: the exit status of srun.
        status, words, is_requeued: the batch script's exit status, its message, and whether it requeues the job.
    """
    written, run = tmp_path / "written", tmp_path / "train" / "checkpoints" / "quick"
    for checkpoint in (run / "checkpoint-5", written / f"checkpoint-{step}"):
        checkpoint.mkdir(parents=True)
    (run / "checkpoint-5" / "state.json").touch()
    if step != 5:
        (written / f"checkpoint-{step}" / "state.json").touch()
    (written / "run.json").write_text(json.dumps(record, indent=2))
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f"#!/bin/bash\ncp -r '{written}'/. '{run}'\nexit {launcher_status}\n")
    srun.chmod(0o755)
    environment = slurm_environment(tmp_path, "quick", 1, tmp_path) | {"SLURM_JOB_ID": "7"}
    environment["PATH"] = f"{srun.parent}:{environment['PATH']}"
    done = subprocess.run(["bash", SLURM_SCRIPT], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == status and words in done.stdout + done.stderr
    assert ("requeue 7" in (tmp_path / "scontrol.txt").read_text()) == is_requeued


def wait_for_rows(metrics: Path, job: "subprocess.Popen[str]") -> None:
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2):
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)
