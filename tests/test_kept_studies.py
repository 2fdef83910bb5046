"""predict_vl.py --keep: new studies become a segment of the query index, completely or not at all."""

import io
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import predict_vl
from data_prep.sites import SITES
from prompts.reading.parse import parse_query
from tests.evaluated_root import run_here
from vl_model import kept_studies, load_run
from vl_model.queries.index import Segment, image_path
from vl_model.queries.reply import reply_csv, reply_json
from vl_model.queries.run_index import available_segments, open_segment, processed_of
from vl_model.queries.run_queries import Asked
from workspace.layout import DataRoot

Command = Callable[..., int]


@pytest.fixture(scope="module")
def root(evaluated_root: Path) -> DataRoot:
    return DataRoot(evaluated_root)


@pytest.fixture
def predict(root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A function that grades new studies with further flags; nothing is kept when a test begins."""
    shutil.rmtree(root.run("first") / "kept", ignore_errors=True)
    common = ["--root", str(root.path), "--run", "first", "--workers", "1", "--out", str(tmp_path / "out")]
    return lambda *arguments: run_here(predict_vl, [*common, *map(str, arguments)], monkeypatch)


def opened(root: DataRoot, name: str) -> Segment:
    """Open a segment that is current."""
    return open_segment(root, "first", name, lambda said: pytest.fail(said))


def test_new_studies_become_a_segment_and_no_other_is_made_again(
    root: DataRoot, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_segment(root, "first", "train", print)
    images = root.images("test")
    assert predict("--images", images, "--keep", "ward-3") == 0
    assert capsys.readouterr().out.endswith("query_vl.py --run first --split ward-3 searches them\n")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"probabilities.csv", "studies.csv", "submission.csv", "fallbacks.csv", "faults.csv"}
    kept = root.run("first") / "kept"
    assert [path.name for path in kept.iterdir()] == ["ward-3"]
    assert {path.name for path in (kept / "ward-3").iterdir()} == {"processed_data", "embeddings", "index"}
    assert available_segments(root, "first") == ["train", "test", "ward-3"]
    assert len(opened(root, "train")) == 5

    segment, rows = opened(root, "ward-3"), pd.read_csv(tmp_path / "out" / "probabilities.csv")
    assert segment.study_S.tolist() == sorted(set(rows["study_id"])) and not segment.seen_S.any()
    assert (segment.label_SX == -1).all()
    for row in rows.itertuples():
        place = segment.row_of(row.study_id)
        site = next(x for x, s in enumerate(SITES) if list(s.columns.values()) == columns_of(row))
        found = segment.evidence(place, site)
        assert bool(found) == (not pd.isna(row.source)) == bool(segment.imaged_SX[place, site])
        if found:
            grades = [row.normal_mild, row.moderate, row.severe]
            assert segment.graded_SX3[place, site] == pytest.approx(grades, abs=1e-6)
            best = found[0]
            assert (best.view, best.series_id, best.instance_number) == (row.view, row.series_id, row.instance_number)
            assert best.source == row.source and best.box == pytest.approx([row.x0, row.y0, row.x1, row.y1], rel=1e-5)
            assert sum(evidence.weight or 0 for evidence in found) == pytest.approx(1)
            for evidence in found:
                assert (processed_of(root, "first", "ward-3") / image_path(row.study_id, evidence)).is_file()


def test_the_index_and_its_replies_have_the_study_answers_of_studies_csv(
    root: DataRoot, predict: Command, tmp_path: Path
) -> None:
    """Those of the kept studies are those of the test split, because they are the same studies."""
    assert predict("--images", root.images("test"), "--keep", "ward-4") == 0
    table = pd.read_csv(tmp_path / "out" / "studies.csv").set_index("study_id")
    names = ["p_any_severe_canal", "p_any_severe"]
    assert np.isfinite(table[names].to_numpy()).all()
    queries = load_run(root, "first").queries()
    for split in ("ward-4", "test"):
        reply = queries.ask(parse_query("severe canal stenosis"), Asked(split=split, least=0.0, top=10))
        answers = reply_json(reply)["answers"]
        assert {answer["study_id"] for answer in answers} == set(table.index)
        for answer in answers:
            assert [answer[name] for name in names] == pytest.approx(table.loc[answer["study_id"], names], rel=1e-7)
        rows = pd.read_csv(io.StringIO(reply_csv(reply)))
        expected = table.loc[rows["study_id"], names].to_numpy()
        assert rows[names].to_numpy() == pytest.approx(expected, rel=1e-5)


def columns_of(row: object) -> list[str | None]:
    side = None if pd.isna(row.side) else row.side  # type: ignore[attr-defined]
    return [row.condition, side, row.level]  # type: ignore[attr-defined]


def test_a_name_is_kept_once_unless_it_is_overwritten(
    root: DataRoot, predict: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, study in zip((one, other), sorted(root.images("test").iterdir()), strict=True):
        shutil.copytree(study, folder / study.name)
    load_run(root, "first").grade(one, keep="ward")
    before = opened(root, "ward").study_S.tolist()
    assert predict("--images", other, "--keep", "ward") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("predict_vl.py: error: --keep 'ward': exists already at ") and said.endswith("--overwrite")
    assert opened(root, "ward").study_S.tolist() == before and not (tmp_path / "out").exists()
    assert predict("--images", other, "--keep", "ward", "--overwrite") == 0
    assert opened(root, "ward").study_S.tolist() not in (before, [])
    assert [path.name for path in (root.run("first") / "kept").iterdir()] == ["ward"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--keep", "train"], "--keep 'train': stands for a split"),
        (["--keep", "both"], "--keep 'both': stands for a split"),
        (["--keep", "../first"], "--keep '../first': a kept set's name may contain only letters"),
        (["--keep", ".ward"], "must not begin with '.'"),
        (["--keep", ""], "--keep '': is empty"),
        (["--keep", "w" * 201], "a kept set's name has at most 200 characters"),
        (["--overwrite"], "--overwrite true: replaces a kept set; name it with --keep"),
    ],
)
def test_a_name_that_is_not_possible_is_refused_before_anything_is_read(
    root: DataRoot, predict: Command, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--images", root.images("test"), *arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and complaint in said.err and said.err.count("\n") == 1
    assert not (root.run("first") / "kept").exists()


def test_images_that_contain_the_runs_folder_are_refused(root: DataRoot) -> None:
    with pytest.raises(ValueError, match="where these studies are to be kept"):
        load_run(root, "first").grade(root.path / "train", keep="ward")


def test_a_write_that_fails_leaves_nothing(
    root: DataRoot, predict: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files may have 3 MB, as on a disk that is nearly full: the slices can be written, the crops of all cannot."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        assert predict("--images", root.images("test"), "--keep", "ward") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in capsys.readouterr().err
    assert not (root.run("first") / "kept").exists()


def test_ctrl_c_at_the_last_step_leaves_the_earlier_set(
    root: DataRoot, predict: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = root.images("test")
    assert predict("--images", images, "--keep", "ward") == 0
    before = {path: path.stat().st_mtime_ns for path in (root.run("first") / "kept").rglob("*")}
    make_segment = kept_studies.make_segment

    def interrupted(files: object) -> None:
        make_segment(files)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(kept_studies, "make_segment", interrupted)
    assert predict("--images", images, "--keep", "ward", "--overwrite") == 130
    assert {path: path.stat().st_mtime_ns for path in (root.run("first") / "kept").rglob("*")} == before


def test_studies_without_a_readable_image_are_kept_too(root: DataRoot, predict: Command, tmp_path: Path) -> None:
    (tmp_path / "images" / "31").mkdir(parents=True)
    (tmp_path / "images" / "31" / "1.dcm").write_bytes(b"not an image")
    assert predict("--images", tmp_path / "images", "--keep", "ward") == 0
    segment = opened(root, "ward")
    assert len(segment) == 1 and np.isnan(segment.graded_SX3).all() and not segment.evidence(0, 0)
