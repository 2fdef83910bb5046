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
