"""Start the server of the page on one address, and tell where it can be opened."""

import asyncio
import errno
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vl_model.page.access import MAX_WAIT, Access, allowed_hosts, is_loopback
from vl_model.page.app import Server, make_app
from vl_model.page.reading_session import ReadingSession
from vl_model.queries.run_index import available_segments, segment_files
from vl_model.queries.run_queries import BOTH, RunQueries
from workspace.layout import DataRoot
from workspace.setting_error import SettingError

#: Addresses that stand for all of a machine's: requests may name any of them.
_EVERY_ADDRESS = ("0.0.0.0", "::")
#: A token that is not guessed, and that needs no escape in an address or a cookie.
TOKEN = r"[A-Za-z0-9_-]{16,}"


def serve(open_queries: Callable[[], RunQueries], logs: Path, host: str, port: int, token: str | None) -> None:
    """Serve the page until Ctrl-C.

    Args:
        open_queries: opens the run with its present model, at the start and whenever it was evaluated again.
        logs: ``train/logs/<run>``, which the notes of reading sessions are kept in.
        host: the address; any but loopback needs a token, and one is made if none is given.
        port: 0 for any free one.
        token: what clients must know.

    Raises SettingError if the address cannot be used, the port is taken, or the token cannot be part of an address.
    """
    if token is not None and not re.fullmatch(TOKEN, token):
        raise SettingError("token", f"{token!r}: must have at least 16 letters, digits, '-' and '_'")
    bound = _bound(host, port)
    at, port = bound.getsockname()[:2]
    if not is_loopback(at) and token is None:
        token = secrets.token_urlsafe(24)
    queries = open_queries()
    queries.segments(BOTH)  # so that the first question is not the one that waits
    server = Server(open_queries, lambda: _stamp(queries.root, queries.run), ReadingSession(logs / "reading"))
    hosts = frozenset[str]() if at in _EVERY_ADDRESS else allowed_hosts(host, port)
    app = Access(make_app(server, queries.run), hosts, token)
    named = socket.gethostname() if at in _EVERY_ADDRESS else host
    shown = f"[{named}]" if ":" in named else named
    address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    print(f"open {address}   (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(
        app,
        http=PromptProtocol,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=3,  # Ctrl-C ends it also while a client hangs
        limit_concurrency=200,
    )
    uvicorn.Server(config).run(sockets=[bound])


class PromptProtocol(H11Protocol):
    """HTTP of clients that send their request at once: others would keep a connection of all for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(MAX_WAIT, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if self.cycle is None:  # no request has arrived as a whole
            self.transport.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)  # a client that is as quick as the printed address waits, instead of being refused
    except OSError as error:
        bound.close()
        reason = error.strerror or error
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise SettingError("host", f"{host!r}: is not an address of this machine ({reason})") from None
        raise SettingError("port", f"{port}: cannot be used on {host} ({reason}); choose another with --port") from None
    return bound


def _stamp(root: DataRoot, run: str) -> tuple[tuple[str, int], ...]:
    """Return when the files that answers are made from were written; the index itself is made from them."""
    made_from = {
        path
        for name in available_segments(root, run)
        for paths in segment_files(root, run, name).parts.values()
        for path in paths
    }
    return tuple((str(path), path.stat().st_mtime_ns) for path in sorted(made_from) if path.is_file())
