"""The JSON API of one run, and the page. The replies are those of the command line, made by the same functions."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.responses import FileResponse, Response

import query_page
from data_prep.sites import SITES
from prompts.canonical import canonical_line, parse_canonical
from vl_model.page.errors import ERRORS, Busy, NotThere, add_error_handlers
from vl_model.page.messages import Identifier, Line, NoteOnAnswer, Question, ReaderName, Top, TreeOfChips
from vl_model.page.reading_session import ReadingSession, notes_csv
from vl_model.page.slices import SliceTable
from vl_model.page.study import study_json
from vl_model.queries.reply import reply_csv, reply_json, tree_from_json, tree_json
from vl_model.queries.run_queries import BOTH, Asked, RunQueries, parse_site
from vl_model.queries.search import known_match
from vl_model.queries.segment import Segment

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Name -> the file of the page. Nothing else of a folder is ever served.
PAGE_FILES = {path.name: path for path in Path(query_page.__file__).parent.iterdir() if path.suffix in _MEDIA_TYPES}
#: The header that names the index of a reply, so that a page sees that it has changed.
INDEX = "Lumbar-Index"
#: Questions that are answered at the same time; others are told to come back.
AT_ONCE = 4


class Csv(Response):
    """A table as CSV."""

    media_type = "text/csv"


class Png(FileResponse):
    """The picture of a slice."""

    media_type = "image/png"


@dataclass
class Server:
    """What the routes share: the run's queries, opened again when its index or heads were written anew."""

    open: Callable[[], RunQueries]
    stamp: Callable[[], object]
    session: ReadingSession
    _queries: RunQueries | None = None
    _stamp: object = None
    _lock: Lock = field(default_factory=Lock)
    _places: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(AT_ONCE))
    _slices: dict[str, SliceTable] = field(default_factory=dict)

    @contextmanager
    def place(self) -> Iterator[RunQueries]:
        """Yield the queries while there is a free place. Raises Busy if there is none."""
        if not self._places.acquire(blocking=False):
            raise Busy(f"{AT_ONCE} questions are being answered; ask again in a moment")
        try:
            yield self.queries()
        finally:
            self._places.release()

    def queries(self) -> RunQueries:
        with self._lock:
            stamp = self.stamp()
            if self._queries is None or stamp != self._stamp:
                self._queries, self._stamp = self.open(), stamp
                self._slices.clear()
            return self._queries

    @property
    def version(self) -> str:
        """A name of the index and heads that answers come from now; another one if the run was evaluated again."""
        self.queries()
        return hashlib.sha256(repr(self._stamp).encode()).hexdigest()[:12]

    def slices(self, queries: RunQueries, split: str) -> SliceTable:
        """Return the slices of a split or kept set, of which each is read once. Raises NotThere if there is none."""
        _check_split(queries, split)
        return self._slices.setdefault(split, SliceTable(queries.processed[split]))


def make_app(server: Server, run: str) -> FastAPI:
    """Return the application: the API under ``/api``, and the page."""
    title, version = f"Lumbar VL: run {run}", metadata.version("lumbar-vl")
    app = FastAPI(title=title, version=version, docs_url=None, redoc_url=None)
    add_error_handlers(app)

    def tell_index(response: Response) -> None:
        response.headers[INDEX] = server.version

    for routes in (_question_routes(server, run), _study_routes(server)):
        app.include_router(routes, prefix="/api", responses=ERRORS, dependencies=[Depends(tell_index)])
    for routes in (_picture_routes(server), _note_routes(server)):
        app.include_router(routes, prefix="/api", responses=ERRORS)

    @app.get("/", include_in_schema=False)
    @app.get("/{name}", include_in_schema=False)
    def static(name: str = "index.html") -> Response:
        path = PAGE_FILES.get(name)
        if path is None:
            raise NotThere(f"{name}: there is no such page")
        return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix])

    return app


