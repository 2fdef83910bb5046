"""Flags, settings files and errors of a command."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from workspace.cli import run_command
from workspace.setting_error import SettingError

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


def test_a_setting_error_survives_the_way_out_of_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(SettingError("run", "'x': no such run")))
    assert (error.setting, error.problem, str(error)) == ("run", "'x': no such run", "run 'x': no such run")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1", "cp1252"])
@pytest.mark.parametrize("word", ["\\udcff", "\\u7814\\u7a76", "\\xe9", "\\u2588", "plain"])
def test_what_cannot_be_encoded_is_escaped(encoding: str, word: str) -> None:
    code = (
        "import sys\nfrom workspace.cli import run_command\n"
        f"def main():\n    print('{word}')\n    raise ValueError('{word}: is wrong')\n"
        "run_command('program.py', main)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True)
    expected = word.encode().decode("unicode_escape").encode(encoding, "backslashreplace")
    assert (done.returncode, done.stdout) == (2, expected + b"\n")
    assert done.stderr == b"program.py: error: " + expected + b": is wrong\n"
