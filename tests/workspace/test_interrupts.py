"""Signals that end a command: one line or none, a status of their own, and none is ever lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workspace import interrupts

REPOSITORY = Path(__file__).parents[2]
SIGNALS = {signal.SIGINT: (130, "program.py: interrupted\n"), signal.SIGTERM: (143, "")}
#: Code from which Python drops the exception of the signal that `signal_here` sends. `Thing` is an empty class.
DROPPING = {
    "a destructor": "Thing.__del__ = lambda self: signal_here(); Thing()",
    "a generator's end": "next(generator)",
    "a callback of a weak reference": "thing = Thing(); reference = weakref.ref(thing, signal_here); del thing",
    "a finalizer": "thing = Thing(); weakref.finalize(thing, signal_here); del thing",
    "a callback of the garbage collector": "gc.callbacks.append(signal_here); gc.collect()",
    "a callback of ctypes": "ctypes.CFUNCTYPE(None)(signal_here)()",
    "a bare except": """
        try:
            signal_here()
        except:
            pass""",
    "a bare except that raises another error": """
        try:
            try:
                signal_here()
            except:
                raise ValueError("wrong input")
        except ValueError as error:
            assert str(error) == "wrong input" """,
}


def run(code: str, *arguments: object) -> tuple[int, str, str]:
    """Return the exit status, stdout and stderr of a program."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", DROPPING)
def test_a_signal_whose_exception_is_dropped_comes_again(number: int, place: str) -> None:
    code = f"""
import ctypes, gc, os, sys, time, weakref
from workspace.cli import run_command

class Thing:
    pass

def signal_here(*_):
    gc.callbacks.clear()
    os.kill(os.getpid(), int(sys.argv[1]))
    for _ in range(1000):
        pass  # Python calls the handler in here

def generate():
    try:
        yield
    finally:
        signal_here()

def main():
    generator = generate()
    def drop():
        nonlocal generator
        {DROPPING[place]}
        generator = None
    drop()
    for _ in range(500):
        time.sleep(0.1)
    print("came to its end")

run_command("program.py", main)
"""
    status, message = SIGNALS[signal.Signals(number)]
    assert run(code, int(number)) == (status, "", message)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_dropped_again_and_again_comes_through(number: int) -> None:
    code = """
import os, sys, time
from workspace.cli import run_command

def main():
    until = time.monotonic() + 1
    sent = False
    while time.monotonic() < until:
        try:
            if not sent:
                sent = True
                os.kill(os.getpid(), int(sys.argv[1]))
            while time.monotonic() < until:
                time.sleep(0.001)
        except BaseException:
            print("dropped")
    time.sleep(50)
    print("came to its end")

run_command("program.py", main)
"""
    status, message = SIGNALS[signal.Signals(number)]
    left, out, err = run(code, int(number))
    assert (left, err) == (status, message) and 1 <= out.count("dropped") <= 10 and "end" not in out


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "after", ["return", "raise ValueError('wrong')", "raise RuntimeError('defect')", "sys.exit(3)"]
)
def test_a_signal_whose_exception_is_kept_decides_the_status(number: int, after: str) -> None:
    """An exception that is kept, here in a variable, is not raised again, but the command has not ended well."""
    code = f"""
import os, sys
from workspace.cli import run_command

def main():
    global kept
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except BaseException as error:
        kept = error
    {after}

run_command("program.py", main)
"""
    assert run(code, int(number)) == (SIGNALS[signal.Signals(number)][0], "", SIGNALS[signal.Signals(number)][1])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_loop_that_asks_stops_by_an_exception_that_is_kept(number: int) -> None:
    code = """
import os, sys
from concurrent.futures import Future
from workspace.cli import run_command
from workspace.interrupts import stop_if_requested

def main():
    future = Future()
    for step in range(5):
        stop_if_requested()
        print(step)
        if step == 1:
            try:
                os.kill(os.getpid(), int(sys.argv[1]))
            except BaseException as error:
                future.set_exception(error)

run_command("program.py", main)
"""
    status, message = SIGNALS[signal.Signals(number)]
    assert run(code, int(number)) == (status, "0\n1\n", message)


@pytest.mark.parametrize("number", SIGNALS)
def test_further_signals_do_not_break_off_the_cleanup(number: int) -> None:
    code = """
import os, signal, sys, time
from workspace.cli import run_command

def main():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(50)
    finally:
        for further in (signal.SIGINT, signal.SIGTERM) * 3:
            os.kill(os.getpid(), further)
            time.sleep(0.02)
        print("cleaned up")

run_command("program.py", main)
"""
    status, message = SIGNALS[signal.Signals(number)]
    assert run(code, int(number)) == (status, "cleaned up\n", message)


