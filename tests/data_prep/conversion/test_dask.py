"""Conversion on a Dask cluster: a real scheduler and two worker processes on loopback."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data_prep.phantom import write_cohort
from recipes import prepare_on_slurm

PROJECT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


@dataclass
class Cluster:
    address: str
    scheduler: "subprocess.Popen[bytes]"
    workers: list["subprocess.Popen[bytes]"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    place = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": ENVIRONMENT, "cwd": tmp_path}

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", *arguments], **quiet)  # type: ignore[call-overload]

    scheduler = start(
        "distributed.cli.dask_scheduler",
        *("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(place)),
    )
    worker = ("distributed.cli.dask_worker", "--scheduler-file", str(place), "--nthreads", "1")
    workers = [start(*worker, "--no-nanny", "--no-dashboard", "--host", "127.0.0.1") for _ in range(2)]
    try:
        wait_for(place)
        yield Cluster(json.loads(place.read_text())["address"], scheduler, workers)
    finally:
        for process in [*workers, scheduler]:
            process.kill()
            process.wait()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and (path.is_dir() or path.read_text().rstrip().endswith("}"))):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("dask"), train=3, test=0, seed=41)


def start(root: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "prepare_data.py", "--root", str(root), "--split", "train", *flags]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def copy_of(root: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "dataset").symlink_to(root / "dataset")
    return folder


def outputs(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("train/**/*") if path.is_file()}


@pytest.fixture(scope="module")
def here(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that a single process of this machine writes."""
    copy = copy_of(root, tmp_path_factory.mktemp("here") / "root")
    _, errors = (process := start(copy, "--workers", "1")).communicate()
    assert process.returncode == 0, errors
    return outputs(copy)


def start_on(cluster: Cluster, root: Path, folder: Path) -> tuple[Path, "subprocess.Popen[str]"]:
    """Start a conversion of a copy of the root by the cluster, and wait until it writes images."""
    copy = copy_of(root, folder / "root")
    process = start(copy, "--dask_scheduler", cluster.address)
    wait_for(copy / "train" / "processed_data" / "images")
    return copy, process


def test_a_cluster_writes_the_same_bytes_also_when_a_worker_is_killed(
    root: Path, here: dict[str, bytes], cluster: Cluster, tmp_path: Path
) -> None:
    copy, process = start_on(cluster, root, tmp_path)
    cluster.workers[0].kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert outputs(copy) == here


def test_a_lost_cluster_is_one_line_and_any_pool_resumes(
    root: Path, here: dict[str, bytes], cluster: Cluster, tmp_path: Path
) -> None:
    copy, process = start_on(cluster, root, tmp_path)
    cluster.scheduler.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in errors
    assert (
        errors.strip()
        .splitlines()[-1]
        .endswith("error: the Dask scheduler is gone, or it cancelled the work; the same command continues from here")
    )
    _, errors = (process := start(copy, "--workers", "1")).communicate(timeout=120)
    assert process.returncode == 0, errors
    assert outputs(copy) == here


@pytest.mark.parametrize(
    ("address", "problem"),
    [("tcp://127.0.0.1:9", "no scheduler answers there"), ("nonsense://x", "unknown address scheme")],
)
def test_a_wrong_address_is_one_line_within_seconds(root: Path, tmp_path: Path, address: str, problem: str) -> None:
    copy = copy_of(root, tmp_path / "root")
    begin = time.monotonic()
    _, errors = (process := start(copy, "--dask_scheduler", address)).communicate(timeout=120)
    assert process.returncode == 2 and len(errors.splitlines()) == 1
    assert errors.startswith(f"prepare_data.py: error: --dask_scheduler {address!r}: ") and problem in errors
    assert time.monotonic() - begin < 60  # the timeout is five seconds; the rest is for the start on a busy machine
    assert not (copy / "train").exists()


def test_the_slurm_example_submits_jobs_that_bash_understands(tmp_path: Path) -> None:
    flags = ["--root", "/scratch/me/lumbar", "--jobs", "4", "--cores", "2", "--partition", "cpu", "--account", "mine"]
    with prepare_on_slurm.start_cluster(prepare_on_slurm.read_settings().parse_args(flags)) as cluster:
        script = cluster.job_script()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    for line in ("#SBATCH -p cpu", "#SBATCH -A mine", "#SBATCH --cpus-per-task=2", f"cd '{PROJECT}'"):
        assert line in script.splitlines()
    assert "--nworkers 2" in script and "--nthreads 1" in script and sys.executable in script
