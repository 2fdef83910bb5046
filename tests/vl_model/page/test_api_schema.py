"""The API against its own OpenAPI description: requests that it allows and that it forbids, of every kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import checks, openapi
from schemathesis.generation import GenerationMode

from tests.vl_model.page.test_app import server_of
from vl_model.page.app import make_app

#: Which texts can be read cannot be told in a schema: a text of the right form may be refused, with status 400.
GRAMMAR = [checks.positive_data_acceptance]
Operations = dict[str, Any]


@pytest.fixture(scope="module")
def operations(evaluated_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    """The operations of the API by method and path."""
    app = make_app(server_of(evaluated_root, tmp_path_factory.mktemp("notes") / "reading"), "first")
    schema = openapi.from_asgi("/openapi.json", app)
    yield {operation.label: operation for operation in (found.ok() for found in schema.get_all_operations())}


def tried(operation: Any, mode: GenerationMode, **known: Any) -> set[int]:
    """Send requests, check each response against the description, and return the statuses."""
    statuses = set()

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(mode, **known))
    def send(case: Any) -> None:
        response = case.call()
        assert response.status_code < 500, response.text
        case.validate_response(response, excluded_checks=GRAMMAR)
        statuses.add(int(response.status_code))

    send()
    return statuses


@pytest.fixture(scope="module")
def known(operations: Operations) -> dict[str, dict[str, Any]]:
    """The path parameters of a study that exists, and of one of its slices."""
    ask = operations["POST /api/ask"].Case(body={"line": "any(canal) = severe", "seen": True}).call().json()
    answer = ask["answers"][0]
    study = {"split": answer["split"], "study_id": answer["study_id"]}
    place = {name: answer[name] for name in ("series_id", "instance_number")}
    return {"study": study, "slice": study | place, "image": {"split": answer["split"], "number": 0}}


def test_every_operation_is_known(operations: Operations) -> None:
    assert len(operations) == 12


WITHOUT_INPUT = ("GET /api/run", "GET /api/notes.csv")


@pytest.mark.parametrize("label", WITHOUT_INPUT)
def test_what_takes_no_input_answers_as_described(operations: Operations, label: str) -> None:
    assert tried(operations[label], GenerationMode.POSITIVE) == {200}


@pytest.mark.parametrize(
    "label",
    [
        *(f"POST /api/{name}" for name in ("read", "write", "ask", "export", "notes")),
        *("GET /api/notes", "GET /api/like", "GET /api/study/{split}/{study_id}", "GET /api/image/{split}/{number}"),
        "GET /api/slice/{split}/{study_id}/{series_id}/{instance_number}",
    ],
)
def test_random_requests_get_a_described_answer(operations: Operations, label: str) -> None:
    assert tried(operations[label], GenerationMode.POSITIVE) <= {200, 400, 404}
    assert tried(operations[label], GenerationMode.NEGATIVE) <= {200, 400, 404, 422}


@pytest.mark.parametrize(
    ("label", "what"),
    [
        ("GET /api/study/{split}/{study_id}", "study"),
        ("GET /api/slice/{split}/{study_id}/{series_id}/{instance_number}", "slice"),
        ("GET /api/image/{split}/{number}", "image"),
    ],
)
def test_what_exists_is_found(operations: Operations, known: dict[str, Any], label: str, what: str) -> None:
    assert tried(operations[label], GenerationMode.POSITIVE, path_parameters=known[what]) == {200}


def test_questions_about_a_known_site_are_answered(operations: Operations, known: dict[str, Any]) -> None:
    site = f"{known['study']['study_id']}:left foramen, L4-L5"
    asked = {"site": site, "split": known["study"]["split"]}
    for more in ({}, {"seen": True}, {"any_level": True, "seen": True}, {"top": 1000}):
        response = operations["GET /api/like"].Case(query={**asked, **more}).call()
        assert response.status_code == 200, response.text
