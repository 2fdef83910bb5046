"""The notes of a reading session: what the API keeps of them, what it refuses, and files that were cut short."""

import csv
import io
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.vl_model.page.test_app import client_of, server_of
from vl_model.page.app import Server
from vl_model.page.reading_session import ReadingSession

LINE = "any(left foramen, L4-L5) = severe"
Note = dict[str, Any]


@pytest.fixture(scope="module")
def server(evaluated_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return server_of(evaluated_root, tmp_path_factory.mktemp("notes") / "reading")


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[TestClient]:
    """A client of a session that has no notes yet; they will lie in ``tmp_path/reading``."""
    server.session = ReadingSession(tmp_path / "reading")
    with client_of(server) as opened:
        yield opened


@pytest.fixture
def note(client: TestClient) -> Note:
    """A note on the first answer to a question."""
    [answer, *_] = client.post("/api/ask", json={"line": LINE, "seen": True}).json()["answers"]
    study = {"split": answer["split"], "study_id": answer["study_id"]}
    return {"reader": "anna", "line": LINE, **study, "verdict": "agree", "note": ""}


def exported(client: TestClient) -> list[dict[str, str]]:
    reply = client.get("/api/notes.csv")
    assert reply.status_code == 200, reply.text
    return list(csv.DictReader(io.StringIO(reply.text, newline="")))


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_note_begins_no_row_of_its_own(client: TestClient, note: Note, end: str) -> None:
    assert client.post("/api/notes", json={**note, "note": f"hello{end}=1+1"}).status_code == 200
    [row] = exported(client)
    assert row["note"] == "hello =1+1"
    assert len(client.get("/api/notes.csv").text.splitlines()) == 2


def test_a_note_after_a_line_that_was_cut_short_is_kept(client: TestClient, note: Note, tmp_path: Path) -> None:
    path = tmp_path / "reading" / "anna.jsonl"
    path.parent.mkdir()
    path.write_text('{"reader": "anna", "time": "2024-01')
    assert client.post("/api/notes", json={**note, "note": "first"}).status_code == 200
    assert client.post("/api/notes", json={**note, "verdict": "unsure", "note": "second"}).status_code == 200
    assert len(path.read_text().splitlines()) == 3, "no line is empty"
    [row] = exported(client)
    assert (row["verdict"], row["note"]) == ("unsure", "second")


def test_a_note_that_does_not_fit_is_told_and_spoils_no_later_one(
    client: TestClient, note: Note, tmp_path: Path
) -> None:
    assert client.post("/api/notes", json={**note, "note": "first"}).status_code == 200
    path = tmp_path / "reading" / "anna.jsonl"
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, limits[1]))
    try:
        reply = client.post("/api/notes", json={**note, "note": "lost"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert reply.status_code == 507 and "No space left" in reply.json()["error"]
    assert not path.read_text().endswith("\n"), "the line is half-written"
    [row] = exported(client)
    assert row["note"] == "first"
    assert client.post("/api/notes", json={**note, "note": "third"}).status_code == 200
    [row] = exported(client)
    assert row["note"] == "third"


@pytest.mark.parametrize(
    "damage",
    [
        {"line": []},
        {"line": None},
        {"line": "any("},
        {"study_id": "x"},
        {"study_id": 1.5},
        {"study_id": True},
        {"study_id": -1},
        {"study_id": 10**30},
        {"reader": 3},
        {"time": None},
        {"split": {}},
        {"split": "\ud800"},
        {"verdict": "maybe"},
        {"verdict": []},
        {"note": None},
        {"other": 1},
    ],
)
def test_damaged_lines_are_left_out(client: TestClient, note: Note, tmp_path: Path, damage: Note) -> None:
    assert client.post("/api/notes", json={**note, "note": "whole"}).status_code == 200
    path = tmp_path / "reading" / "anna.jsonl"
    damaged = json.loads(path.read_text()) | {"note": "damaged"} | damage
    whole = path.read_text()
    path.write_text(json.dumps(damaged) + "\n" + whole + json.dumps(damaged) + "\n")
    [row] = exported(client)
    [kept] = client.get("/api/notes").json()
    assert row["note"] == kept["note"] == "whole"


@pytest.mark.parametrize("line", ["[]", "3", "null", "{}", "[" * 100_000, "\0\0", "\x85", "", os.linesep])
def test_lines_that_are_no_notes_are_left_out(client: TestClient, note: Note, tmp_path: Path, line: str) -> None:
    assert client.post("/api/notes", json=note).status_code == 200
    with (tmp_path / "reading" / "anna.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)
    assert len(exported(client)) == 1


def test_the_limits_and_the_spelling_of_a_question_do_not_matter(client: TestClient, note: Note) -> None:
    lines = [f"{LINE}; top 3", "any(left  foramen,L4-L5) >= severe ; P >= 0.1; seen", f"{LINE}; split train; count"]
    for number, line in enumerate(lines):
        assert client.post("/api/notes", json={**note, "line": line, "note": str(number)}).status_code == 200
    [kept] = client.get("/api/notes").json()
    assert (kept["line"], kept["note"]) == (LINE, "2")
    for line in lines:
        assert client.get("/api/notes", params={"reader": "anna", "line": line}).json() == [kept]


def test_a_note_with_limits_in_an_older_file_is_one_on_its_question(
    client: TestClient, note: Note, tmp_path: Path
) -> None:
    path = tmp_path / "reading" / "anna.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({**note, "time": "2024-01-01T00:00:00+00:00", "line": f"{LINE}; top 3"}) + "\n")
    [kept] = client.get("/api/notes", params={"line": LINE}).json()
    assert kept["line"] == LINE and kept["verdict"] == "agree"


def test_notes_of_one_reader_on_one_question(client: TestClient, note: Note) -> None:
    other = "any(canal) = severe"
    for reader, line in (("anna", LINE), ("anna", other), ("bert", LINE)):
        assert client.post("/api/notes", json={**note, "reader": reader, "line": line}).status_code == 200

    def found(**asked: str) -> list[tuple[str, str]]:
        return [(one["reader"], one["line"]) for one in client.get("/api/notes", params=asked).json()]

    assert found(reader="anna", line=LINE) == [("anna", LINE)]
    assert found(reader="anna") == [("anna", LINE), ("anna", other)]
    assert found(line=LINE) == [("anna", LINE), ("bert", LINE)]
    assert found(reader="carl") == []
    assert client.get("/api/notes", params={"reader": "../x"}).status_code == 422
    assert client.get("/api/notes", params={"line": "any("}).status_code == 400


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"split": "clinic"}, "split 'clinic': not a split or kept set of this run"),
        ({"split": "both"}, "split 'both': not a split or kept set of this run"),
        ({"split": "../train"}, "not a split or kept set of this run"),
        ({"study_id": 1}, "study 1: not among the "),
    ],
)
def test_a_note_on_what_is_not_there_is_refused(
    client: TestClient, note: Note, tmp_path: Path, wrong: Note, complaint: str
) -> None:
    reply = client.post("/api/notes", json=note | wrong)
    assert reply.status_code == 404 and complaint in reply.json()["error"]
    assert not (tmp_path / "reading").exists()


def test_notes_on_a_set_that_is_gone_are_exported(client: TestClient, note: Note, tmp_path: Path) -> None:
    assert client.post("/api/notes", json=note).status_code == 200
    path = tmp_path / "reading" / "anna.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(json.loads(path.read_text()) | {"split": "clinic"}) + "\n")
    here, gone = exported(client)
    assert here["matches"] in ("true", "false") and (gone["split"], gone["matches"]) == ("clinic", "")
