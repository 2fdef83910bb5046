"""Who may ask the server: checks of each request before any work, and the headers of each response.

A page of another site must not read a hospital's studies through the browser of somebody who has this page open: the
Host header must be the server's own (DNS rebinding), questions are JSON (which other sites cannot send unasked), and
a server that others can reach needs a token.
"""

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vl_model.page.errors import refusal

COOKIE = "lumbar_token"
#: Questions and notes are short, in bytes, and are sent at once, in seconds.
MAX_BODY, MAX_WAIT = 20_000, 10
_POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str, port: int) -> frozenset[str]:
    """Return the Host headers of requests that were meant for this server."""
    host = host.lower()
    names = {host, "localhost", "127.0.0.1", "[::1]"} if is_loopback(host) else {host}
    bracketed = {f"[{name}]" if ":" in name and not name.startswith("[") else name for name in names}
    return frozenset({f"{name}:{port}" for name in bracketed} | (bracketed if port == 80 else set()))


class Access:
    """ASGI middleware: refuses what may not ask, and adds the headers that keep the page to itself.

    Args:
        app: what answers.
        hosts: the Host headers that are answered; empty: any, for a server behind every address of the machine.
        token: what a client must know; None: none is needed.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str | None) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is None and scope["method"] == "POST":
            try:
                receive = _sent_before(await _body(receive))
            except (TimeoutError, ValueError) as error:
                refused = refusal(408 if isinstance(error, TimeoutError) else 413, str(error))
        app: Callable[[Scope, Receive, Send], Awaitable[None]] = refused if refused is not None else self._app
        await app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._hosts and headers.get("host", "").lower() not in self._hosts:
            return refusal(421, "this server is not the one that the request was meant for")
        if scope["method"] not in ("GET", "POST"):
            return refusal(405, "only GET and POST are answered")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            return refusal(415, "questions are sent as application/json")
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """Return a refusal to a client that does not know the token; a token in the address becomes a cookie."""
        if self._token is None:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.pop("token", [""])[0]
        if given and self._is_token(given):
            rest = urlencode(query, doseq=True)
            response = RedirectResponse(f"{scope['path']}?{rest}" if rest else scope["path"], status_code=303)
            # Lax, because links to this page are sent by mail and chat; what changes anything is a POST of JSON.
            response.set_cookie(_cookie(headers), given, httponly=True, samesite="lax")
            return response
        known = cookie_parser(headers.get("cookie", "")).get(_cookie(headers), "")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(known) or self._is_token(bearer):
            return None
        return refusal(401, "open the address with the token that query_vl.py printed")

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode(), self._token.encode())


def _cookie(headers: Headers) -> str:
    """Return the cookie's name, of this port: browsers send a host's cookies to all its ports."""
    return f"{COOKIE}_{headers.get('host', '').rpartition(':')[2]}"


async def _body(receive: Receive) -> bytes:
    """Return the body of a request. Raises ValueError if it is too long, TimeoutError if it does not come."""
    body = b""
    try:
        async with asyncio.timeout(MAX_WAIT):
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BODY:
                    raise ValueError(f"a question has at most {MAX_BODY} bytes")
    except TimeoutError:
        raise TimeoutError(f"the question was not sent within {MAX_WAIT} seconds") from None
    return body


def _sent_before(body: bytes) -> Receive:
    """Return what gives an application a body that has been read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sent
