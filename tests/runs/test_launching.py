"""The launch configurations: all understood by accelerate, and the Slurm script run under stand-ins for Slurm."""

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

from runs.launch import read_launch

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "accelerate_configs"
SLURM_SCRIPT = CONFIGS / "slurm.sbatch"
STAND_INS = Path(__file__).parent / "slurm_stand_in"
PROCESSES = {"cpu": 1, "cpu_2": 2, "one_gpu": 1, "multi_gpu": 2, "kaggle_t4x2": 2, "multi_node": 8, "fsdp2": 2}


def test_every_configuration_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == PROCESSES.keys()


@pytest.mark.parametrize(("name", "processes"), PROCESSES.items())
def test_accelerate_and_we_read_the_same(name: str, processes: int) -> None:
    path = str(CONFIGS / f"{name}.yaml")
    config = load_config_from_file(path)  # refuses keys that it does not know
    assert isinstance(config, ClusterConfig) and config.num_processes == processes
    arguments, *_ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", path, "train_vl.py", "--seed", "1"])
    )
    assert arguments.num_processes == processes and arguments.training_script == "train_vl.py"
    assert (arguments.multi_gpu or arguments.use_fsdp) == (processes > 1)  # torchrun's workers
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
    """What Slurm would set on the first of its nodes of one GPU each."""
    return {
        **os.environ,
        "PATH": f"{STAND_INS}:{os.environ['PATH']}",
        "SCONTROL_CALLS": str(tmp_path / "scontrol.txt"),
        "LUMBAR_ROOT": str(root),
        "LUMBAR_RUN": run,
        "LUMBAR_ENVIRONMENT": sys.prefix,
        "SLURM_JOB_ID": str(os.getpid()),  # of which the port is made: each test's own
        "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
        "SLURM_NNODES": str(nodes),
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "1",
        "HF_HOME": "/nonexistent",
    }


def test_the_slurm_script_starts_one_run_on_two_nodes(tiny_root: Path, tiny_base: str, tmp_path: Path) -> None:
    """Two launchers and one rendezvous on loopback: one world of two processes, whose record says so."""
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
    assert (tmp_path / "scontrol.txt").read_text() == "show hostnames node[1-2]\n"  # nothing is queued again


def test_a_job_that_runs_out_of_time_is_queued_again(tiny_root: Path, tiny_base: str, tmp_path: Path) -> None:
    """Slurm's signal comes to the batch script alone: the run ends with a state, and the job is queued again."""
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
        said, complaints = job.communicate()
    assert job.returncode == 0, complaints
    assert "run short is not finished" in said
    assert (tmp_path / "scontrol.txt").read_text().splitlines()[-1] == f"requeue {os.getpid()}"
    assert not json.loads((run / "run.json").read_text())["finished"] and list(run.glob("checkpoint-*/state.json"))


CLOCK = "the end of the Slurm job"


@pytest.mark.parametrize(
    ("record", "step", "ended", "status", "words", "is_queued"),
    [
        ({"finished": True}, 9, 0, 0, "", False),
        ({"finished": False, "stopped_by": CLOCK}, 9, 0, 0, "job 7 is queued again", True),
        ({"finished": False, "stopped_by": "the file STOP"}, 9, 0, 0, "was not stopped by Slurm", False),
        ({"finished": False, "stopped_by": "SIGTERM"}, 9, 0, 0, "was not stopped by Slurm", False),
        # It would be so for ever: an evaluation that is due before the next step takes longer than the job.
        ({"finished": False, "stopped_by": CLOCK}, 5, 0, 1, "wrote no new checkpoint in this job", False),
        # An earlier start's record: this one failed before it wrote its own.
        ({"finished": False, "stopped_by": CLOCK}, 5, 2, 2, "failed with status 2", False),
    ],
)
def test_a_job_is_queued_again_where_its_clock_stopped_it_after_a_step(
    record: dict[str, object], step: int, ended: int, status: int, words: str, is_queued: bool, tmp_path: Path
) -> None:
    """After a run that went on from step 5 and left that record, that newest state, and a launcher that ended so."""
    left, run = tmp_path / "left", tmp_path / "train" / "checkpoints" / "quick"
    for state in (run / "checkpoint-5", left / f"checkpoint-{step}"):
        state.mkdir(parents=True)
    (run / "checkpoint-5" / "state.json").touch()
    if step != 5:
        (left / f"checkpoint-{step}" / "state.json").touch()
    (left / "run.json").write_text(json.dumps(record, indent=2))
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f"#!/bin/bash\ncp -r '{left}'/. '{run}'\nexit {ended}\n")
    srun.chmod(0o755)
    environment = slurm_environment(tmp_path, "quick", 1, tmp_path) | {"SLURM_JOB_ID": "7"}
    environment["PATH"] = f"{srun.parent}:{environment['PATH']}"
    done = subprocess.run(["bash", SLURM_SCRIPT], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == status and words in done.stdout + done.stderr
    assert ("requeue 7" in (tmp_path / "scontrol.txt").read_text()) == is_queued


def wait_for_rows(metrics: Path, job: "subprocess.Popen[str]") -> None:
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2):
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)
