"""Flags, settings files and errors of a command."""

import pickle
from pathlib import Path

import pytest

from workspace.cli import run_command
from workspace.setting_error import SettingError


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
