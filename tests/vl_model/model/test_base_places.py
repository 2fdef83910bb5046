"""A run that moved with its base finds it again by its weights, or is told where it lies."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.evaluated_root import run_here
from tests.tiny_dataset import write_tiny_dataset
from tests.tiny_model import write_tiny_base
from tests.training_runs import REPOSITORY, assert_same_result
from tests.two_users import COLLEAGUE, GROUP, OWNER, as_user, needs_users
from vl_model import load_run
from vl_model.model.base_places import base_path, place_beside
from vl_model.model.export import export_run
from vl_model.model.lineage import lineage
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model
from vl_model.model.site_model_files import load_site_model, save_site_model

SERIES = {"trained_series": {"7": [71, 72]}, "dataset_fingerprint": "f", "held_out_folds": [0], "steps": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A data root, with a model beside it, that has moved from ``old`` to ``made``, and what its runs computed before.

    The root has the runs `base` (every weight), `lora` (adapters on it), and `outside` and `file` on the model beside.
    """
    old = tmp_path_factory.mktemp("place") / "old"
    clip = old / "models" / "clip"
    save(old / "data", "base", ModelSettings(write_tiny_base(clip), tune="full"), SERIES)
    save(old / "data", "lora", ModelSettings(f"local-dir:{runs(old / 'data') / 'base' / 'final'}"))
    save(old / "data", "outside", ModelSettings(f"local-dir:{clip}"))
    save(old / "data", "file", ModelSettings("tiny-test-base", f"{clip / 'open_clip_model.safetensors'}", tune="head"))
    before = {run: outputs(load_site_model(runs(old / "data") / run / "final")) for run in ("lora", "outside", "file")}
    return old.rename(old.with_name("made")), before


