"""Crops of another width, finer pixels and several tiles per view, from prepare_data.py to predict_vl.py."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import eval_vl
import predict_vl
import prepare_data
from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.crops import open_crops, read_crop_geometry
from data_prep.conversion.pairs import read_dataset
from data_prep.phantom.cohort import write_cohort
from tests.evaluated_root import run_here
from tests.training_runs import Train
from vl_model import load_run
from vl_model.model.run_crops import note_on_base

GEOMETRY = CropGeometry(48.0, 0.75, 3)
FLAGS = ("--field_mm", "48", "--pixel_mm", "0.75", "--tiles_per_view", "3")
SHORT = ("--per_device_train_batch_size", "10", "--held_out_folds", "1", "3", "--view_mm", "40")

Script = Callable[..., int]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom cohort, prepared with other crops."""
    root = tmp_path_factory.mktemp("other")
    write_cohort(root, train=3, test=1, seed=3, size="small", workers=1, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        assert run_here(prepare_data, ["--root", str(root), "--workers", "1", *FLAGS], patch) == 0
    return root


@pytest.fixture
def script(root: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    return lambda module, *arguments: run_here(module, ["--root", str(root), *map(str, arguments)], monkeypatch)


def test_a_run_on_other_crops_from_end_to_end(
    root: Path, train: Train, script: Script, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    processed = root / "train" / "processed_data"
    assert read_crop_geometry(processed) == GEOMETRY and open_crops(processed).shape[1:] == (3, 64, 64)
    metadata = read_dataset(processed).metadata
    assert {name: metadata["settings"][name] for name in ("field_mm", "pixel_mm", "tiles_per_view")} == {
        "field_mm": 48.0,
        "pixel_mm": 0.75,
        "tiles_per_view": 3,
    }
    assert script(prepare_data, "--workers", "1", *FLAGS) == 0
    assert capsys.readouterr().out.count("is up to date") == 2

    assert train("wide", "--root", str(root), *SHORT, "--max_train_steps", "2", "--checkpointing_steps", "1") == 0
    card = json.loads((root / "train" / "checkpoints" / "wide" / "final" / "site_model.json").read_text())
    assert card["crops"] == {"field_mm": 48.0, "pixel_mm": 0.75, "tiles_per_view": 3, "view_mm": 40.0}
    assert card["preprocessing"]["view_mm"] == 40.0
    assert script(eval_vl, "--run", "wide") == 0
    assert "inset: 8.33%" in (root / "train" / "logs" / "wide" / "report.html").read_text()  # (1 - 40 / 48) / 2
    run = load_run(root, "wide")
    assert run.crops == GEOMETRY and run.model.settings.view_mm == 40.0
    assert any(len(row.crops) > 2 and row.offsets for row in run.embed("train").rows)

    # New studies are cropped as the run's were: the same files as the test split get the same answers.
    descriptions = root / "dataset" / "test_series_descriptions.csv"
    images = root / "dataset" / "test_images"
    new = ("--images", images, "--out", tmp_path / "new", "--series_descriptions", descriptions, "--workers", "1")
    assert script(predict_vl, "--run", "wide", *new) == 0
    ours, theirs = (
        pd.read_csv(folder / "submission.csv").set_index("row_id").sort_index()
        for folder in (tmp_path / "new", root / "train" / "logs" / "wide")
    )
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)


def test_a_run_is_used_on_no_other_crops(
    root: Path, tiny_root: Path, script: Script, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("made", "--root", str(root), *SHORT, "--max_train_steps", "1") == 0
    other = tmp_path / "train"
    shutil.copytree(root / "train" / "checkpoints" / "made", other / "checkpoints" / "made")
    shutil.copytree(tiny_root / "train" / "processed_data", other / "processed_data")
    capsys.readouterr()
    assert script(eval_vl, "--root", tmp_path, "--run", "made") == 2
    error = capsys.readouterr().err
    assert "--run 'made': was made for crops with pixels of 0.75 mm, not 0.5 mm as in" in error
    assert (
        "prepare these again with --field_mm 48 --pixel_mm 0.75 --tiles_per_view 3" in error and error.count("\n") == 1
    )
    with pytest.raises(ValueError, match=r"was made for crops with pixels of 0\.75 mm, not 0\.5 mm"):
        load_run(tmp_path, "made").embed(other / "processed_data")

    # A run that starts from it learns, and says what differs; a run of earlier versions is one of the default crops.
    record = [{"crops": {"field_mm": 48.0, "pixel_mm": 0.75, "tiles_per_view": 3, "view_mm": 40.0}}]
    note = "the base was trained on crops with pixels of 0.75 mm, not 0.5 mm as here; it has to adapt to them"
    assert note_on_base(record, CropGeometry(), 48.0) == note
    assert note_on_base([], GEOMETRY, 48.0) is None and note_on_base([{"steps": 3}], CropGeometry(), 48.0) is None
    tiles = note_on_base(record, GEOMETRY, 32.0)
    assert tiles is not None and "tiles of 40 mm, not 32 mm" in tiles


def test_a_training_does_not_resume_on_other_crops(
    root: Path, train: Train, script: Script, capsys: pytest.CaptureFixture
) -> None:
    steps = ("--max_train_steps", "2", "--checkpointing_steps", "1")
    assert train("resumed", "--root", str(root), *SHORT, *steps) == 0
    capsys.readouterr()
    assert script(prepare_data, "--workers", "1", "--split", "train", "--field_mm", "60", "--pixel_mm", "0.75") == 0
    said = capsys.readouterr().out
    assert (
        "its crops are of 48 mm at 0.75 mm per pixel, 3 tiles per view; it is converted again, with crops of 60" in said
    )
    assert train("resumed", "--root", str(root), *SHORT, *steps, "--resume_from_checkpoint", "latest") == 2
    error = capsys.readouterr().err
    assert "was written with crops = '48 mm at 0.75 mm per pixel, 3 tiles per view', now it is '60 mm at" in error
    assert train("too-wide", "--root", str(root), *SHORT[:-1], "61", *steps) == 2
    assert "--view_mm 61: is wider than the crops of this data set, which have 60 mm" in capsys.readouterr().err
    assert not (root / "train" / "checkpoints" / "too-wide").exists()


def test_a_checkpoint_without_the_later_settings_is_resumed(train: Train, tiny_root: Path) -> None:
    """Earlier versions wrote no crops, view_mm, drop_tile or jitter_slice into a checkpoint's plan."""
    steps = ("--max_train_steps", "2", "--checkpointing_steps", "1", "--per_device_train_batch_size", "10")
    assert train("before", *steps) == 0
    run = tiny_root / "train" / "checkpoints" / "before"
    state = run / "checkpoint-1" / "state.json"
    content = json.loads(state.read_text())
    for name in ("crops", "view_mm", "drop_tile", "jitter_slice"):
        del content["plan"][name]
    state.write_text(json.dumps(content))
    assert train("before", *steps, "--resume_from_checkpoint", "checkpoint-1") == 0
    card_path = run / "final" / "site_model.json"
    card = json.loads(card_path.read_text())
    del card["crops"]
    card_path.write_text(json.dumps(card))
    record = json.loads((run / "run.json").read_text())
    del record["final_sha256"]  # which earlier versions did not write either
    (run / "run.json").write_text(json.dumps(record))
    early = load_run(tiny_root, "before")
    assert early.crops == CropGeometry() and early.model.settings.view_mm == 48.0
    card_path.write_text(json.dumps(card | {"crops": {"pixel_mm": 0}}))
    with pytest.raises(ValueError, match=r"has no valid description of crops \(pixel_mm 0: must be greater than 0\)"):
        _ = load_run(tiny_root, "before").crops


def test_crops_that_differ_only_in_the_margin_give_the_same_tiles(root: Path) -> None:
    """The middle of a wider crop with the same pixels is the narrower crop."""
    from data_prep.conversion.convert import convert_cohort
    from data_prep.studies.cohorts import split_cohort
    from prompts.render import caption
    from workspace.layout import DataRoot

    cohort = split_cohort(DataRoot(root), "test")
    crops = {}
    for field_mm in (48.0, 60.0):
        out = root / f"out-{field_mm}"
        convert_cohort(cohort, out, atlas=None, caption=caption, geometry=CropGeometry(field_mm, 0.75))
        crops[field_mm] = np.array(open_crops(out))
    np.testing.assert_array_equal(crops[60.0][:, :, 8:-8, 8:-8], crops[48.0])
