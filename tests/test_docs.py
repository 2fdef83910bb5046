"""The links of the README and of the pages in docs/ lead somewhere, and their commands exist."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [*REPOSITORY.glob("*.md"), *sorted((REPOSITORY / "docs").glob("*.md"))]
#: History: its commands and names are those of its day.
HISTORY = REPOSITORY / "docs" / "log.md"
LONGEST_README = 135

COMMANDS: dict[str, str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
SCRIPTS = sorted(path.name for path in REPOSITORY.glob("*.py"))
#: Modules of other packages that the pages start.
OTHERS_MODULES = {"pytest", "venv", "pip"}
#: Flags of other programs that the pages name in running text.
OTHERS_FLAGS = {"--config_file", "--num_processes", "--constraint", "--editable", "--check"}


def page_id(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return what GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page_id(page)}: {link}: no such file"
        assert not anchor or anchor in anchors(target), f"{page_id(page)}: {link}: no such heading"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES if page.name != "README.md" and f"{page_id(page)})" not in readme]


def shell_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the code blocks and in the inline code of a page."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if language in ("", "sh")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`((?:python|accelerate|make|lumbar-)[^`]*)`", without_code(text))
    for line in [*lines, *inline]:
        try:
            lexer = shlex.shlex(line.lstrip("!%"), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a quotation mark in printed output
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "&&", "|", ">", "(", ")", "do", "done"):
                if command:
                    yield command
                command = []
            elif command or not re.fullmatch(r"\w+=.*", word):  # a variable before the command
                command.append(word)


@cache
def known_flags(*command: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return {flag.replace("-", "_") for flag in re.findall(r"--\w[\w-]*", done.stdout)} | {"__help"}


def check_flags(command: tuple[str, ...], arguments: list[str]) -> None:
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    # Old spellings with hyphens still work, and so compare equal.
    if unknown := [flag for flag in given if flag.replace("-", "_") not in known_flags(*command)]:
        raise AssertionError(f"{' '.join(command)} has no {unknown}")
    for flag, value in pairwise(arguments):
        if flag in ("--config", "--config_file"):
            check_file(value)


def check_file(name: str) -> None:
    name = name.removeprefix("$CHECKOUT/")
    if not name.isupper() and "NAME" not in name:
        assert (REPOSITORY / name).is_file(), f"{name}: no such file"


def check_python(words: list[str]) -> None:
    """Check the words after `python`, or those after the flags of `accelerate launch`."""
    if words[:1] == ["-m"]:
        module = words[1]
        if module in OTHERS_MODULES:
            return
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{module}: no such module"
        if any(word.startswith("--") for word in words):
            check_flags(("-m", module), words[2:])
    elif words and words[0].endswith(".py"):
        if words[0] == "X.py":
            return
        check_file(words[0])
        check_flags((words[0],), words[1:])


def check_command(words: list[str]) -> None:
    program = Path(words[0]).name
    if program.startswith("python"):
        check_python(words[1:])
    elif words[:2] == ["accelerate", "launch"]:
        start = next((i for i, word in enumerate(words) if word.endswith(".py") or word == "-m"), len(words))
        for flag, value in pairwise(words[:start]):
            if flag == "--config_file":
                check_file(value)
        check_python(words[start:])
    elif program.startswith("lumbar-"):
        if program not in ("lumbar-tiny", "lumbar-vl"):
            assert program in COMMANDS, f"{program} is not a command of pyproject.toml"
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert not words[1:] or words[1] in targets or "=" in words[1], f"make {words[1]}: no such target"
    elif program == "sbatch":
        script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
        check_file(words[script])
        check_flags(("train_vl.py",), words[script + 1 :])


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=page_id)
def test_commands_exist(page: Path) -> None:
    for command in shell_commands(page):
        try:
            check_command(command)
        except AssertionError as error:
            raise AssertionError(f"{page_id(page)}: {shlex.join(command)}: {error}") from None


def test_commands_are_found_in_the_pages() -> None:
    """The parser above finds what it is for."""
    found = [" ".join(command[:2]) for page in PAGES for command in shell_commands(page)]
    assert {"python prepare_data.py", "accelerate launch", "python query_vl.py", "make demo"} <= set(found)
    assert {f"python {script}" for script in SCRIPTS} <= set(found)


@pytest.mark.parametrize(
    "command",
    [
        ["python", "train_all.py"],
        ["python", "train_vl.py", "--modell", "x"],
        ["python", "-m", "data_prep.nothing"],
        ["accelerate", "launch", "--config_file", "accelerate_configs/none.yaml", "train_vl.py"],
        ["accelerate", "launch", "train_vl.py", "--config", "recipes/none.yaml"],
        ["make", "nothing"],
        ["lumbar-nothing"],
    ],
    ids=shlex.join,
)
def test_a_wrong_command_is_found(command: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_command(command)


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=page_id)
def test_flags_in_running_text_exist(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    spans = [span for span in re.findall(r"`([^`]+)`", text) if span.startswith("--")]
    every_flag = set().union(*(known_flags(script) for script in SCRIPTS), OTHERS_FLAGS)
    every_flag = {flag.replace("-", "_") for flag in every_flag}
    named = {flag for span in spans for flag in re.findall(r"--\w[\w-]*", span)}
    assert not {flag for flag in named if flag.replace("-", "_") not in every_flag}
