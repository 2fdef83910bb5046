"""prepare_data.py, interrupted in many ways and resumed, always writes the bytes of an undisturbed run."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import psutil
import pytest

import prepare_data
import prompts.render  # noqa: F401 - imported here, so that the forks need not import it
from data_prep.conversion import convert, study_conversion, work_folder
from data_prep.conversion.executors import open_pool
from data_prep.phantom import write_cohort
from data_prep.studies.cohorts import split_cohort
from workspace.cli import run_command
from workspace.layout import DataRoot
from workspace.whole_files import replacing

PROJECT = Path(__file__).resolve().parents[3]
KILLS = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("interruption"), train=2, test=1, seed=31)


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    copy = copy_of(root, tmp_path_factory.mktemp("undisturbed"))
    assert wait(in_fork(copy)) == 0
    return outputs(copy)


def copy_of(root: Path, folder: Path) -> Path:
    """Return a new data root with hard links to the files of another, which keep their times."""
    (folder / "dataset").symlink_to(root / "dataset")
    return folder


def outputs(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for split in ("train", "test")
        for path in (root / split).rglob("*")
        if path.is_file()
    }


def written(root: Path) -> int:
    return sum(len(names) for split in ("train", "test") for _, _, names in os.walk(root / split))


def in_fork(root: Path, *flags: str) -> int:
    """Run the command in a fork of this process, which saves the imports; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        sys.argv = ["prepare_data.py", "--root", str(root), "--workers", "1", *flags]
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        run_command("prepare_data.py", prepare_data.main)
    except SystemExit as leaving:
        os._exit(int(leaving.code or 0))
    except BaseException:
        os._exit(70)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(root: Path, workers: int) -> list[str]:
    return [sys.executable, "prepare_data.py", "--root", str(root), "--workers", str(workers)]


