"""Imports go one way: scripts -> vl_model -> prompts -> data_prep.sites, and nothing imports a script."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
#: What each room may import of ours; a longer prefix wins.
ALLOWED: dict[str, tuple[str, ...]] = {
    "data_prep/sites.py": (),
    "data_prep/geometry.py": (),
    "data_prep": ("data_prep",),
    "prompts": ("prompts", "data_prep.sites"),
    "vl_model": (
        "vl_model",
        "prompts",
        "data_prep.sites",
        "data_prep.json_files",
        "data_prep.whole_files",
        "data_prep.pairs",
        "data_prep.crops",
        "data_prep.layout",
        "data_prep.locks",
    ),
    # The locator works on studies in memory and on places, as the conversion does.
    **dict.fromkeys(("vl_model/locat", "vl_model/spine_prior.py"), ("vl_model", "data_prep")),
    "vl_model/launch.py": ("data_prep.commands", "data_prep.layout"),  # how many cores a process may use
    "vl_model/training_flags.py": ("data_prep.commands",),  # what flags may be
}
FILES = [path for room in ("data_prep", "prompts", "vl_model") for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module in SCRIPTS_AND_ROOMS
                else {node.module or ""}
            )
    return names


SCRIPTS_AND_ROOMS = SCRIPTS | {"data_prep", "prompts", "vl_model"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    allowed = ALLOWED[max((room for room in ALLOWED if name.startswith(room)), key=len)]
    for module in imported(path):
        top = module.split(".")[0]
        assert top not in SCRIPTS, f"{name} imports the script {module}"
        if top in SCRIPTS_AND_ROOMS:
            assert any(module == room or module.startswith(room + ".") for room in allowed), f"{name} imports {module}"
        if top == "pydicom":
            assert name.startswith("data_prep/"), f"{name} touches pydicom"


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_scripts_import_no_scripts(script: str) -> None:
    assert not {module.split(".")[0] for module in imported(ROOT / f"{script}.py")} & SCRIPTS
