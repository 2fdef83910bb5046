"""Many questions at once, on a real index: equal bytes, and nothing replaced that is not its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.vl_model.queries.indexed_run import RUN, write_indexed_root
from vl_model.queries.batch import SUMMARY, answer_questions
from vl_model.queries.run_queries import Asked, RunQueries
from workspace.layout import DataRoot

QUESTIONS = {"severe": "severe stenosis", "line": "any(canal) >= moderate; top 2", "nonsense": "pink elephants"}


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> RunQueries:
    root = tmp_path_factory.mktemp("indexed")
    write_indexed_root(root)
    return RunQueries(DataRoot(root), RUN, lambda texts: np.zeros((len(texts), 8), np.float32), lambda _: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_questions_give_the_same_bytes_in_any_folder(queries: RunQueries, tmp_path: Path) -> None:
    asked = Asked(seen=True)
    summary = answer_questions(queries, QUESTIONS, tmp_path / "a", asked)
    answer_questions(queries, QUESTIONS, tmp_path / "b", asked)
    again = answer_questions(queries, QUESTIONS, tmp_path / "a", asked)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and again == summary
    assert sorted(contents(tmp_path / "a")) == ["line.csv", "severe.csv", SUMMARY]
    assert summary["complete"] and "nothing that is graded" in summary["queries"]["nonsense"]["error"]
    assert json.loads((tmp_path / "a" / SUMMARY).read_text()) == summary


def test_files_that_are_not_of_these_questions_are_not_replaced(queries: RunQueries, tmp_path: Path) -> None:
    folder = tmp_path / "used"
    folder.mkdir()
    (folder / "severe.csv").write_text("my own")
    with pytest.raises(ValueError, match=r"save .*holds 'severe\.csv', which is not a table of these questions"):
        answer_questions(queries, QUESTIONS, folder, Asked())
    assert (folder / "severe.csv").read_text() == "my own"
    answer_questions(queries, QUESTIONS, folder, Asked(seen=True), overwrite=True)
    with pytest.raises(ValueError, match=r"holds 'severe\.csv'"):
        answer_questions(queries, {"line": "severe stenosis"}, folder, Asked())


def test_an_interrupted_batch_can_be_repeated(
    queries: RunQueries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "batch"
    with monkeypatch.context() as patch:
        patch.setattr("vl_model.queries.batch._entry", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            answer_questions(queries, QUESTIONS, folder, Asked(seen=True))
    assert not json.loads((folder / SUMMARY).read_text())["complete"]
    assert answer_questions(queries, QUESTIONS, folder, Asked(seen=True))["complete"]
