"""The wheel contains everything that the scripts need, and its commands run from any folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
COMMANDS: dict[str, str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
NOT_INSTALLED = {"tests", "benchmarks"}
SCRIPT_OF = {
    "lumbar-prepare": "prepare_data.py",
    "lumbar-train-locator": "train_locator.py",
    "lumbar-train": "train_vl.py",
    "lumbar-evaluate": "eval_vl.py",
    "lumbar-predict": "predict_vl.py",
    "lumbar-query": "query_vl.py",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", *(path.name for path in REPOSITORY.glob("*.py"))):
        shutil.copy(REPOSITORY / name, copy / name)
    for init in REPOSITORY.glob("*/__init__.py"):
        package = init.parent
        shutil.copytree(package, copy / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy)], check=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The wheel, unpacked as pip would into site-packages."""
    folder = wheel.parent / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def packages() -> list[Path]:
    """Top-level packages that are installed."""
    return sorted(path.parent for path in REPOSITORY.glob("*/__init__.py") if path.parent.name not in NOT_INSTALLED)


def test_the_wheel_contains_every_module_and_every_data_file(wheel: Path) -> None:
    files = [path for package in packages() for path in package.rglob("*") if path.is_file()]
    needed = {path.relative_to(REPOSITORY).as_posix() for path in files if path.suffix != ".pyc"}
    needed |= {path.name for path in REPOSITORY.glob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        contents = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert contents == needed


def test_one_version_is_stated_everywhere() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == version and citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what CFF 1.2.0 requires
    assert version in (REPOSITORY / "CHANGELOG.md").read_text()


def test_every_script_has_a_command() -> None:
    assert set(SCRIPT_OF.values()) == {path.name for path in REPOSITORY.glob("*.py")}
    assert COMMANDS.keys() == SCRIPT_OF.keys()


def start(
    command: str, installed: Path, folder: Path, *arguments: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Start an installed command in `folder`, from a file like the one that pip writes for it; `before` runs first."""
    module, function = COMMANDS[command].split(":")
    file = folder / command
    file.write_text(f"import sys\n{before}\nfrom {module} import {function}\nsys.exit({function}())\n")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    words = [sys.executable, str(file), *arguments]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def flags(text: str) -> set[str]:
    return set(re.findall(r"--\w+", text))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_runs_its_script_in_any_folder(command: str, installed: Path, tmp_path: Path) -> None:
    script = [sys.executable, SCRIPT_OF[command], "--help"]
    expected = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    done = start(command, installed, tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert flags(done.stdout) == flags(expected.stdout)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_ctrl_c_during_the_imports_of_a_command_ends_it_silently(command: str, installed: Path, tmp_path: Path) -> None:
    press_ctrl_c = """
import os, signal

class PressCtrlC:
    def find_spec(self, name, *_):
        if name == "jsonargparse":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, PressCtrlC())
"""
    done = start(command, installed, tmp_path, before=press_ctrl_c)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_installed_command_reads_the_files_that_the_packages_bring(installed: Path, tmp_path: Path) -> None:
    code = """
from data_prep.placement.shipped_atlas import SHIPPED
from locator.files import SHIPPED as SHIPPED_LOCATOR, check_locator
from prompts.reading.parse import parse_query
from prompts.render import caption
from data_prep.sites import SITES, Severity
assert SHIPPED.is_file()
check_locator(SHIPPED_LOCATOR)
assert SHIPPED_LOCATOR.is_relative_to(SHIPPED.parents[2])
assert parse_query("severe canal stenosis").tree and caption(SITES[0], Severity.SEVERE)
print(SHIPPED)
"""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)
