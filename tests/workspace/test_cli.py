"""What every command does with its flags, its settings file, its errors and the signals that end it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workspace.cli import run_command

REPOSITORY = Path(__file__).parents[2]


def test_an_error_of_the_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        (tmp_path / "nowhere" / "x").write_text("")

    with pytest.raises(SystemExit):
        run_command("program.py", main)
    assert capsys.readouterr().err == f"program.py: error: {tmp_path / 'nowhere' / 'x'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("With tag (7FE0,0010): No space left\nTraceback:\n  File", "With tag (7FE0,0010): No space left"),
        ("24 requested and 8 written", "no space left on the disk (24 requested and 8 written)"),
    ],
)
def test_a_full_disk_is_one_line(message: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OSError(message)

    with pytest.raises(SystemExit):
        run_command("program.py", main)
    assert capsys.readouterr().err == f"program.py: error: {said}\n"


@pytest.mark.parametrize("script", sorted(path.name for path in REPOSITORY.glob("*.py")))
def test_ctrl_c_during_the_imports_ends_without_a_word(script: str) -> None:
    code = f"""
import os, runpy, signal, sys

class PressCtrlC:
    def find_spec(self, name, *_):
        if name == "jsonargparse":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, PressCtrlC())
runpy.run_path({str(REPOSITORY / script)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_what_ctrl_c_leaves_half_made_says_nothing() -> None:
    """A progress bar that never got its attributes complains when it is deleted."""
    code = """
import os, signal, time
from tqdm import tqdm
from workspace.cli import run_command

class Bar(tqdm):
    def __init__(self):
        self.disable = False
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

run_command("program.py", Bar)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "program.py: interrupted\n")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    code = """
import os, signal
from workspace.cli import run_command
from workspace.interrupts import end_at_ctrl_c

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a shell's background jobs
end_at_ctrl_c()
run_command("program.py", lambda: os.kill(os.getpid(), signal.SIGINT))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_broken_off_phantom_leaves_nothing(tmp_path: Path, number: int, status: int, workers: str) -> None:
    """SIGINT goes to every process, as the terminal sends it; SIGTERM to the first alone."""
    root = tmp_path / "root"
    command = [sys.executable, "-m", "data_prep.phantom", "--root", str(root), "--train", "50", "--workers", workers]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not list(root.glob(".phantom_unfinished/dataset/train_images/*/*/*.dcm")):
            assert process.poll() is None
            time.sleep(0.05)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        said = process.communicate(timeout=600)[1]
    assert process.returncode == status and "Traceback" not in said
    assert not list(root.iterdir())
