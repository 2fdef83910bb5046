"""Settings as dataclasses: their flags, their help, their settings files, and what is refused."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from workspace.setting_types import NonNegativeNumber, PositiveInteger, Seed
from workspace.settings_parser import plain_settings, read_settings

PROG = "program.py"
DOC = """Do a thing. It takes
two lines to say so.

    python program.py --images FOLDER
    python program.py --images FOLDER \\
        --check

Nothing of this is in the help.
"""


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters."""

    rank: PositiveInteger = 8
    """Rank of the adapters."""
    last_blocks: PositiveInteger | None = None
    """Adapt only this many of the last blocks. All blocks by default."""
    scale: float = field(default=1.0, metadata={"flag": False})


@dataclass(frozen=True)
class Common:
    root: str | None = None
    """The data root."""


@dataclass(frozen=True)
class Settings(Common):
    images: str = field(kw_only=True)
    """The folder of the images, of which 100 % are read."""
    adapters: Adapters = field(default_factory=Adapters, metadata={"prefix": "lora_"})
    seed: Seed = 0
    """The seed of every
    random choice."""
    steps: PositiveInteger | None = None
    """Number of steps."""
    rate: NonNegativeNumber = 1.0
    """Learning rate."""
    check: bool = False
    """Check the input and write nothing."""
    folds: tuple[int, ...] = (0,)
    """Folds that are held out."""
    weights: tuple[NonNegativeNumber, NonNegativeNumber, NonNegativeNumber] = (0.5, 1.0, 0.25)
    """Weights of the three terms."""
    loss: Literal["all_captions", "infonce"] = "all_captions"
    """The loss."""
    show: PositiveInteger | None = field(default=None, metadata={"without_value": 10})
    """Number of studies to draw; 10 if no number is given."""


@dataclass(frozen=True)
class Question:
    text: str = field(metadata={"positional": True})
    """What to look for."""
    json: bool = False
    """Print JSON."""


