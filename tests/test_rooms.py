"""Imports go one way: each folder may import from those that its row names, and nothing imports a script."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
VOCABULARY = ("data_prep",)  # the modules of the folder itself: sites, geometry, truth, faults, folders
#: Folder -> the folders whose modules it may import besides its own. A folder does not stand for those within it.
ALLOWED: dict[str, tuple[str, ...]] = {
    "workspace": (),
    "data_prep": (),
    "data_prep.dicom": VOCABULARY,
    "data_prep.series": (*VOCABULARY, "data_prep.dicom"),
    "data_prep.studies": ("workspace", *VOCABULARY, "data_prep.dicom", "data_prep.series"),
    "data_prep.placement": ("workspace", *VOCABULARY, "data_prep.dicom", "data_prep.studies"),
    "data_prep.conversion": (
        *("workspace", *VOCABULARY),
        *("data_prep.dicom", "data_prep.studies", "data_prep.placement", "data_prep.phantom"),
    ),
    "data_prep.phantom": ("workspace", *VOCABULARY, "data_prep.studies"),
    "prompts": VOCABULARY,
    "prompts.reading": (*VOCABULARY, "prompts"),
    "runs.processes": ("workspace",),
    "runs": ("workspace", "runs.processes"),
    "locator": ("workspace", *VOCABULARY, "data_prep.studies", "data_prep.placement", "data_prep.conversion", "runs"),
    "vl_model.towers": ("workspace",),
    "vl_model.data": ("workspace", *VOCABULARY, "data_prep.conversion", "runs", "runs.processes"),
    "vl_model.model": (
        *("workspace", "data_prep.conversion", "runs", "runs.processes"),
        *("vl_model.towers", "vl_model.data"),
    ),
    "vl_model.training": (
        *("workspace", *VOCABULARY, "prompts", "runs", "runs.processes", "locator"),
        *("vl_model.towers", "vl_model.data", "vl_model.model"),
    ),
    "vl_model.scoring": ("workspace", *VOCABULARY, "vl_model.data"),
    "vl_model.calibration": ("workspace", *VOCABULARY, "vl_model.data", "vl_model.scoring"),
    "vl_model.evaluation": (
        *("workspace", *VOCABULARY, "data_prep.studies", "data_prep.conversion", "runs"),
        *("vl_model.data", "vl_model.model", "vl_model.scoring", "vl_model.calibration"),
    ),
    "vl_model.baseline": (*("workspace", *VOCABULARY, "data_prep.conversion", "vl_model.data", "vl_model.evaluation"),),
    "vl_model.report": (
        *("workspace", *VOCABULARY, "data_prep.conversion"),
        *("vl_model.data", "vl_model.scoring", "vl_model.calibration", "vl_model.evaluation"),
    ),
    "vl_model.queries": (
        *("workspace", *VOCABULARY, "data_prep.conversion", "prompts", "prompts.reading", "runs"),
        *("vl_model.data", "vl_model.model", "vl_model.calibration", "vl_model.evaluation"),
    ),
    "query_page": (),
    "vl_model.page": (
        *(
            "workspace",
            *VOCABULARY,
            "data_prep.conversion",
            "prompts",
            "prompts.reading",
            "query_page",
            "vl_model.queries",
        ),
    ),
    "vl_model": (
        *("workspace", *VOCABULARY, "data_prep.studies", "data_prep.placement", "data_prep.conversion"),
        *("runs", "runs.processes", "prompts", "prompts.reading"),
        *("locator", "vl_model.data", "vl_model.model", "vl_model.scoring", "vl_model.evaluation", "vl_model.baseline"),
        *("vl_model.calibration", "vl_model.report", "vl_model.queries"),
    ),
    "offline": (
        *("workspace", *VOCABULARY, "data_prep.studies", "data_prep.conversion", "locator"),
        *("vl_model", "vl_model.data", "vl_model.model", "vl_model.scoring"),
    ),
}
#: pydicom is the business of these alone.
READ_DICOM = ("data_prep.dicom", "data_prep.phantom")
TOPS = {folder.split(".")[0] for folder in ALLOWED}
FILES = [path for top in sorted(TOPS) for path in sorted((ROOT / top).rglob("*.py"))]
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in FILES}


def folder_of(module: str) -> str:
    """The folder of a module; a package is its own: ``from data_prep.phantom import Scanners``."""
    return module if module in ALLOWED else module.rpartition(".")[0]


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            names |= whole or {node.module or ""}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    folder = folder_of(name)
    for module in imported(path):
        top = module.split(".")[0]
        assert top not in SCRIPTS, f"{name} imports the script {module}"
        if top in TOPS:
            assert folder_of(module) in (folder, *ALLOWED[folder]), f"{name} imports {module}"
        if top == "pydicom":
            assert folder in READ_DICOM, f"{name} touches pydicom"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_scripts_import_no_scripts(script: str) -> None:
    assert not {module.split(".")[0] for module in imported(ROOT / f"{script}.py")} & SCRIPTS


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_the_table_allows_no_more_than_is_used(folder: str) -> None:
    files = (ROOT / folder.replace(".", "/")).glob("*.py")
    used = {folder_of(module) for path in files for module in imported(path)}
    assert set(ALLOWED[folder]) <= used


def test_the_table_has_no_circle() -> None:
    standing = dict(ALLOWED)
    while free := [folder for folder, below in standing.items() if not set(below) & set(standing)]:
        for folder in free:
            del standing[folder]
    assert not standing, f"these folders may import each other: {sorted(standing)}"
