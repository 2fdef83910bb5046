"""How the API tells that a request cannot be answered: always ``{"error": "a sentence"}``, with a fitting status."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException


class Error(BaseModel):
    """Why a request was not answered, for a person."""

    error: str


class NotThere(LookupError):
    """The study, slice or split that an address names does not exist."""


class Busy(Exception):
    """As many questions are being answered as can be."""


_WORDS = {
    HTTPStatus.BAD_REQUEST: "The question cannot be read, or asks for what the run does not have.",
    HTTPStatus.UNAUTHORIZED: "The token is missing or wrong.",
    HTTPStatus.NOT_FOUND: "There is no such study, slice or split.",
    HTTPStatus.METHOD_NOT_ALLOWED: "Only GET and POST are answered.",
    HTTPStatus.REQUEST_TIMEOUT: "The question was not sent in time.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The request is too long.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Questions are sent as application/json.",
    HTTPStatus.MISDIRECTED_REQUEST: "The Host header names another server.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The request does not have the form that this description gives.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Too many questions at once: ask again after Retry-After seconds.",
    HTTPStatus.INSUFFICIENT_STORAGE: "A file cannot be read or written.",
}
#: Status -> its description in OpenAPI, for every route.
ERRORS: dict[int | str, dict[str, Any]] = {
    # Not as a model: FastAPI would say that the errors of a route of CSV or PNG are CSV or PNG.
    int(status): {"description": words, "content": {"application/json": {"schema": Error.model_json_schema()}}}
    for status, words in _WORDS.items()
}


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ValueError, _told)
    app.add_exception_handler(NotThere, _not_there)
    app.add_exception_handler(OSError, _inaccessible)
    app.add_exception_handler(Busy, _busy)
    app.add_exception_handler(RequestValidationError, _misshapen)
    app.add_exception_handler(HTTPException, _refused)


def refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(Error(error=reason).model_dump(), status_code=status, headers=headers)


async def _told(_: Request, error: Exception) -> Response:
    return refusal(HTTPStatus.BAD_REQUEST, str(error))


async def _not_there(_: Request, error: Exception) -> Response:
    return refusal(HTTPStatus.NOT_FOUND, str(error))


async def _inaccessible(_: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    return refusal(HTTPStatus.INSUFFICIENT_STORAGE, f"cannot be read or written ({error.strerror or error})")


async def _busy(_: Request, error: Exception) -> Response:
    return refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error), {"Retry-After": "1"})


async def _misshapen(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, one['loc'][1:])) or one['loc'][0]}: {one['msg']}" for one in error.errors()]
    return refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(told))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail, dict(error.headers or {}))
