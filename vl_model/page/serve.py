"""Start the server of the page on one address, and tell where it can be opened."""

import secrets
import socket
from pathlib import Path

import uvicorn

from vl_model.page.access import Access, allowed_hosts, is_loopback
from vl_model.page.app import Server, make_app
from vl_model.page.reading_session import ReadingSession
from vl_model.queries.run_index import available_segments, segment_files
from vl_model.queries.run_queries import BOTH, RunQueries
from workspace.layout import DataRoot
from workspace.setting_error import SettingError

#: Addresses that stand for all of a machine's: requests may name any of them.
_EVERY_ADDRESS = ("0.0.0.0", "::")


def serve(queries: RunQueries, logs: Path, host: str, port: int, token: str | None) -> None:
    """Serve the page until Ctrl-C.

    Args:
        queries: of the run.
        logs: ``train/logs/<run>``, which the notes of reading sessions are kept in.
        host: the address; any but loopback needs a token, and one is made if none is given.
        port: 0 for any free one.
        token: what clients must know.

    Raises SettingError if the address cannot be used, or the port is taken.
    """
    if not is_loopback(host) and token is None:
        token = secrets.token_urlsafe(24)
    bound = _bound(host, port)
    port = bound.getsockname()[1]
    queries.segments(BOTH)  # so that the first question is not the one that waits
    server = Server(
        open=lambda: RunQueries(queries.root, queries.run, queries.embed, queries.say),
        stamp=lambda: _stamp(queries.root, queries.run),
        session=ReadingSession(logs / "reading"),
    )
    hosts = frozenset[str]() if host in _EVERY_ADDRESS else allowed_hosts(host, port)
    app = Access(make_app(server, queries.run), hosts, token)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    print(f"open {address}   (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=5, limit_concurrency=200)
    uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)  # a client that is as quick as the printed address waits, instead of being refused
    except (OSError, OverflowError) as error:
        bound.close()
        raise SettingError("port", f"{port}: cannot be used on {host} ({error}); choose another with --port") from None
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