def start(root: Path, workers: int = 2, **options) -> "subprocess.Popen[str]":  # type: ignore[no-untyped-def]
    """Start the command as a terminal would: in a process group of its own."""
    return subprocess.Popen(
        command(root, workers),
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    while not happened():
        assert process.poll() is None, f"ended before: {process.communicate()}"
        time.sleep(0.005)


def test_sigkill_at_ten_random_moments(root: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    moments = np.random.default_rng(3).integers(1, len(undisturbed), KILLS)
    killed = 0
    for number, files in enumerate(moments):
        copy = tmp_path / str(number)
        copy.mkdir()
        copy_of(root, copy)
        child = in_fork(copy)
        while written(copy) < files and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        killed += wait(child) == -signal.SIGKILL
        assert wait(in_fork(copy)) == 0
        assert outputs(copy) == undisturbed, f"killed when {files} files were written"
        shutil.rmtree(copy)
    assert killed > KILLS // 2  # the others had already ended


def test_workers_end_when_their_parent_is_killed(root: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    process = start(copy)
    wait_until(lambda: (copy / "train" / "processed_data" / "images").exists(), process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert workers and not alive
    assert wait(in_fork(copy)) == 0
    assert outputs(copy) == undisturbed


@pytest.mark.parametrize("moment", ["workers start", "images appear"])
def test_ctrl_c_is_one_line(root: Path, undisturbed: dict[str, bytes], tmp_path: Path, moment: str) -> None:
    copy = copy_of(root, tmp_path)
    processed = copy / "train" / "processed_data"
    process = start(copy)
    sign = processed / (".parts" if moment == "workers start" else "images")
    wait_until(sign.exists, process)
    for _ in range(5):  # pressed repeatedly
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    said = [line for line in errors.replace("\r", "\n").splitlines() if line and "%|" not in line]
    assert said == ["prepare_data.py: interrupted; the same command continues from here"]
    assert process.returncode == 130
    assert not (processed / "dataset.json").exists() and not (processed / ".lock").exists()
    assert wait(in_fork(copy)) == 0
    assert outputs(copy) == undisturbed


def spawned(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(("by", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, 2)])
def test_suspended_and_killed_workers(
    root: Path, undisturbed: dict[str, bytes], tmp_path: Path, by: signal.Signals, status: int
) -> None:
    """Signals end the command while its workers hang; SIGKILL is sent to one of two, the other is suspended."""
    copy = copy_of(root, tmp_path)
    process = start(copy)
    wait_until(lambda: (copy / "train" / "processed_data" / "images").exists(), process)
    workers = spawned(process)
    for worker in workers[by == signal.SIGKILL :]:
        worker.suspend()
    began = time.monotonic()
    (workers[0] if by == signal.SIGKILL else process).send_signal(by)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in errors and time.monotonic() - began < 10
    if by == signal.SIGKILL:
        assert "a worker process was killed at " in errors and "the same command continues from here" in errors
    assert not psutil.wait_procs(workers, timeout=5)[1]
    assert wait(in_fork(copy)) == 0
    assert outputs(copy) == undisturbed


@pytest.mark.parametrize("options", ["size=4k,nr_inodes=1", "ro"])
def test_without_shared_memory_one_process_converts(
    root: Path, undisturbed: dict[str, bytes], tmp_path: Path, options: str
) -> None:
    in_namespace = ("unshare", "--mount", "sh", "-c")
    if subprocess.run([*in_namespace, "mount -t tmpfs tmpfs /dev/shm"], capture_output=True, check=False).returncode:
        pytest.skip("mounting another /dev/shm needs root and unshare")
    copy = copy_of(root, tmp_path)
    shell = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    words = [*in_namespace, shell, "sh", *command(copy, 2)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and "2 workers cannot share locks in /dev/shm" in done.stderr
    assert outputs(copy) == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with space for a part of the images; the test is skipped if this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_can_be_resumed(
    root: Path, undisturbed: dict[str, bytes], small_disk: Path, tmp_path: Path
) -> None:
    copy = copy_of(root, small_disk)
    process = start(copy, workers=1)
    _, errors = process.communicate(timeout=120)
    last = errors.replace("\r", "\n").strip().splitlines()[-1]
    assert process.returncode == 2 and "Traceback" not in errors
    assert "the disk is full; about " in last and " MB more are needed" in last and "continues from here" in last
    assert not (copy / "train" / "processed_data" / "dataset.json").exists()
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    assert wait(in_fork(copy)) == 0
    assert outputs(copy) == undisturbed


def test_a_limit_on_the_size_of_files_is_one_line(root: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    limit = 3_000_000  # enough for the crops of one study, not for those of all
    process = start(
        copy, workers=1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    )
    _, errors = process.communicate(timeout=120)
    last = errors.replace("\r", "\n").strip().splitlines()[-1]
    assert process.returncode == 2 and "Traceback" not in errors
    assert last.startswith("prepare_data.py: error: ") and last.endswith("crops.npy: File too large")
    assert wait(in_fork(copy)) == 0
    assert outputs(copy) == undisturbed


def test_stale_files_are_removed(root: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """Images that are no longer in the input, images of an earlier conversion, and partial files are removed."""
    processed = tmp_path / "train" / "processed_data"
    study = next(name for name in undisturbed if name.startswith("train/") and name.endswith(".png"))
    series = (tmp_path / study).parent
    stale = [
        processed / "images" / "1" / "2" / "3.png",
        series / "999999.png",
        series / ".1.png.0a1b2c3d.partial",
        processed / ".crops.npy.0a1b2c3d.partial",
        processed / ".parts" / "1.json",
        processed / ".lock",
    ]
    kept = processed / "images" / "notes.txt"
    for path in [*stale, kept]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
    assert wait(in_fork(copy_of(root, tmp_path))) == 0
    found = outputs(tmp_path)
    assert found.pop(kept.relative_to(tmp_path).as_posix()) == b"old", "a user's file"
    assert found == undisturbed
    assert not (processed / "images" / "1").exists()


def test_missing_files_of_a_finished_conversion_are_written_again(
    root: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    copy = copy_of(root, tmp_path)
    assert wait(in_fork(copy)) == 0
    image = copy / next(name for name in undisturbed if name.startswith("train/") and name.endswith(".png"))
    image.unlink()
    (copy / "test" / "processed_data" / ".parts").mkdir()  # as if killed before the parts were removed
    assert wait(in_fork(copy)) == 0
    assert outputs(copy) == undisturbed
    assert not (copy / "test" / "processed_data" / ".parts").exists()


@pytest.mark.parametrize("name", ["sites.csv", "crops.npy", "an image"])
def test_an_output_of_another_size_is_written_again(
    root: Path, undisturbed: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    copy = copy_of(root, tmp_path)
    for output, content in undisturbed.items():
        (copy / output).parent.mkdir(parents=True, exist_ok=True)
        (copy / output).write_bytes(content)
    image = next(output for output in undisturbed if output.startswith("test/") and output.endswith(".png"))
    damaged = copy / (image if name == "an image" else f"test/processed_data/{name}")
    damaged.write_bytes(damaged.read_bytes()[:-1] if name == "crops.npy" else b"")
    assert wait(in_fork(copy, "--split", "test")) == 0
    assert outputs(copy) == undisturbed


def test_two_conversions_into_one_folder_are_refused(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    with work_folder.locked_folder(copy / "train" / "processed_data"):
        done = subprocess.run(command(copy, 1), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"train/processed_data: another process ({os.getpid()} on " in done.stderr
    assert ") is converting into this folder" in done.stderr
    assert not (copy / "train" / "processed_data").exists(), "the second conversion wrote nothing"


def die(item: int) -> int:
    if item == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return item


def test_the_study_of_a_killed_worker_is_named() -> None:
    work = {"description": "killing", "name": lambda item: f"study {item}", "weight": lambda _: 100}
    with (
        pytest.raises(ChildProcessError, match=r"a worker process was killed at .*study 7") as caught,
        open_pool(2) as pool,
    ):
        list(pool.map(die, range(40), **work))
    assert str(caught.value).count("study") <= 3
    assert not active_children()


def test_a_worker_without_the_folders_stops_the_run(root: Path, tmp_path: Path) -> None:
    """On a cluster's machine without the shared disk, every image would be recorded as missing."""
    study = convert.read_inputs(split_cohort(DataRoot(root), "train"))[0]
    with pytest.raises(FileNotFoundError, match="this folder does not exist for the process"):
        study_conversion.convert_study(study, tmp_path / "elsewhere", None, 10**9)
    assert not (tmp_path / "elsewhere").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a.txt") as partial:
        partial.write_text("new")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]