def read(*arguments: str) -> Settings:
    return read_settings(PROG, DOC, Settings, ["--images", "x", *arguments])


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which `arguments` are refused."""
    with pytest.raises(SystemExit) as left:
        read_settings(PROG, DOC, Settings, arguments)
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert len(line) < 350 and line.endswith("; see python program.py --help")
    return str(line)


def test_defaults_groups_and_types() -> None:
    assert read() == Settings(images="x")
    arguments = (
        "--lora_rank 4 --lora_last_blocks 2 --folds 1 2 --weights 1 2 3 --steps 7 --rate 0.5 --loss infonce --root r"
    )
    assert read(*arguments.split()) == Settings(
        root="r",
        images="x",
        adapters=Adapters(rank=4, last_blocks=2),
        folds=(1, 2),
        weights=(1.0, 2.0, 3.0),
        steps=7,
        rate=0.5,
        loss="infonce",
    )
    assert read("--folds") == Settings(images="x", folds=())


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], False),
        (["--check"], True),
        (["--check", "true"], True),
        (["--check=false"], False),
        (["--check", "False"], False),
    ],
)
def test_a_switch_is_given_alone_or_with_its_value(arguments: list[str], value: bool) -> None:
    assert read(*arguments).check is value
    assert read(*arguments, "--seed", "1") == Settings(images="x", check=value, seed=1)


def test_a_switch_leaves_a_positional_argument_alone() -> None:
    for words in (["--json", "true stenosis"], ["true stenosis", "--json"], ["--json", "true", "true stenosis"]):
        assert read_settings(PROG, DOC, Question, words) == Question("true stenosis", json=True)
    assert read_settings(PROG, DOC, Question, ["--", "-severe"]) == Question("-severe")


def test_a_flag_that_may_be_given_without_a_value() -> None:
    assert [read(*words).show for words in ([], ["--show"], ["--show", "3"])] == [None, 10, 3]


def test_hyphens_are_read_as_underscores_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert read("--lora-last-blocks", "2", "--lora-last-blocks=3").adapters.last_blocks == 3
    notice = "program.py: note: --lora-last-blocks is now spelled --lora_last_blocks\n"
    assert capsys.readouterr().err == 2 * notice


def test_plain_settings_are_flat_and_complete() -> None:
    assert plain_settings(Settings(images="x")) == {
        "root": None,
        "images": "x",
        "lora_rank": 8,
        "lora_last_blocks": None,
        "seed": 0,
        "steps": None,
        "rate": 1.0,
        "check": False,
        "folds": [0],
        "weights": [0.5, 1.0, 0.25],
        "loss": "all_captions",
        "show": None,
    }


def test_help_shows_the_examples_the_bounds_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        read_settings(PROG, DOC, Settings, ["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    words = " ".join(said.split())
    assert said.startswith("usage: python program.py --images TEXT [--flag value ...]\n")
    assert "Do a thing. It takes two lines to say so." in words and "Nothing of this" not in words
    assert "python program.py --images FOLDER \\\n        --check" in said
    assert "Low-rank adapters:" in said
    assert "Rank of the adapters. (more than 0; default: 8)" in words
    assert "The folder of the images, of which 100 % are read. (required)" in words
    assert "The seed of every random choice. (at least 0 and below 2^63; default: 0)" in words
    assert "Weights of the three terms. (at least 0 and finite; default: 0.5 1.0 0.25)" in words
    assert "--check [true|false]" in words
    assert not {"type:", "PositiveInt", "null", "<class"} & set(words.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: --images; see"),
        (["--images", ""], "--images '': is empty; give it a value, or leave it out"),
        (["--images", "x", "--check="], "--check '': is empty"),
        (["--images", "x", "--show="], "--show '': is empty"),
        (["--images", "x", "--config="], "--config '': is empty"),
        (["--images", "x", "--seed", "null"], "--seed: expected a whole number, got null"),
        (["--images", "x", "--scale", "1"], "--scale 1"),
        (["--images", "x", "--sead", "1"], "--sead 1 (did you mean --seed?)"),
        (["--images", "x", "--seed", "-1"], "--seed -1: should be at least 0"),
        (["--images", "x", "--seed", str(2**63)], "should be at least 0 and below 2^63"),
        (["--images", "x", "--steps", "0"], "--steps 0: should be more than 0"),
        (["--images", "x", "--steps", "many"], "--steps many: expected a whole number, got 'many'"),
        (["--images", "x", "--rate", "inf"], "--rate inf: should be at least 0 and finite"),
        (["--images", "x", "--rate", "fast"], "--rate: expected a number, got 'fast'"),
        (["--images", "x", "--weights", "1", "2"], "--weights: expected 3 values"),
        (["--images", "x", "--folds", "a"], "--folds element 1: expected a whole number, got a"),
        (["--images", "x", "--loss", "clip"], "--loss: invalid choice: 'clip' (choose from 'all_captions', 'infonce')"),
        (["--images", "x", "--check", "maybe"], "--check: expected true or false, got maybe"),
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
        (b"sead: 1", "unknown setting 'sead' (did you mean seed?)"),
        (b"config: other.yaml", "one settings file cannot name another"),
        (b"check: maybe", "check should be true or false, not 'maybe'"),
        (b"check: 1", "check should be true or false, not '1'"),
        (b"seed:", "seed has no value"),
        (b"rate:", "rate has no value"),
        (b"seed: {a: 1}", "seed should be a single value, not"),
        (b"root: [1, 2]", "root should be a single value, not '[1, 2]'"),
        (b"folds: {a: 3}", "folds should be a list such as [0, 1], not"),
        (b"folds: true", "folds should be a list such as [0, 1], not 'True'"),
        (b"folds: 0.5", "--folds element 1: expected a whole number, got 0.5"),
        (b"loss: no", "--loss: invalid choice: 'no' (choose from 'all_captions', 'infonce')"),
        (b"folds: 3\nrate: fast", "--rate: expected a number, got 'fast'"),
        (b"weights: [1, 2]", "weights should be a list of 3 values, not '[1, 2]'"),
        (b"weights: [1, 2, x]", "--weights element 3: expected a number, got 'x'"),
        (b"images: 7", "--images: expected text (in YAML, quote it), got 7"),
        (b"print_config: true", "unknown setting 'print_config'"),
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
def test_flags_take_precedence_over_the_settings_file_wherever_they_stand(tmp_path: Path, form: list[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("seed: 1\nsteps: 7\nfolds: [3]\ncheck: true\n")
    settings = read("--seed", "3", *(word.format(path) for word in form))
    assert settings == Settings(images="x", seed=3, steps=7, folds=(3,), check=True)


@dataclass(frozen=True)
class Words:
    precision: Literal["auto", "no", "bf16"] = "auto"
    """A choice with a word that YAML reads as false."""
    power: Literal["on", "off", "yes"] = "on"
    """A choice of words that YAML reads as true or false."""
    folds: tuple[int, ...] = (1,)
    """Several numbers."""
    names: tuple[str, ...] = ()
    """Several names."""
    check: bool = False
    """A switch."""


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ("precision: no", Words(precision="no")),
        ("precision: No", Words(precision="no")),
        ("precision: 'no'", Words(precision="no")),
        ("precision: off", Words(precision="no")),
        ("precision: false\nfolds: 0", Words(precision="no", folds=(0,))),
        ("{precision: NO, power: off}", Words(precision="no", power="off")),
        ("power: on", Words(power="on")),
        ("power: yes", Words(power="yes")),
        ("check: yes\npower: Off", Words(power="off", check=True)),
        ("folds: 3", Words(folds=(3,))),
        ("folds: []", Words(folds=())),
        ("names: größer", Words(names=("größer",))),
    ],
)
def test_yaml_reads_what_is_meant(content: str, settings: Words, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(content, encoding="utf-8")
    assert read_settings(PROG, DOC, Words, ["--config", str(path)]) == settings


def test_null_is_a_value_where_the_type_admits_it(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("limit: null\nsteps: null\n")

    @dataclass(frozen=True)
    class Limited(Settings):
        limit: PositiveInteger | None = 2
        """Checkpoints to keep; null keeps all."""

    words = ["--images", "x", "--config", str(path)]
    assert read_settings(PROG, DOC, Limited, words).limit is None


@pytest.mark.parametrize(
    ("call", "end"),
    [
        ("read_settings(PROG, DOC, Settings)", "; see lumbar-train --help\n"),
        ("run_command(PROG, lambda: data_root('/nowhere') and 0)", "it should be the folder that holds dataset/\n"),
    ],
)
def test_an_installed_command_names_itself_in_every_error(call: str, end: str) -> None:
    code = (
        "import sys; sys.argv = ['/bin/lumbar-train', '--x'];"
        "from workspace.cli import run_command; from workspace.layout import data_root;"
        f"from tests.workspace.{Path(__file__).stem} import *; {call}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("lumbar-train: error: ") and done.stderr.endswith(end)