def test_a_forked_process_keeps_the_default_action_of_sigterm() -> None:
    code = """
import os, signal, time
from workspace.cli import run_command

def main():
    child = os.fork()
    if not child:
        time.sleep(50)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

run_command("program.py", main)
"""
    assert run(code) == (0, f"{-signal.SIGTERM}\n", "")


IMPORTING = """
import os, signal, sys, time
from workspace import interrupts
from workspace.cli import run_command

interrupts.LONGEST_IMPORT = float(sys.argv[2])
sys.path.insert(0, sys.argv[1])

def main():
    try:
        import slow
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

run_command("program.py", main)
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("inner", ["pass", "ctypes.CFUNCTYPE(None)(wait)()", "import slower"])
def test_an_import_is_done_before_a_signal_ends_the_command(number: int, inner: str, tmp_path: Path) -> None:
    sends = f"import os; os.kill(os.getpid(), {number:d})"
    wait = "import ctypes, time\ndef wait(): time.sleep(0.2)\nwait()\n"
    (tmp_path / "slow.py").write_text(f"{sends}\n{wait}{inner}\nprint('imported', flush=True)\n")
    (tmp_path / "slower.py").write_text(f"{sends}\n{wait}")
    status, said = SIGNALS[number]
    assert run(IMPORTING, tmp_path, 15) == (status, "imported\ncleaned up\n", said)


def test_an_import_that_hangs_is_broken_off(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)\n")
    assert run(IMPORTING, tmp_path, 0.5) == (143, "cleaned up\n", "")


@pytest.mark.parametrize(
    ("variables", "cleans_up"),
    [
        ({"LOCAL_RANK": "3"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "node7"}, True),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, True),
        ({"WORLD_SIZE": "", "PMI_SIZE": "1"}, True),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, False),
    ],
)
def test_one_of_several_processes_keeps_the_default_action_of_sigterm(
    variables: dict[str, str], cleans_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", *interrupts._SIZES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = """
import os, signal
from workspace.cli import run_command

def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print("cleaned up", flush=True)

run_command("program.py", main)
"""
    assert run(code) == ((143, "cleaned up\n", "") if cleans_up else (-signal.SIGTERM, "", ""))


def test_a_process_forked_while_sigterm_is_noted_goes_on() -> None:
    """A worker of a data loader gets SIGTERM, sent to the group, before it can set its own handler."""
    code = """
import os, signal, time
from workspace.cli import run_command
from workspace.interrupts import noted

def main():
    with noted(signal.SIGTERM, lambda: None):
        child = os.fork()
        if not child:
            time.sleep(0.5)
            os._exit(7)
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

run_command("program.py", main)
"""
    assert run(code) == (0, "7\n", "")


def test_a_signal_that_was_dropped_is_noted() -> None:
    """A training starts to note SIGTERM while the exception of an earlier one has just been dropped."""
    code = """
import os, signal, time
from workspace.cli import run_command
from workspace.interrupts import noted

def main():
    notes = []
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        pass
    with noted(signal.SIGTERM, lambda: notes.append("noted")):
        time.sleep(0.5)
    print(notes[0])

run_command("program.py", main)
"""
    assert run(code) == (0, "noted\n", "")


def test_held_signals_come_at_the_end_of_the_block() -> None:
    came: list[str] = []
    previous = signal.signal(signal.SIGTERM, lambda *_: came.append("SIGTERM"))
    try:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            came.append("end of the block")
        thread = threading.Thread(target=lambda: interrupts.held().__enter__())
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert came == ["end of the block", "SIGTERM", "SIGTERM"]


@pytest.mark.parametrize("script", sorted(path.name for path in REPOSITORY.glob("*.py")))
def test_ctrl_c_during_the_imports_ends_without_a_message(script: str) -> None:
    code = f"""
import os, runpy, signal, sys

class PressCtrlC:
    def find_spec(self, name, *_):
        if name == "jsonargparse":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, PressCtrlC())
runpy.run_path({str(REPOSITORY / script)!r}, run_name="__main__")
"""
    assert run(code) == (-signal.SIGINT, "", "")


def test_what_ctrl_c_leaves_half_made_prints_nothing() -> None:
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
    assert run(code) == (130, "", "program.py: interrupted\n")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    code = """
import os, signal
from workspace.cli import run_command
from workspace.interrupts import end_at_ctrl_c

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a shell's background jobs
end_at_ctrl_c()
run_command("program.py", lambda: os.kill(os.getpid(), signal.SIGINT))
"""
    assert run(code) == (0, "", "")


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
