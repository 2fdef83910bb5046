"""The index of a run: made when it is missing, again when what it was made from has changed, and not otherwise."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES
from tests.immutable import immutable
from tests.vl_model.queries.indexed_run import (
    FOLDS,
    HELD_OUT,
    RUN,
    write_indexed_root,
    write_pairs,
    write_random_embeddings,
)
from tests.vl_model.queries.segments import make_parts
from vl_model.evaluation.embeddings import read_embeddings
from vl_model.evaluation.grader import read_grader, write_grader
from vl_model.evaluation.typicality import Typicality
from vl_model.queries import fingerprints, run_index
from vl_model.queries.index import Segment
from vl_model.queries.run_index import (
    available_segments,
    check_evaluated,
    kept_files,
    make_segment,
    open_segment,
    processed_of,
)
from workspace.layout import DataRoot

#: Long enough ago for files to be settled, in ns.
LONG_AGO = 10**18


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("indexed")
    write_indexed_root(root)
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataRoot:
    """A copy of the root whose files were written long ago (when they were changed cannot be set)."""
    monkeypatch.setattr(fingerprints, "UNSETTLED", 0)
    shutil.copytree(written, tmp_path / "root")
    settle(tmp_path / "root")
    return DataRoot(tmp_path / "root")


def settle(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, ns=(LONG_AGO, LONG_AGO))


def opened(root: DataRoot, name: str = "train") -> tuple[Segment, list[str]]:
    said: list[str] = []
    return open_segment(root, RUN, name, said.append), said


def keep(root: DataRoot, name: str, seed: int = 3) -> Path:
    """Keep new studies under a name, and return their folder."""
    folder = root.kept(RUN, name)
    write_pairs(folder / "processed_data", make_parts(seed, first=5), {})
    write_random_embeddings(root.run(RUN), folder / "processed_data", folder / "embeddings", seed)
    make_segment(kept_files(root.run(RUN), name, folder))
    settle(folder)
    return folder


def test_the_segment_has_the_probabilities_of_the_runs_heads(root: DataRoot) -> None:
    segment, said = opened(root)
    assert said == ["making the query index of 'train', for the first time"]
    run = root.run(RUN)
    embeddings, dataset = read_embeddings(run / "embeddings" / "train", {}), read_dataset(root.processed("train"))
    prob_N3 = read_grader(run / "heads").predict_proba(embeddings.table, [embeddings], "calibrated")
    for row, image_D, prob_3 in zip(embeddings.rows, embeddings.image_ND, prob_N3, strict=True):
        place, site = segment.row_of(row.study_id), SITES.index(row.site)
        assert segment.graded_SX3[place, site] == pytest.approx(prob_3, abs=1e-6)
        assert np.array_equal(segment.vector_XSD[site, place], image_D)
    assert segment.imaged_SX.sum() == len(embeddings.rows)
    assert sorted(dataset.study_ids) == segment.study_S.tolist()
    seen = {study for study, fold in dataset.fold_of.items() if fold not in HELD_OUT}
    assert set(segment.study_S[segment.seen_S].tolist()) == seen and len(seen) == len(segment) * 2 // FOLDS
    assert available_segments(root, RUN) == ["train"]
    assert processed_of(root, RUN, "train") == root.processed("train")
    check_evaluated(root, RUN)


def test_an_index_that_is_current_is_read_without_a_word_and_without_reading_the_weights(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(root)
    monkeypatch.setattr(fingerprints, "files_sha256", lambda paths: pytest.fail(f"{paths} are read again"))
    segment, said = opened(root)
    assert said == [] and isinstance(segment.vector_XSD, np.memmap)


def test_opening_a_current_index_imports_no_heavy_library(root: DataRoot) -> None:
    opened(root)
    check = (
        "import sys; from pathlib import Path; from workspace.layout import DataRoot\n"
        "from vl_model.queries.run_index import open_segment, available_segments\n"
        f"root = DataRoot(Path({str(root.path)!r}))\n"
        f"assert len(open_segment(root, {RUN!r}, 'train', lambda said: sys.exit(said))) == 12\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'scipy', 'pydicom', 'open_clip', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    folder = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def change_byte(path: Path) -> None:
    """Change a byte without changing the size."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_weights_that_are_touched_do_not_make_it_again_but_changed_bytes_of_the_same_size_do(root: DataRoot) -> None:
    opened(root)
    weights = root.run(RUN) / "final" / "adapter_model.safetensors"
    manifest = root.run(RUN) / "index" / "train" / "index.json"
    os.utime(weights, ns=(LONG_AGO + 7, LONG_AGO + 7))
    assert opened(root)[1] == []
    assert json.loads(manifest.read_text())["files"]["model"][weights.name] == [
        weights.stat().st_size,
        LONG_AGO + 7,
        weights.stat().st_ctime_ns,
    ]
    change_byte(weights)
    # The run's embeddings are those of the earlier weights: it is not answered with them.
    with pytest.raises(ValueError, match=r"embeddings of another checkpoint; run eval_vl\.py again"):
        opened(root)


