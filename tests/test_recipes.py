"""Every recipe is valid for its script, and its head gives the commands that use it."""

from pathlib import Path

import open_clip
import pytest

import prepare_data
import train_locator
import train_vl
from vl_model.towers.model_names import HF_HUB, LOCAL_DIR, TRANSFORMERS
from workspace.settings_parser import SettingsParser

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
NAMES = {"demo", "demo_base", "vit-b-16-openai", "vit-l-14", "biomedclip", "siglip2", "medsiglip", "lite0", "locator"}
NAMES |= {"real-set", "real-set-crops"}


def test_all_recipes_are_tested() -> None:
    assert {path.stem for path in RECIPES} == NAMES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_gives_its_command(path: Path) -> None:
    scripts = {"locator": train_locator, "real-set-crops": prepare_data}
    script = scripts.get(path.stem, train_vl)
    settings = SettingsParser(script.PROG, None, script.Settings).parse_args(["--config", str(path)])
    head = path.read_text().split("\nmodel:")[0].split("\ntune:")[0].split("\nfield_mm:")[0]
    assert f"{script.PROG} --root DATA" in head and f"--config recipes/{path.name}" in head
    if path.stem in ("locator", "demo", "demo_base", "real-set-crops"):
        return
    assert f"train_vl.py --doctor --root DATA --config recipes/{path.name}" in head
    # For a machine without a network, the head names the repository to download, which is that of the recipe's model.
    if settings.model.startswith(LOCAL_DIR):  # the folder that the head's command makes
        assert f"packaged_bases --out {settings.model.removeprefix(LOCAL_DIR)}\n" in head
    elif settings.model.startswith((HF_HUB, TRANSFORMERS)):
        kind = "local-dir:" if settings.model.startswith(HF_HUB) else TRANSFORMERS
        assert f"hf download {settings.model.partition(':')[2]} " in head and f"--model {kind}FOLDER" in head
    else:
        assert settings.model in open_clip.list_models() and "hf download " in head
