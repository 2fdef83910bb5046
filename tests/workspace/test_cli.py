"""Flags, settings files and errors of a command."""

from pathlib import Path

import pytest
from jsonargparse.typing import NonNegativeInt, PositiveInt

from workspace.cli import NonNegativeFinite, SettingsParser, run_command


def parser() -> SettingsParser:
    parser = SettingsParser("program.py", "A program.")
    parser.add_argument("--images", type=str, required=True)
    parser.add_argument("--seed", type=NonNegativeInt, default=0)
    parser.add_argument("--steps", type=PositiveInt | None)
    parser.add_argument("--rate", type=NonNegativeFinite, default=1.0)
    parser.add_argument("--check", action="store_true")
    return parser


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which `arguments` are refused."""
    with pytest.raises(SystemExit) as left:
        parser().parse_args(arguments)
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert len(line) < 350
    return str(line)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: --images; see"),
        (["--images", "x", "--sead", "1"], "--sead 1 (did you mean --seed?)"),
        (["--images", "x", "--seed", "-1"], "--seed: -1 should be at least 0"),
        (["--images", "x", "--steps", "0"], "--steps 0: should be more than 0"),
        (["--images", "x", "--steps", "many"], "--steps many: invalid literal"),
        (["--images", "x", "--rate", "inf"], "--rate: inf should be at least 0 and finite"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"- 1", "holds a list"),
        (b"words " * 5000, "holds a str"),
        (b"seed: 1\nsteps: [", "line 2: not YAML"),
        (bytes(range(256)), "not YAML in UTF-8"),
        (b"[" * 5000, "not YAML in UTF-8"),
        (b"!!python/object/apply:os.system [exit]", "could not determine a constructor"),
        (b"sead: 1", "no setting 'sead' (did you mean seed?)"),
        (b"config: other.yaml", "one settings file cannot name another"),
        (b"check: maybe", "check should be true or false, not 'maybe'"),
        (b"check: 1", "check should be true or false, not '1'"),
        (b"seed:", "seed has no value"),
        (b"seed: {a: 1}", "--seed"),
    ],
)
def test_a_wrong_settings_file_is_one_line(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    assert said in refused(["--images", "x", "--config", str(path)], capsys)


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_flags_win_over_the_settings_file_wherever_they_stand(tmp_path: Path, form: list[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("seed: 1\nsteps: 7\n")
    settings = parser().parse_args(["--seed", "3", *(word.format(path) for word in form), "--images", "x"])
    assert (settings.seed, settings.steps) == (3, 7)


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