def test_other_weights_of_the_same_size_and_time_of_modification_are_noticed(root: DataRoot) -> None:
    """As ``cp -p`` and archives leave them."""
    opened(root)
    weights = root.run(RUN) / "final" / "adapter_model.safetensors"
    change_byte(weights)
    os.utime(weights, ns=(LONG_AGO, LONG_AGO))
    with pytest.raises(ValueError, match="embeddings of another checkpoint"):
        opened(root)


def test_a_run_that_was_trained_on_a_study_it_calls_held_out_is_refused(root: DataRoot) -> None:
    """Its known grades would tell what a question is worth."""
    record = root.run(RUN) / "run.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"held_out_folds": [*content["held_out_folds"], 7]}))
    card = root.run(RUN) / "final" / "site_model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"held_out_folds": content["held_out_folds"]}))
    with pytest.raises(ValueError, match="held out"):
        opened(root)


def test_files_that_change_while_the_index_is_made_are_refused(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = root.run(RUN) / "heads" / "heads.json"
    build = run_index._build

    def slow_build(*given: Any) -> Any:
        segment = build(*given)
        heads.write_text(heads.read_text() + " ")
        return segment

    monkeypatch.setattr(run_index, "_build", slow_build)
    with pytest.raises(ValueError, match=r"'[a-z]+': its files changed while the query index was made .* ask again"):
        opened(root)
    assert not (root.run(RUN) / "index").exists()


def test_a_file_that_was_just_written_is_read_again_until_its_time_can_be_trusted(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the resolution of its time it may change once more, without a new size or time."""
    monkeypatch.setattr(fingerprints, "UNSETTLED", 2 * 10**9)
    weights = root.run(RUN) / "final" / "adapter_model.safetensors"
    weights.touch()
    now = weights.stat().st_mtime_ns
    opened(root)
    change_byte(weights)
    os.utime(weights, ns=(now, now))
    with pytest.raises(ValueError, match="embeddings of another checkpoint"):
        opened(root)


@pytest.mark.parametrize("read_only", [False, True])
def test_other_heads_make_it_again_and_the_reason_is_said(root: DataRoot, read_only: bool) -> None:
    before, _ = opened(root)
    heads = root.run(RUN) / "heads"
    write_grader(heads, replace(read_grader(heads), best="zero_shot"))
    settle(heads)
    if read_only:
        with immutable(root.run(RUN) / "index"):
            after, said = opened(root)
        assert len(said) == 2 and said[1].startswith("the query index of 'train' is not kept (")
    else:
        after, said = opened(root)
    assert said[0] == "making the query index of 'train' again: the heads changed"
    assert not np.array_equal(before.graded_SX3, after.graded_SX3, equal_nan=True)
    assert len(opened(root)[1]) == read_only


def test_new_studies_have_the_typicality_of_the_heads(root: DataRoot) -> None:
    """Those of the train split have none: the model learned from them, or new ones are compared with them."""
    heads = root.run(RUN) / "heads"
    mean_KD = np.zeros((3, 6))
    mean_KD[:, 0] = 1
    near_and_far = Typicality(mean_KD, np.eye(6), np.linspace(0, 2, 20))
    grader = replace(read_grader(heads), typicality={RUN: near_and_far})
    write_grader(heads, grader)
    settle(heads)
    kept = keep(root, "ward-3")
    segment, _ = opened(root, "ward-3")
    embeddings = read_embeddings(kept / "embeddings", {})
    expected_S = grader.typicality_of(segment.study_S.tolist(), [embeddings])
    assert len(set(expected_S.tolist())) > 3
    for row, expected in enumerate(expected_S.tolist()):  # one study has no image
        assert segment.typicality(row) == (None if np.isnan(expected) else pytest.approx(expected))
    assert np.isnan(opened(root)[0].typicality_S).all()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda index: (index / "index.json").unlink(), "index.json: no such file"),
        (lambda index: (index / "graded.npy").write_bytes(b""), "cannot be read"),
        (lambda index: (index / "index.json").write_text('{"schema_version": 1}'), "schema version 1, expected 6"),
        (
            lambda index: (index / "index.json").write_text('{"schema_version": 6, "fingerprint": {}}'),
            "made from other data",
        ),
    ],
)
def test_a_damaged_index_is_made_again(root: DataRoot, damage: Callable[[Path], object], reason: str) -> None:
    before, _ = opened(root)
    damage(root.run(RUN) / "index" / "train")
    after, [said] = opened(root)
    assert said.startswith("making the query index of 'train' again: ") and reason in said
    assert np.array_equal(before.graded_SX3, after.graded_SX3, equal_nan=True) and opened(root)[1] == []


def test_what_is_missing_is_named_with_the_command_that_writes_it(root: DataRoot) -> None:
    run = root.run(RUN)
    with pytest.raises(
        ValueError, match=r"test/processed_data/dataset\.json: no such file; prepare_data\.py writes it"
    ):
        opened(root, "test")
    with pytest.raises(ValueError, match=r"'other': neither a split .* run 'tiny' has no kept set"):
        opened(root, "other")
    with pytest.raises(ValueError, match="a kept set's name may contain only"):
        opened(root, "../train")
    (run / "embeddings" / "train" / "embeddings.json").unlink()
    with pytest.raises(ValueError, match=r"embeddings\.json: no such file; eval_vl\.py writes it"):
        opened(root)
    with pytest.raises(ValueError, match=r"no embeddings yet; run eval_vl\.py first"):
        available_segments(root, RUN)
    (run / "heads" / "heads.json").unlink()
    with pytest.raises(ValueError, match=r"heads\.json: no such file; eval_vl\.py writes it"):
        opened(root)
    with pytest.raises(ValueError, match=r"no heads yet; run eval_vl\.py first"):
        check_evaluated(root, RUN)


def test_a_data_set_that_the_run_was_not_trained_on_is_refused(root: DataRoot) -> None:
    """Its folds may be others, so that it is not known which studies were seen."""
    record = root.run(RUN) / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"dataset_fingerprint": "other"}))
    with pytest.raises(ValueError, match=r"was trained on another data set .* train a new run"):
        opened(root)


def test_a_kept_set_is_a_segment_that_no_other_depends_on(root: DataRoot) -> None:
    opened(root)
    index = root.run(RUN) / "index" / "train"
    before = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    folder = keep(root, "ward-3")
    assert available_segments(root, RUN) == ["train", "ward-3"]
    segment, said = opened(root, "ward-3")
    assert (said, segment.name, len(segment), segment.seen_S.any()) == ([], "ward-3", 12, False)
    assert processed_of(root, RUN, "ward-3") == folder / "processed_data"
    assert opened(root)[1] == [] and before == {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    with pytest.raises(ValueError, match="the kept sets of run 'tiny' are ward-3"):
        opened(root, "ward-4")


def test_a_kept_set_follows_the_heads_and_refuses_another_model(root: DataRoot) -> None:
    folder, run = keep(root, "ward-3"), root.run(RUN)
    before, _ = opened(root, "ward-3")
    write_grader(run / "heads", replace(read_grader(run / "heads"), best="zero_shot"))
    after, said = opened(root, "ward-3")
    assert said == ["making the query index of 'ward-3' again: the heads changed"]
    assert not np.array_equal(before.graded_SX3, after.graded_SX3, equal_nan=True)
    change_byte(run / "final" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"'ward-3': .* run predict_vl\.py --keep ward-3 --overwrite again"):
        opened(root, "ward-3")
    shutil.rmtree(folder / "embeddings")
    with pytest.raises(ValueError, match=r"embeddings\.json: no such file; predict_vl\.py --keep ward-3 writes it"):
        opened(root, "ward-3")
