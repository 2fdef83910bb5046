"""What a base has seen is known from its run, from an export of it, and however the studies were converted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.conversion.pairs import read_dataset
from tests.tiny_dataset import graded_rows, write_tiny_dataset
from tests.training_runs import Train
from vl_model.model.lineage import _from_hub, check_leakage, lineage, trained_series
from vl_model.towers.model_names import hub_repository

SHORT = ["--max_train_steps", "1", "--per_device_train_batch_size", "10"]
BOTH = ["--held_out_folds", "0", "1"]
#: Of six studies fold 1 has two and fold 0, which a run holds out by default, one.
SAID = "was trained on 2 of the 3 studies that --held_out_folds [0, 1] wants unseen; hold out folds [0], which it has"


@pytest.fixture
def parent(train: Train, tiny_root: Path) -> Path:
    """``final/`` of a run that never saw fold 0."""
    assert train("parent", "--tune", "full", *SHORT, "--overwrite", "true") == 0
    return tiny_root / "train" / "checkpoints" / "parent" / "final"


def rewrite(final: Path, **changes: object) -> None:
    """Of None: without."""
    card = json.loads((final / "site_model.json").read_text()) | changes
    kept = {name: value for name, value in card.items() if name not in changes or value is not None}
    (final / "site_model.json").write_text(json.dumps(kept))


def test_a_base_that_was_trained_on_held_out_studies_is_refused(
    parent: Path, train: Train, tiny_root: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train("parent", *SHORT, "--model", f"local-dir:{parent}", "--overwrite", "true") == 2
    assert "lies in the folder of run 'parent' itself" in capsys.readouterr().err
    assert train("leaking", *SHORT, "--model", f"local-dir:{parent}", *BOTH) == 2
    error = capsys.readouterr().err
    assert f"error: --model 'local-dir:{parent}': {SAID}" in error and error.count("\n") == 1
    assert not (tiny_root / "train" / "checkpoints" / "leaking").exists()
    assert train("child", *SHORT, "--model", f"local-dir:{parent}", "--tune", "full") == 0
    # Series add up: what the parent saw is known where the parent is gone.
    child = parent.parents[1] / "child" / "final"
    rewrite(parent, trained_series={"77": [770]})
    assert train("grandchild", *SHORT, "--model", f"local-dir:{child}", "--held_out_folds", "1") == 2
    assert "was trained on 2 of the 2 studies" in capsys.readouterr().err


def test_so_is_its_export_and_a_file_of_either(
    parent: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert train("parent", "--export", str(out)) == 0
    assert str(parent) not in (out / "lumbar_vl.json").read_text()
    link, blob = tmp_path / "link.safetensors", tmp_path / "blob"
    link.symlink_to(out / "open_clip_model.safetensors")
    cached = tmp_path / "cached" / "open_clip_model.safetensors"  # as the hub's cache has it
    shutil.copytree(out, cached.parent)
    cached.rename(blob)
    cached.symlink_to(blob)
    capsys.readouterr()
    assert train("leaking", *SHORT, "--model", f"local-dir:{out}", *BOTH) == 2
    assert SAID in capsys.readouterr().err
    for file in (parent / "open_clip_model.safetensors", out / "open_clip_model.safetensors", link, cached):
        arguments = [*SHORT, "--model", "lumbar-tiny", "--pretrained", str(file)]
        assert train("leaking", *arguments, *BOTH) == 2
        assert f"error: --pretrained '{file}': {SAID}" in capsys.readouterr().err
    inside = ["--model", "lumbar-tiny", "--pretrained", str(parent / "open_clip_model.safetensors")]
    assert train("parent", *SHORT, *inside, "--overwrite", "true") == 2
    assert "lies in the folder of run 'parent' itself" in capsys.readouterr().err
    assert train("from-export", *SHORT, "--model", f"local-dir:{out}") == 0


def test_studies_are_known_however_they_were_converted(parent: Path, tmp_path: Path) -> None:
    """Another fingerprint and other folds: study 5, which the base did not see, and 6, which it did, are in one."""
    write_tiny_dataset(tmp_path, seed=3)
    dataset = read_dataset(tmp_path)
    check_leakage(f"local-dir:{parent}", None, dataset, [0])
    with pytest.raises(ValueError, match=r"2 of the 2 studies .* hold out folds \[0\], which it has not seen"):
        check_leakage(f"local-dir:{parent}", None, dataset, [1])
    dataset.metadata["folds"]["of_study"] |= {"5": 1}
    with pytest.raises(ValueError, match=r"2 of the 3 studies that .* wants unseen; choose another base"):
        check_leakage(f"local-dir:{parent}", None, dataset, [1])


def test_studies_of_the_same_numbers_are_others(parent: Path, tmp_path: Path) -> None:
    """Two hospitals may both count from 1."""
    write_tiny_dataset(tmp_path, seed=3)
    dataset = read_dataset(tmp_path)
    others = replace(dataset, pairs=[replace(pair, series_id=pair.series_id + 1000) for pair in dataset.pairs])
    check_leakage(f"local-dir:{parent}", None, others, [0, 1])


def test_runs_without_series_are_known_by_the_data_set_and_its_folds(
    parent: Path, tiny_root: Path, tmp_path: Path
) -> None:
    rewrite(parent, trained_series=None)
    dataset = read_dataset(tiny_root / "train" / "processed_data")
    check_leakage(f"local-dir:{parent}", None, dataset, [0])
    with pytest.raises(ValueError, match=r"was trained on folds \[1\] of this data set"):
        check_leakage(f"local-dir:{parent}", None, dataset, [0, 1])
    write_tiny_dataset(tmp_path, seed=3)
    check_leakage(f"local-dir:{parent}", None, read_dataset(tmp_path), [0, 1])
    # Through a child that has series, as long as its base is there.
    child = tmp_path / "child"
    shutil.copytree(parent, child)
    rewrite(child, trained_series={"1": [10]}, model=f"local-dir:{parent}")
    with pytest.raises(ValueError, match=r"was trained on folds \[2\] of this data set"):
        check_leakage(f"local-dir:{child}", None, dataset, [0, 2])


def test_runs_that_started_from_each_other_end(parent: Path, tiny_root: Path) -> None:
    rewrite(parent, model=f"local-dir:{parent}", trained_series={"1": [10], "9": [90]})
    assert [run["trained_series"] for run in lineage(f"local-dir:{parent}", None)] == [{"1": [10], "9": [90]}]
    dataset = read_dataset(tiny_root / "train" / "processed_data")
    seen = trained_series(f"local-dir:{parent}", None, dataset, graded_rows(tiny_root))
    assert list(seen) == ["1", "2", "3", "4", "5", "6", "9"] and seen["6"] == [60, 61, 62] and seen["9"] == [90]


def test_a_run_of_no_steps_has_seen_what_its_base_has(parent: Path, train: Train) -> None:
    bare = parent.parents[1] / "bare-child" / "final"
    assert train("bare-child", "--max_train_steps", "0", "--model", f"local-dir:{parent}") == 0
    assert json.loads((bare / "site_model.json").read_text())["trained_series"].keys() == set("12346")


def test_a_record_without_what_is_needed_is_one_line(parent: Path, tiny_root: Path) -> None:
    (parent / "lumbar_vl.json").write_text('{"schema_version": 1}')
    with pytest.raises(ValueError, match=r"lumbar_vl\.json: does not say what it was trained on"):
        check_leakage(f"local-dir:{parent}", None, read_dataset(tiny_root / "train" / "processed_data"), [0])


@pytest.mark.parametrize("model", ["hf-hub:me/mine", "hf:me/mine"])
def test_what_a_model_on_the_hub_has_seen_is_asked(
    model: str, parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As the hub's cache lies on disk; what is not there, and cannot be asked, is not known."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _from_hub.cache_clear()
    assert not lineage(model, None)
    assert f"--model {model!r}: what it was trained on is not known" in capsys.readouterr().out
    cached = tmp_path / "models--me--mine"
    shutil.copytree(parent, cached / "snapshots" / "0123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    _from_hub.cache_clear()
    [found] = lineage(model, None)
    assert found["trained_series"] == lineage(f"local-dir:{parent}", None)[0]["trained_series"] != {}
    assert not capsys.readouterr().out
    rewrite(cached / "snapshots" / "0123", model="hf-hub:me/gone")
    assert len(lineage(model, None)) == 1 and not capsys.readouterr().out  # its series hold what its base saw
    assert (
        hub_repository("hf:base") is hub_repository("hf:/home/me/gone") is hub_repository("hf:some/where/gone") is None
    )
