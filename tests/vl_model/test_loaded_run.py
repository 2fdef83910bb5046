"""`load_run` and its methods: the same results as the scripts', cheap to import, and errors of one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES
from vl_model import LoadedRun, load_run
from vl_model.evaluation.embeddings import read_embeddings
from vl_model.queries.reply import reply_json
from vl_model.run_embeddings import prompt_embeddings

REPOSITORY = Path(__file__).parents[2]
SEVERE_LEFT = "severe left foraminal narrowing at L4-L5"


@pytest.fixture(scope="module")
def root(evaluated_root: Path) -> Path:
    return evaluated_root


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRun:
    return load_run(root, "first")


def test_opening_a_run_imports_no_heavy_library(root: Path) -> None:
    code = (
        "import sys\nfrom vl_model import load_run\n"
        f"run = load_run({str(root)!r}, 'first')\nassert run.report()['run'] == 'first'\n"
        "print([name for name in ('torch', 'pandas', 'sklearn', 'matplotlib', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_grade_returns_the_table_that_it_writes(run: LoadedRun, tmp_path: Path) -> None:
    images = run.root.images("test")
    table = run.grade(images, series_descriptions=run.root.table("test_series_descriptions.csv"), out=tmp_path / "out")
    written = pd.read_csv(tmp_path / "out" / "probabilities.csv", keep_default_na=False, na_values={"x0": [""]})
    assert list(table.columns) == list(written.columns) and len(table) == len(written) == 50
    for name in ("study_id", "condition", "side", "level"):
        assert table[name].tolist() == written[name].tolist()
    grades = ["normal_mild", "moderate", "severe"]
    np.testing.assert_allclose(table[grades], written[grades], rtol=1e-8)
    assert table["x0"].isna().tolist() == written["x0"].isna().tolist()
    assert table[grades].sum(axis=1).to_numpy() == pytest.approx(1)
    assert str(table["series_id"].dtype) == str(table["instance_number"].dtype) == "Int64"

    # The submission of the same images is that of the test split, as eval_vl.py wrote it.
    ours, theirs = (pd.read_csv(path / "submission.csv").set_index("row_id") for path in (tmp_path / "out", run.logs))
    pd.testing.assert_frame_equal(ours, theirs.loc[ours.index], atol=1e-6)


def test_grade_of_one_study_writes_nothing_without_out(run: LoadedRun, root: Path) -> None:
    before = sorted(root.rglob("*"))
    study = min(run.root.images("test").iterdir())
    table = run.grade(str(study), locator="none")
    assert len(table) == 25 and set(table["study_id"]) == {int(study.name)}
    assert set(table["source"].dropna()) == {"atlas"}
    assert sorted(root.rglob("*")) == before


def test_search_returns_the_answers_as_a_table(run: LoadedRun) -> None:
    table = run.search(SEVERE_LEFT, top=3)
    reply = reply_json(run.answer(SEVERE_LEFT, top=3))
    assert table["rank"].tolist() == [1, 2, 3] and reply["splits"] == ["train", "test"]
    for row, answer in zip(table.to_dict("records"), reply["answers"], strict=True):
        assert (row["study_id"], row["split"], row["seen"]) == tuple(
            answer[name] for name in ("study_id", "split", "seen")
        )
        assert row["score"] == row["severe"] == answer["probabilities"]["severe"] == answer["score"]
        assert (row["condition"], row["side"], row["level"]) == ("neural_foraminal_narrowing", "left", "l4_l5")
        assert [row[name] for name in ("x0", "y0", "x1", "y1")] == answer["box"]
        assert Path(row["image"]).is_file() and row["image"].endswith(answer["image"])
    assert table["likeness"].isna().all()
    assert set(run.search(SEVERE_LEFT, split="test")["split"]) == {"test"}


def test_words_that_are_not_understood_rank_by_likeness(run: LoadedRun) -> None:
    with pytest.raises(ValueError, match="nothing that is graded was asked"):
        run.search("facet arthropathy")
    reply = run.answer("facet arthropathy", top=2, likeness=True)
    embeddings, [text_D] = run.embed("train"), run.embed_texts(["facet arthropathy"])
    likeness = np.concatenate([embeddings.image_ND @ text_D, run.embed("test").image_ND @ text_D])
    assert reply.likeness is not None
    assert reply.likeness.highest == pytest.approx(likeness.max(), abs=1e-6)
    assert bool(reply.answers) == reply.likeness.is_told


def test_embeddings_are_kept_for_a_split_and_computed_for_a_folder(run: LoadedRun, root: Path, tmp_path: Path) -> None:
    kept = run.folder / "embeddings" / "train"
    stamp = (kept / "image.npy").stat().st_mtime_ns
    embeddings = run.embed("train")
    assert (kept / "image.npy").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(embeddings.image_ND, read_embeddings(kept, {}).image_ND)

    folder = shutil.copytree(run.root.processed("train"), tmp_path / "processed_data")
    of_folder = run.embed(folder, batch_size=17)
    assert of_folder.rows == embeddings.rows and of_folder.fingerprint == embeddings.fingerprint
    np.testing.assert_allclose(of_folder.image_ND, embeddings.image_ND, atol=1e-6)
    assert (kept / "image.npy").stat().st_mtime_ns == stamp

    shutil.rmtree(kept)
    np.testing.assert_allclose(run.embed("train").image_ND, embeddings.image_ND, atol=1e-6)
    read_embeddings(kept, {"checkpoint": run.checkpoint, "dataset": run.dataset("train").fingerprint})
    assert prompt_embeddings(run).text_SCD.shape == (len(SITES), 3, embeddings.image_ND.shape[1])


def test_the_report_is_that_of_the_run(run: LoadedRun) -> None:
    assert run.report() == json.loads((run.logs / "report.json").read_text())
    assert run.report_page.is_file()


def test_wrong_use_is_one_line_that_quotes_it(root: Path, run: LoadedRun, tmp_path: Path) -> None:
    def refused(call: object, *arguments: object, **named: object) -> str:
        with pytest.raises(ValueError) as error:
            call(*arguments, **named)  # type: ignore[operator]
        message = str(error.value)
        assert "\n" not in message, message
        return message

    images, unevaluated = run.root.images("test"), load_run(str(root), "unevaluated")
    message = refused(load_run, root, "frist")
    assert "'frist': no such run" in message and "first, unevaluated" in message
    assert "no such folder" in refused(load_run, tmp_path / "nowhere", "first")
    for call in (lambda: unevaluated.grade(images), lambda: unevaluated.search(SEVERE_LEFT), unevaluated.report):
        assert "run eval_vl.py first" in refused(call)
    assert f"images '{tmp_path / 'none'}': no such folder" in refused(run.grade, tmp_path / "none")
    assert "no such file" in refused(run.grade, images, series_descriptions=tmp_path / "none.csv")
    assert "lies within images" in refused(run.grade, images, out=images / "out")
    assert "'nowhere'" in refused(run.grade, images, locator="nowhere")
    for top in (0, 1.5, "3"):
        assert refused(run.search, "severe", top=top) == f"top {top!r}: must be a whole number and at least 1"
    for count in (0, -3):  # a negative batch would leave every embedding zero
        for name in ("workers", "batch_size"):
            assert f"{name} {count}: must be" in refused(run.grade, images, **{name: count})
        assert f"batch_size {count}: must be" in refused(run.embed, "train", batch_size=count)
    for name in ("out", "series_descriptions"):
        assert f"{name} '': is empty" in refused(run.grade, images, **{name: ""})
    assert "images '': is empty" in refused(run.grade, "")
    for texts in ("severe", []):
        assert f"texts {texts!r}: must be a list" in refused(run.embed_texts, texts)
    assert "split 'validation': neither a split (train, test) nor a kept set" in refused(
        run.search, "severe", split="validation"
    )
    assert "nothing was asked" in refused(run.search, " ")
    assert "dataset.json: no such file" in refused(run.embed, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_data_set_is_not_evaluated(run: LoadedRun, root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "train" / "checkpoints" / "first"
    shutil.copytree(run.folder, copy)
    shutil.copytree(run.root.processed("test"), tmp_path / "train" / "processed_data")
    other = load_run(tmp_path, "first")
    assert read_dataset(other.root.processed("train")).fingerprint != run.record.dataset_fingerprint
    with pytest.raises(ValueError, match="was trained on another data set"):
        other.training_dataset()