@pytest.fixture
def new(made: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> Path:
    """A copy of the data root, with its model beside it, at another place."""
    shutil.copytree(made[0], tmp_path / "new")
    return tmp_path / "new" / "data"


def runs(root: Path) -> Path:
    return root / "train" / "checkpoints"


def save(root: Path, run: str, settings: ModelSettings, record: dict[str, object] | None = None) -> None:
    model = build_site_model(settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_site_model(model, runs(root) / run / "final", record)
    content = {"settings": {}, "held_out_folds": [0], "dataset_fingerprint": "f", "finished": True}
    (runs(root) / run / "run.json").write_text(json.dumps(content))


def outputs(model: SiteModel) -> torch.Tensor:
    torch.manual_seed(0)
    return model.towers.encode_images(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("run", ["lora", "outside", "file"])
def test_a_base_that_moved_with_the_run(
    run: str, new: Path, made: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    model = load_site_model(runs(new) / run / "final")
    assert torch.equal(outputs(model), made[1][run])
    assert (base_path(model.settings) or Path("/")).is_relative_to(tmp_path / "new")


def test_a_base_that_was_renamed_and_another_one_in_its_place(new: Path) -> None:
    (runs(new) / "base").rename(runs(new) / "renamed")
    write_tiny_base(runs(new) / "base" / "final", seed=5)
    found = load_site_model(runs(new) / "lora" / "final")
    assert base_path(found.settings) == runs(new) / "renamed" / "final"


def test_another_model_at_the_recorded_place(new: Path) -> None:
    final = runs(new) / "lora" / "final"
    recorded = Path(json.loads((final / "site_model.json").read_text())["model"].removeprefix("local-dir:"))
    write_tiny_base(recorded, seed=5)
    try:
        assert base_path(load_site_model(final).settings) == runs(new) / "base" / "final"
        shutil.rmtree(runs(new) / "base")
        with pytest.raises(ValueError, match="was trained on other weights of"):
            load_site_model(final)
    finally:
        shutil.rmtree(recorded)


def test_broken_models_beside_the_run_are_passed_over(new: Path) -> None:
    (runs(new) / "base").rename(runs(new) / "z")
    contents = ("{", "[]", "5", "\0", '{"model_cfg": 5}', '{"model_cfg": {"vision_cfg": [], "text_cfg": null}}')
    contents += ('{"model_cfg": {"embed_dim": 0, "vision_cfg": {"layers": -1}, "text_cfg": {"heads": 0}}}',)
    for number, content in enumerate(contents):
        final = shutil.copytree(runs(new) / "z" / "final", runs(new) / f"a{number}" / "final")
        (final / "open_clip_config.json").write_text(content)
        with pytest.raises(ValueError, match=f"a{number}"):
            load_site_model(runs(new) / "lora" / "final", str(final))
    load_site_model(runs(new) / "lora" / "final")


@needs_users
def test_closed_folders_of_others_are_passed_over(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, OWNER, GROUP)
    code = (
        "from vl_model.model.base_places import is_there; from vl_model.model.settings import ModelSettings; "
        f"print(is_there(ModelSettings('local-dir:{closed / 'base'}')))"
    )
    words = as_user(COLLEAGUE, sys.executable, "-c", code)
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("of", ["folder", "run", "name"])
def test_a_base_that_is_named(of: str, new: Path, tmp_path: Path) -> None:
    (runs(new) / "base").rename(tmp_path / "far")
    final = runs(new) / "lora" / "final"
    with pytest.raises(ValueError) as error:
        load_site_model(final)
    words = str(error.value)
    assert words.startswith("base is needed: ") and "/old/data/train/checkpoints/base/final" in words
    assert f"other runs of {runs(new)}" in words and "sha256" in words and "\n" not in words
    base = {"folder": f"{tmp_path}/far/final", "run": f"{tmp_path}/far", "name": f"local-dir:{tmp_path}/far/final"}[of]
    assert load_run(new, "lora", base=base).model.settings.model == f"local-dir:{tmp_path}/far/final"


def test_a_weights_file_that_is_named(new: Path, tmp_path: Path) -> None:
    (tmp_path / "new" / "models" / "clip").rename(tmp_path / "far")
    shutil.rmtree(runs(new) / "base")  # it holds the same weights
    with pytest.raises(ValueError, match="base is needed"):
        load_site_model(runs(new) / "file" / "final")
    for base in (tmp_path / "far", tmp_path / "far" / "open_clip_model.safetensors"):
        load_run(new, "file", base=base).model.requires_grad_(False)


@pytest.mark.parametrize(
    ("run", "base", "words"),
    [
        ("lora", "nowhere", "nowhere': no such folder"),
        ("lora", "empty", "empty': holds no model; the file open_clip_config.json is missing"),
        ("base", "clip", "clip': the run was trained with tune 'full' and needs no base"),
        ("lora", "other", "other': is not the run's base .*was trained on other weights"),
    ],
)
def test_a_wrong_base_that_is_named(run: str, base: str, words: str, new: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_tiny_base(tmp_path / "clip")
    write_tiny_base(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=words):
        _ = load_run(new, run, base=tmp_path / base).model


def test_an_older_run_without_a_digest_needs_the_flag(new: Path) -> None:
    final = runs(new) / "lora" / "final"
    card = json.loads((final / "site_model.json").read_text())
    del card["base_sha256"]
    (final / "site_model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="whose digest the run did not record"):
        load_site_model(final)
    load_site_model(final, str(runs(new) / "base"))


def test_lineage_and_export_follow_the_base(new: Path, tmp_path: Path) -> None:
    """An older record of `lora` without series: what its base saw is known from the base alone."""
    assert lineage(export_run(runs(new) / "lora", tmp_path / "out"), None)[1] == SERIES
    (runs(new) / "base").rename(tmp_path / "far")
    name = export_run(runs(new) / "lora", tmp_path / "out2", str(tmp_path / "far"))
    assert lineage(name, None)[1] == SERIES


def test_a_run_is_not_its_own_base(new: Path) -> None:
    final = runs(new) / "lora" / "final"
    settings = ModelSettings("local-dir:/gone/final")
    (final / "open_clip_config.json").write_text("{}")
    assert place_beside(settings, final) == settings


def test_a_resumed_run_follows_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train_vl

    write_tiny_dataset(tmp_path / "old" / "train" / "processed_data")
    base = write_tiny_base(tmp_path / "old" / "models" / "clip")
    steps = ["--max_train_steps", "2", "--checkpointing_steps", "1", "--held_out_sites", "8"]

    def train(root: Path, run: str, model: str, *more: str) -> int:
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        words = ["--root", str(root), "--run", run, "--model", model, "--report_to", "none", *steps, *more]
        return run_here(train_vl, words, monkeypatch)

    old, new = tmp_path / "old", tmp_path / "new"
    assert train(old, "lora", base) == train(old, "full", base, "--tune", "full") == 0
    for run in ("lora", "full"):
        for folder in (runs(old), old / "train" / "logs"):
            shutil.copytree(folder / run, folder / f"{run}-again")
        shutil.rmtree(runs(old) / f"{run}-again" / "checkpoint-2")
        shutil.rmtree(runs(old) / f"{run}-again" / "final")
    old.rename(new)
    resume = ("--resume_from_checkpoint", "latest")
    assert train(new, "lora-again", base, *resume) == 0
    assert train(new, "full-again", f"local-dir:{new / 'models' / 'clip'}", "--tune", "full", *resume) == 0
    for run in ("lora", "full"):
        assert_same_result(new, run, f"{run}-again")
    (new / "models").rename(tmp_path / "far")
    (runs(new) / "full").rename(tmp_path / "gone")
    assert train(new, "lora", base, *resume) == 2
    assert train(new, "lora", base, *resume, "--base", str(tmp_path / "far" / "clip")) == 0
    assert train(new, "fresh", base, "--base", str(tmp_path / "far" / "clip")) == 2
