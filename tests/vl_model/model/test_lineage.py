"""Leakage from a base is detected through runs, exports and the hub, however the studies were converted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.conversion.pairs import read_dataset
from tests.tiny_dataset import graded_rows, write_tiny_dataset
from tests.training_runs import Train
from vl_model.model.lineage import _from_hub, check_leakage, lineage, trained_series
from vl_model.towers.model_names import hub_repository
from vl_model.training.trainer import Trainer

SHORT = ["--max_train_steps", "1", "--per_device_train_batch_size", "10"]
BOTH = ["--held_out_folds", "0", "1"]
#: Of the six studies two are in fold 1 and one in fold 0, which runs hold out by default.
LEAKAGE = "was trained on 2 of the 3 studies of the held-out folds [0, 1]; hold out folds [0], which it was not"


@pytest.fixture
def parent(train: Train, tiny_root: Path) -> Path:
    """Train a run with held-out fold 0 and return its ``final/``."""
    assert train("parent", "--tune", "full", *SHORT, "--overwrite", "true") == 0
    return tiny_root / "train" / "checkpoints" / "parent" / "final"


def rewrite(final: Path, **changes: object) -> None:
    """Change entries of ``site_model.json``; None removes an entry."""
    card = json.loads((final / "site_model.json").read_text()) | changes
    kept = {name: value for name, value in card.items() if name not in changes or value is not None}
    (final / "site_model.json").write_text(json.dumps(kept))


def test_a_base_that_was_trained_on_held_out_studies_is_refused(
    parent: Path, train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("parent", *SHORT, "--model", f"local-dir:{parent}", "--overwrite", "true") == 2
    assert "is in the folder of run 'parent' itself" in capsys.readouterr().err
    assert train("leaking", *SHORT, "--model", f"local-dir:{parent}", *BOTH) == 2
    error = capsys.readouterr().err
    assert f"model 'local-dir:{parent}': {LEAKAGE}" in error and error.count("\n") == 1
    assert not (tiny_root / "train" / "checkpoints" / "leaking").exists()
    assert train("child", *SHORT, "--model", f"local-dir:{parent}", "--tune", "full") == 0
    # Series add up: the child's record suffices, even if the parent's is lost.
    child = parent.parents[1] / "child" / "final"
    rewrite(parent, trained_series={"77": [770]})
    assert train("grandchild", *SHORT, "--model", f"local-dir:{child}", "--held_out_folds", "1") == 2
    assert "was trained on 2 of the 2 studies" in capsys.readouterr().err


def test_an_export_and_a_weights_file_of_such_a_base_are_refused_too(
    parent: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert train("parent", "--export", str(out)) == 0
    assert str(parent) not in (out / "lumbar_vl.json").read_text()
    link, blob = tmp_path / "link.safetensors", tmp_path / "blob"
    link.symlink_to(out / "open_clip_model.safetensors")
    cached = tmp_path / "cached" / "open_clip_model.safetensors"  # as in the hub's cache
    shutil.copytree(out, cached.parent)
    cached.rename(blob)
    cached.symlink_to(blob)
    capsys.readouterr()
    assert train("leaking", *SHORT, "--model", f"local-dir:{out}", *BOTH) == 2
    assert LEAKAGE in capsys.readouterr().err
    for file in (parent / "open_clip_model.safetensors", out / "open_clip_model.safetensors", link, cached):
        arguments = [*SHORT, "--model", "lumbar-tiny", "--pretrained", str(file)]
        assert train("leaking", *arguments, *BOTH) == 2
        assert f"pretrained '{file}': {LEAKAGE}" in capsys.readouterr().err
    inside = ["--model", "lumbar-tiny", "--pretrained", str(parent / "open_clip_model.safetensors")]
    assert train("parent", *SHORT, *inside, "--overwrite", "true") == 2
    assert "is in the folder of run 'parent' itself" in capsys.readouterr().err
    assert train("from-export", *SHORT, "--model", f"local-dir:{out}") == 0


def test_studies_are_recognised_however_they_were_converted(parent: Path, tmp_path: Path) -> None:
    """The fingerprint and the folds differ: study 5, which the base was not trained on, shares a fold with study 6."""
    write_tiny_dataset(tmp_path, seed=3)
    dataset = read_dataset(tmp_path)
    check_leakage(f"local-dir:{parent}", None, dataset, [0])
    with pytest.raises(ValueError, match=r"2 of the 2 studies .* hold out folds \[0\], which it was not trained on"):
        check_leakage(f"local-dir:{parent}", None, dataset, [1])
    dataset.metadata["folds"]["of_study"] |= {"5": 1}
    with pytest.raises(ValueError, match=r"2 of the 3 studies of .*; choose another base"):
        check_leakage(f"local-dir:{parent}", None, dataset, [1])


def test_studies_of_equal_numbers_in_other_data_sets_are_not_confused(parent: Path, tmp_path: Path) -> None:
    """Two hospitals may both number their studies from 1."""
    write_tiny_dataset(tmp_path, seed=3)
    dataset = read_dataset(tmp_path)
    others = replace(dataset, pairs=[replace(pair, series_id=pair.series_id + 1000) for pair in dataset.pairs])
    check_leakage(f"local-dir:{parent}", None, others, [0, 1])


def test_runs_without_series_are_judged_by_the_data_set_and_its_folds(
    parent: Path, tiny_root: Path, tmp_path: Path
) -> None:
    rewrite(parent, trained_series=None)
    dataset = read_dataset(tiny_root / "train" / "processed_data")
    check_leakage(f"local-dir:{parent}", None, dataset, [0])
    with pytest.raises(ValueError, match=r"was trained on folds \[1\] of this data set"):
        check_leakage(f"local-dir:{parent}", None, dataset, [0, 1])
    write_tiny_dataset(tmp_path, seed=3)
    check_leakage(f"local-dir:{parent}", None, read_dataset(tmp_path), [0, 1])
    # This also holds through a child that has series, as long as the folder of its base exists.
    child = tmp_path / "child"
    shutil.copytree(parent, child)
    rewrite(child, trained_series={"1": [10]}, model=f"local-dir:{parent}")
    with pytest.raises(ValueError, match=r"was trained on folds \[2\] of this data set"):
        check_leakage(f"local-dir:{child}", None, dataset, [0, 2])


def test_the_lineage_of_runs_that_started_from_each_other_is_finite(parent: Path, tiny_root: Path) -> None:
    rewrite(parent, model=f"local-dir:{parent}", trained_series={"1": [10], "9": [90]})
    assert [run["trained_series"] for run in lineage(f"local-dir:{parent}", None)] == [{"1": [10], "9": [90]}]
    dataset = read_dataset(tiny_root / "train" / "processed_data")
    series = trained_series(f"local-dir:{parent}", None, dataset, graded_rows(tiny_root))
    assert list(series) == ["1", "2", "3", "4", "5", "6", "9"] and series["6"] == [60, 61, 62] and series["9"] == [90]


def test_a_run_without_steps_has_the_series_of_its_base(parent: Path, train: Train) -> None:
    bare = parent.parents[1] / "bare-child" / "final"
    assert train("bare-child", "--max_train_steps", "0", "--model", f"local-dir:{parent}") == 0
    assert json.loads((bare / "site_model.json").read_text())["trained_series"].keys() == set("12346")


def test_a_base_that_is_deleted_during_the_training_still_counts(
    parent: Path, tiny_root: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(parent, base)
    rewrite(base, trained_series={"9": [90]})
    step = Trainer.step

    def step_without_base(*arguments: Any) -> dict[str, Any]:
        shutil.rmtree(base, ignore_errors=True)
        return step(*arguments)

    monkeypatch.setattr(Trainer, "step", step_without_base)
    assert train("orphan", *SHORT, "--model", f"local-dir:{base}") == 0
    card = json.loads((tiny_root / "train" / "checkpoints" / "orphan" / "final" / "site_model.json").read_text())
    assert not base.exists() and card["trained_series"]["9"] == [90]


def test_an_incomplete_record_is_refused(parent: Path, tiny_root: Path) -> None:
    (parent / "lumbar_vl.json").write_text('{"schema_version": 1}')
    with pytest.raises(ValueError, match=r"lumbar_vl\.json: the record of what it was trained on lacks 'trained_on'"):
        check_leakage(f"local-dir:{parent}", None, read_dataset(tiny_root / "train" / "processed_data"), [0])


@pytest.mark.parametrize("model", ["hf-hub:me/mine", "hf:me/mine"])
def test_the_lineage_of_a_model_on_the_hub_is_read(
    model: str, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The hub's cache on disk has the record; without it and without a network the lineage is reported as unknown."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _from_hub.cache_clear()
    assert not lineage(model, None)
    assert f"model {model!r}: the studies that it was trained on are unknown" in capsys.readouterr().out
    cached = tmp_path / "models--me--mine"
    shutil.copytree(parent, cached / "snapshots" / "0123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    _from_hub.cache_clear()
    [found] = lineage(model, None)
    assert found["trained_series"] == lineage(f"local-dir:{parent}", None)[0]["trained_series"] != {}
    assert not capsys.readouterr().out
    rewrite(cached / "snapshots" / "0123", model="hf-hub:me/gone")
    assert len(lineage(model, None)) == 1 and not capsys.readouterr().out  # its series include those of its base
    assert (
        hub_repository("hf:base") is hub_repository("hf:/home/me/gone") is hub_repository("hf:some/where/gone") is None
    )
