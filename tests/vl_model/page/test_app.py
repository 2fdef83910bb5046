"""The API of the page: the command line's replies, nobody else's questions, and no request that breaks it."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from starlette.testclient import TestClient

from data_prep.sites import SITES
from prompts.canonical import parse_canonical
from prompts.reading.parse import parse_query
from vl_model import load_run
from vl_model.page.access import Access, allowed_hosts, is_loopback
from vl_model.page.app import AT_ONCE, Server, make_app
from vl_model.page.reading_session import ReadingSession
from vl_model.page.serve import _stamp
from vl_model.queries.reply import tree_from_json, tree_json
from vl_model.queries.run_queries import RunQueries

REPOSITORY = Path(__file__).parents[3]
QUESTION = "severe left foraminal narrowing at L4-L5"


def server_of(root: Path, notes: Path) -> Server:
    run = load_run(root, "first")
    return Server(run.queries, lambda: _stamp(run.root, run.name), ReadingSession(notes))


@pytest.fixture(scope="module")
def server(evaluated_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return server_of(evaluated_root, tmp_path_factory.mktemp("notes") / "reading")


def client_of(server: Server, token: str | None = None, host: str = "127.0.0.1:8000") -> TestClient:
    app = Access(make_app(server, "first"), allowed_hosts("127.0.0.1", 8000), token)
    return TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def client(server: Server) -> Iterator[TestClient]:
    with client_of(server) as opened:
        yield opened


def test_the_replies_are_those_of_the_command_line(client: TestClient, evaluated_root: Path) -> None:
    command = [sys.executable, "query_vl.py", "--root", str(evaluated_root), "--run", "first", "--seen", "--json"]
    for question in ({"text": QUESTION}, {"line": "all(canal) = normal/mild; top 3"}):
        words = [*command, question["text"]] if "text" in question else [*command, "--ask", question["line"]]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert client.post("/api/ask", json={**question, "seen": True}).json() == json.loads(done.stdout)


def test_a_question_is_read_and_written(client: TestClient) -> None:
    read = client.post("/api/read", json={"text": "sever canal stenosis with oedema, R>L foraminal narrowing"}).json()
    assert read["rest"] == "oedema" and '"sever" is read as "severe"' in read["notes"]
    assert client.post("/api/write", json={"tree": read["tree"]}).json() == {"line": read["line"]}
    limits = {"top": 120, "least": 0.9, "split": "test", "seen": True, "count_first": True}
    written = client.post("/api/write", json={"tree": read["tree"], "limits": limits}).json()
    assert written == {"line": f"{read['line']}; top 120; P >= 0.9; split test; seen; count"}
    refused = client.post("/api/write", json={"tree": read["tree"], "limits": {"split": "a; top 3"}})
    assert refused.status_code == 400 and "'a; top 3'" in refused.text
    for line in ("not same_level(any(canal) = severe and worse(left foramen)) or at_least_2_levels(site) >= moderate",):
        tree = parse_canonical(line).tree
        assert tree is not None and tree_from_json(tree_json(tree)) == tree


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"finding": {}},
        {"finding": {"over": "any", "count": 0, "sites": ["liver"], "severities": ["severe"]}},
        {"finding": {"over": "any", "count": "x", "sites": [], "severities": []}},
        {"and": [{"not": 3}]},
        {"and": 3},
        {"worse": {"condition": "spinal_canal_stenosis", "side": "left", "levels": ["l1_l2"]}},
        {"other": 1},
        {"finding": {"over": "adjacent", "count": 9, "sites": [SITES[3].key], "severities": ["severe"]}},
    ],
)
def test_a_tree_that_is_none_is_told(client: TestClient, tree: dict[str, Any]) -> None:
    reply = client.post("/api/write", json={"tree": tree})
    assert reply.status_code == 400 and reply.json()["error"]


def test_a_deep_tree_is_refused(client: TestClient) -> None:
    tree: dict[str, Any] = {"finding": {}}
    for _ in range(200):
        tree = {"not": tree}
    assert client.post("/api/write", json={"tree": tree}).status_code == 400


@pytest.mark.parametrize(
    ("question", "top"),
    [
        ({"text": f"first 3 studies with {QUESTION}"}, 3),
        ({"text": "show me five patients with severe canal stenosis"}, 5),
        ({"line": "any(canal) = severe; top 20"}, 20),
        ({"line": "any(canal) = severe"}, 12),
        ({"line": "any(canal) = severe; top 20", "top": 4}, 4),
    ],
)
def test_the_pages_own_number_of_answers_is_a_default(client: TestClient, question: dict[str, Any], top: int) -> None:
    query = client.post("/api/ask", json={**question, "page": 12, "seen": True, "split": "train"}).json()["query"]
    assert query["limits"]["top"] == top and query["limits"]["split"] == "train"
    own = client.post("/api/read", json={name: question[name] for name in question if name != "top"}).json()["line"]
    assert query["said"]["line"] == own and query["said"]["limits"]["split"] is None


def test_words_beside_a_line_are_those_of_a_text(client: TestClient) -> None:
    common = {"likeness": True, "seen": True}
    by_text = client.post("/api/ask", json={"text": f"{QUESTION} with oedema", **common}).json()
    line = {"line": by_text["query"]["said"]["line"], "words": by_text["query"]["rest"]}
    by_line = client.post("/api/ask", json={**line, **common}).json()
    assert by_line["likeness"] == by_text["likeness"] and by_line["answers"] == by_text["answers"]
    refused = client.post("/api/ask", json={"text": QUESTION, "words": "oedema"})
    assert refused.status_code == 400 and "beside a line" in refused.text


def test_export_is_the_csv_of_the_answers(client: TestClient) -> None:
    answers = client.post("/api/ask", json={"text": QUESTION, "seen": True}).json()["answers"]
    exported = client.post("/api/export", json={"text": QUESTION, "seen": True})
    assert exported.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(exported.text)))
    assert [int(row["study_id"]) for row in rows] == [answer["study_id"] for answer in answers]


def test_a_study_has_its_sites_slices_and_pictures(client: TestClient) -> None:
    [answer, *_] = client.post("/api/ask", json={"text": QUESTION, "seen": True}).json()["answers"]
    study = client.get(f"/api/study/{answer['split']}/{answer['study_id']}").json()
    assert len(study["sites"]) == 25 and len(study["slices"]) > 10
    [site] = [one for one in study["sites"] if one["key"] == "left_neural_foraminal_narrowing_l4_l5"]
    assert site["probabilities"][2] == answer["probabilities"]["severe"]
    shown = site["views"][0]
    [its_slice] = [
        one
        for one in study["slices"]
        if (one["series_id"], one["instance_number"]) == (shown["series_id"], shown["instance_number"])
    ]
    numbered = client.get(f"/api/image/{answer['split']}/{its_slice['number']}")
    named = client.get(
        f"/api/slice/{answer['split']}/{answer['study_id']}/{shown['series_id']}/{shown['instance_number']}"
    )
    assert numbered.content == named.content and numbered.content.startswith(b"\x89PNG")
    assert numbered.headers["content-type"] == "image/png"


def test_similar_cases(client: TestClient) -> None:
    [answer, *_] = client.post("/api/ask", json={"text": QUESTION, "seen": True}).json()["answers"]
    place = f"{answer['study_id']}:left foramen, L4-L5"
    found = client.get("/api/like", params={"site": place, "seen": True, "split": answer["split"]}).json()
    assert found["answers"] and all(one["study_id"] != answer["study_id"] for one in found["answers"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/study/train/1", 404),
        ("/api/study/clinic/1", 404),
        ("/api/study/..%2f..%2fetc/1", 404),
        ("/api/study/train/-1", 422),
        ("/api/study/train/99999999999999999999999", 422),
        ("/api/image/train/999999", 404),
        ("/api/image/train/-1", 404),
        ("/api/image/clinic/0", 404),
        ("/api/image/train/..%2f..%2f", 404),
        ("/api/slice/train/1/2/3", 404),
        ("/api/like?site=nobody", 400),
        ("/..%2fpyproject.toml", 404),
        ("/../pyproject.toml", 404),
        ("/__init__.py", 404),
        ("/nothing.html", 404),
    ],
)
def test_what_is_not_there_is_told(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


@pytest.mark.parametrize(
    ("question", "status", "complaint"),
    [
        ({}, 400, "ask by a text or by a line"),
        ({"text": "severe", "line": "any(canal) = severe"}, 400, "ask by a text or by a line"),
        ({"text": " "}, 400, "nothing was asked"),
        ({"text": "x" * 1001}, 422, "1000"),
        ({"text": "facet arthropathy"}, 400, "nothing that is graded was asked"),
        ({"line": "any(kanal) = severe"}, 400, "found 'kanal' at character 5"),
        ({"text": "severe", "top": 1001}, 422, "1000"),
        ({"text": "severe", "top": 0}, 422, "greater"),
        ({"text": "severe", "split": "clinic"}, 400, "'clinic'"),
        ({"text": "severe", "colour": "red"}, 422, "colour"),
        ({"text": 5}, 422, "string"),
    ],
)
def test_wrong_questions_are_told(client: TestClient, question: dict[str, Any], status: int, complaint: str) -> None:
    reply = client.post("/api/ask", json=question)
    assert reply.status_code == status
    assert complaint in reply.text


def test_only_the_page_itself_may_ask(server: Server) -> None:
    with client_of(server, host="evil.example:8000") as other:
        assert other.get("/api/run").status_code == 421
    with client_of(server) as client:
        assert client.get("/api/run", headers={"Host": "127.0.0.1:9999"}).status_code == 421
        assert client.post("/api/ask", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
        assert (
            client.post("/api/ask", content=b"x" * 20_001, headers={"Content-Type": "application/json"}).status_code
            == 413
        )
        assert client.post("/api/ask", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert client.request(method, "/api/run").status_code == 405
        page = client.get("/")
        assert page.status_code == 200 and '<script type="module" src="page.js">' in page.text
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "style=" not in page.text and "onclick" not in page.text


def test_a_server_for_others_needs_its_token(server: Server) -> None:
    with client_of(server, token="secret") as client:
        assert client.get("/").status_code == client.get("/api/run").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        opened = client.get("/?token=secret&line=any(canal)+%3D+severe")
        assert opened.status_code == 303 and "secret" not in opened.headers["location"]
        assert opened.headers["location"].startswith("/?line=")
        assert client.get("/api/run").status_code == 200, "the cookie is kept"
    with client_of(server, token="secret") as client:
        assert client.get("/api/run", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/api/run", headers={"Authorization": "Bearer wröng".encode()}).status_code == 401


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.4", False),
        ("node7", False),
    ],
)
def test_loopback(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_more_questions_than_places_are_told_to_come_back(server: Server, client: TestClient) -> None:
    waiting, done = Event(), Event()

    def hold() -> None:
        with server.place():
            waiting.set()
            done.wait(20)

    holders = [Thread(target=hold) for _ in range(AT_ONCE)]
    for holder in holders:
        holder.start()
    waiting.wait(20)
    while server._places.acquire(blocking=False):  # until all have a place
        server._places.release()
    busy = client.post("/api/ask", json={"text": QUESTION})
    assert busy.status_code == 503 and busy.headers["retry-after"] == "1"
    assert busy.json() == {"error": f"{AT_ONCE} questions are being answered; ask again in a moment"}
    assert client.post("/api/read", json={"text": QUESTION}).status_code == 200, "reading takes no place"
    assert client.get("/api/run").status_code == 200, "a page can be opened"
    done.set()
    for holder in holders:
        holder.join()
    assert client.post("/api/ask", json={"text": QUESTION, "seen": True}).status_code == 200


def test_notes_of_readers_are_kept_and_compared(server: Server, client: TestClient) -> None:
    [answer, *_] = client.post("/api/ask", json={"text": QUESTION, "seen": True}).json()["answers"]
    note = {
        "reader": "anna",
        "line": "any(left foramen, L4-L5) = severe",
        "split": answer["split"],
        "study_id": answer["study_id"],
        "verdict": "disagree",
        "note": '=HYPERLINK("x")',
    }
    assert client.post("/api/notes", json={**note, "verdict": "agree"}).status_code == 200
    assert client.post("/api/notes", json=note).json() == {"kept": True}
    assert client.post("/api/notes", json={**note, "reader": "../x"}).status_code == 422
    assert client.post("/api/notes", json={**note, "verdict": "maybe"}).status_code == 422
    assert client.post("/api/notes", json={**note, "line": "any("}).status_code == 400
    [kept] = client.get("/api/notes").json()
    assert kept["verdict"] == "disagree" and kept["note"] == note["note"]
    [row] = list(csv.DictReader(io.StringIO(client.get("/api/notes.csv").text)))
    truth = None if answer["matches"] is None and not answer["sites"][0]["truth"] else answer["sites"][0]["truth"]
    assert row["matches"] == {None: ""}.get(truth, str(truth == "severe").lower())
    assert row["note"].startswith("'=")


def test_notes_in_a_folder_that_cannot_be_written_are_told(
    server: Server, evaluated_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    blocked = server_of(evaluated_root, tmp_path / "file" / "reading")
    with client_of(blocked) as client:
        [answer, *_] = client.post("/api/ask", json={"text": QUESTION, "seen": True}).json()["answers"]
        study = {"split": answer["split"], "study_id": answer["study_id"]}
        note = {"reader": "a", "line": "any(canal) = severe", **study, "verdict": "agree"}
        reply = client.post("/api/notes", json=note)
    assert reply.status_code == 507 and "cannot be read or written" in reply.json()["error"]


def test_new_heads_are_used_without_a_restart(evaluated_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(evaluated_root, tmp_path / "root")
    server = server_of(root, tmp_path / "notes")
    with client_of(server) as client:
        before: RunQueries = server.queries()
        assert client.get("/api/run").status_code == 200
        assert server.queries() is server.queries()
        heads = root / "train" / "checkpoints" / "first" / "heads" / "heads.json"
        heads.write_text(heads.read_text() + "\n")
        assert client.post("/api/ask", json={"text": QUESTION, "seen": True}).status_code == 200
        assert server.queries() is not before


def test_damaged_slices_cost_themselves_only(evaluated_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(evaluated_root, tmp_path / "root")
    processed = root / "train" / "processed_data"
    whole = (processed / "slices.csv").read_text().splitlines()
    study = int(whole[1].split(",")[0])
    (processed / "slices.csv").write_text("\n".join([*whole, "", "1,2", "x" + whole[1]]) + "\n")
    picture = processed / whole[1].split(",")[3]
    picture.write_bytes(picture.read_bytes()[:-20])
    with client_of(server_of(root, tmp_path / "notes")) as client:
        shown = client.get(f"/api/study/train/{study}").json()["slices"]
        assert len(shown) == sum(line.startswith(f"{study},") for line in whole)
        assert client.get("/api/image/train/0").status_code == 404, "a truncated picture is none"
        assert client.get("/api/image/train/1").status_code == 200
        assert client.get(f"/api/image/train/{len(whole)}").status_code == 404
    (processed / "slices.csv").write_text("study_id,image\n")
    with client_of(server_of(root, tmp_path / "notes")) as client:
        told = client.get(f"/api/study/train/{study}")
        assert told.status_code == 400 and "slices.csv: has no column series_id" in told.json()["error"]


def test_an_index_that_the_server_makes_itself_is_not_a_new_one(evaluated_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(evaluated_root, tmp_path / "root")
    server = server_of(root, tmp_path / "notes")
    with client_of(server) as client:
        shutil.rmtree(root / "train" / "checkpoints" / "first" / "index", ignore_errors=True)
        named = [client.get("/api/run").headers["Lumbar-Index"]]
        asked = client.post("/api/ask", json={"text": QUESTION, "seen": True})
        named += [asked.headers["Lumbar-Index"], client.get("/api/run").headers["Lumbar-Index"]]
        assert asked.status_code == 200 and len(set(named)) == 1
        os.utime(root / "train" / "checkpoints" / "first" / "embeddings" / "train" / "embeddings.json", (1, 1))
        assert client.get("/api/run").headers["Lumbar-Index"] != named[0]


def test_the_api_describes_itself(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/api/ask", "/api/read", "/api/study/{split}/{study_id}", "/api/like", "/api/export"} <= set(
        described["paths"]
    )


def test_reading_is_that_of_the_parser(client: TestClient) -> None:
    read = client.post("/api/read", json={"text": "no stenosis except at L4-L5"}).json()
    tree = parse_query("no stenosis except at L4-L5").tree
    assert tree is not None and read["tree"] == tree_json(tree)