def _question_routes(server: Server, run: str) -> APIRouter:
    """Return the routes that read and answer questions."""
    routes = APIRouter()

    @routes.get("/run")
    def about() -> dict[str, Any]:
        """Return the run, its studies, and the words that questions are made of."""
        queries = server.queries()  # without a place: a page that is opened at a busy moment must know its splits
        return {
            "run": run,
            "version": metadata.version("lumbar-vl"),
            "splits": list(queries.processed),
            "studies": {segment.name: len(segment) for segment in queries.segments(BOTH)},
            "sites": [{"key": site.key, "words": site.words, **site.columns} for site in SITES],
        }

    @routes.post("/read")
    def read(question: Question) -> dict[str, Any]:
        """Return how a question is read: its line, its tree, what is left over, and notes."""
        query = question.query()
        return {
            "line": None if query.tree is None else canonical_line(query.tree, query.limits),
            "tree": None if query.tree is None else tree_json(query.tree),
            "rest": query.rest,
            "notes": list(query.notes),
        }

    @routes.post("/write")
    def write(chips: TreeOfChips) -> dict[str, Any]:
        """Return the canonical line of a tree and of the limits of its question."""
        line = canonical_line(tree_from_json(chips.tree), chips.limits.limits())
        parse_canonical(line)  # a tree may count to nine levels, which no question can
        return {"line": line}

    @routes.post("/ask")
    def ask(question: Question) -> dict[str, Any]:
        """Return the reply to a question: the JSON of ``query_vl.py --json``."""
        query = question.query()
        with server.place() as queries:
            return reply_json(queries.ask(query, question.asked(query)))

    @routes.post("/export", response_class=Csv)
    def export(question: Question) -> Response:
        """Return the answers to a question as the CSV of ``query_vl.py --csv``."""
        query = question.query()
        with server.place() as queries:
            text = reply_csv(queries.ask(query, question.asked(query)))
        return Csv(text)

    @routes.get("/like")
    def like(
        site: Annotated[str, Query(max_length=200)],
        split: Annotated[str | None, Query(max_length=200)] = None,
        top: Top | None = None,
        seen: bool | None = None,
        any_level: bool = False,
    ) -> dict[str, Any]:
        """Return the studies that look most like STUDY:SITE: the JSON of ``query_vl.py --like``."""
        study_id, place = parse_site(site)
        with server.place() as queries:
            return reply_json(queries.similar(study_id, place, Asked(split, top, None, seen), any_level))

    return routes


def _study_routes(server: Server) -> APIRouter:
    """Return the route that tells of a study."""
    routes = APIRouter()

    @routes.get("/study/{split}/{study_id}")
    def study(split: str, study_id: Identifier) -> dict[str, Any]:
        """Return a study: its 25 sites, and its slices with their places in the patient."""
        with server.place() as queries:
            segment, row = _place_of(queries, split, study_id)
            return study_json(segment, row, server.slices(queries, split))

    return routes


def _picture_routes(server: Server) -> APIRouter:
    """Return the routes of the pictures of slices."""
    routes = APIRouter()

    @routes.get("/image/{split}/{number}", response_class=Png)
    def image(split: str, number: int) -> Response:
        """Return the PNG of a slice by its number."""
        path = server.slices(server.queries(), split).picture(number)
        if path is None:
            raise NotThere(f"slice {number} of {split!r}: there is no such picture")
        return Png(path)

    @routes.get("/slice/{split}/{study_id}/{series_id}/{instance_number}", response_class=Png)
    def slice_image(split: str, study_id: Identifier, series_id: Identifier, instance_number: Identifier) -> Response:
        """Return the PNG of a slice by its three numbers."""
        number = server.slices(server.queries(), split).number_of(study_id, series_id, instance_number)
        if number is None:
            raise NotThere("there is no such slice")
        return image(split, number)

    return routes


def _note_routes(server: Server) -> APIRouter:
    """Return the routes of a reading session."""
    routes = APIRouter()

    @routes.post("/notes")
    def add_note(note: NoteOnAnswer) -> dict[str, Any]:
        """Keep a reader's note on an answer. It changes no grade."""
        _place_of(server.queries(), note.split, note.study_id)
        server.session.add(note.reader, note.line, note.split, note.study_id, note.verdict, note.note)
        return {"kept": True}

    @routes.get("/notes")
    def kept_notes(reader: ReaderName | None = None, line: Line | None = None) -> list[dict[str, Any]]:
        """Return the last note of each reader on each question and study, or of one reader, or on one question."""
        return [vars(note) for note in server.session.notes(reader, line)]

    @routes.get("/notes.csv", response_class=Csv)
    def exported_notes() -> Response:
        """Return the notes as CSV, each beside whether the known grades fulfil the question."""
        notes = server.session.notes()
        with server.place() as queries:
            matches = {(n.line, n.split, n.study_id): _matches(queries, n.line, n.split, n.study_id) for n in notes}
        return Csv(notes_csv(notes, matches))

    return routes


def _matches(queries: RunQueries, line: str, split: str, study_id: int) -> bool | None:
    """Return whether a study's known grades fulfil a line; None if they leave it open, or if it cannot be ranked."""
    tree = parse_canonical(line).tree
    assert tree is not None
    try:
        segment, row = _place_of(queries, split, study_id)
    except (NotThere, ValueError):
        return None
    return known_match(tree, segment, row)


def _place_of(queries: RunQueries, split: str, study_id: int) -> tuple[Segment, int]:
    """Return the segment of a split or kept set, and the row of a study in it.

    Raises NotThere if the run does not have them, and ValueError if the split has not been evaluated.
    """
    _check_split(queries, split)
    [segment] = queries.segments(split)
    row = segment.row_of(study_id)
    if row is None:
        raise NotThere(f"study {study_id}: not among the {len(segment)} studies of {split!r}")
    return segment, row


def _check_split(queries: RunQueries, split: str) -> None:
    if split not in queries.processed:
        raise NotThere(f"split {split!r}: not a split or kept set of this run")
