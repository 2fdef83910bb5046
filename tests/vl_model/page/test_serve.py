"""The server as a user starts it: addresses, ports, tokens, flags, slow clients, and its end."""

import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from benchmarks.page import served
from vl_model.page import serve as serving
from vl_model.page.serve import _bound
from workspace.setting_error import SettingError

REPOSITORY = Path(__file__).parents[3]
TOKEN = "a-token_of-16-characters"


def status(address: str, path: str = "/api/run", method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = HTTPConnection(re.sub(r"^http://([^/]*)/.*", r"\1", address), timeout=30)
    connection.request(method, path, headers=headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, text


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--serve", "--host", "nosuchname.invalid"), "--host 'nosuchname.invalid': is not an address of this machine"),
        (("--serve", "--host", "192.0.2.1"), "--host '192.0.2.1': is not an address of this machine"),
        (("--serve", "--token", "a&b"), "--token 'a&b': must have at least 16 letters"),
        (("--serve", "--top", "3"), "--top: is not for --serve"),
        (("--serve", "--split", "train"), "--split: is not for --serve"),
        (("severe canal stenosis", "--port", "9000"), "--port: is for --serve only"),
        (("severe canal stenosis", "--token", TOKEN), "--token: is for --serve only"),
        (("--serve", "--port", "99999"), "--port"),
        (("--prot", "1"), "--prot"),
    ],
)
def test_wrong_flags_are_told(evaluated_root: Path, flags: tuple[str, ...], complaint: str) -> None:
    command = [sys.executable, "query_vl.py", "--root", str(evaluated_root), "--run", "first", *flags]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60).stderr
    assert re.sub(r"(--\w+) (is )", r"\1: \2", said).find(complaint) >= 0, said
    assert "Traceback" not in said


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=rf"port {port}: cannot be used on 127.0.0.1 .*another with --port"):
            _bound("127.0.0.1", port)


def test_one_index_is_served_twice_and_a_token_is_made_for_others(evaluated_root: Path) -> None:
    with (
        served(str(evaluated_root), "first") as (_, own, _),
        served(str(evaluated_root), "first", "--host", "0.0.0.0") as (_, others, _),
    ):
        assert own.startswith("http://127.0.0.1:") and status(own)[0] == 200
        token = others.partition("?token=")[2]
        assert len(token) >= 16 and socket.gethostname() in others
        here = f"http://127.0.0.1:{re.findall(r':([0-9]+)/', others)[0]}/"
        assert status(here)[0] == 401
        assert status(here, Authorization=f"Bearer {token}")[0] == 200
        assert status(own, Host="evil.example")[0] == 421 and status(own, method="HEAD")[0] == 405


def test_a_long_body_is_refused_however_it_is_sent(evaluated_root: Path) -> None:
    with served(str(evaluated_root), "first", "--host", "LocalHost") as (_, address, _):
        port = int(re.findall(r":([0-9]+)/", address)[0])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            head = f"POST /api/ask HTTP/1.1\r\nHost: LOCALHOST:{port}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            client.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            assert b" 413 " in client.recv(200)


def test_ctrl_c_ends_it_also_while_a_client_hangs(evaluated_root: Path) -> None:
    with served(str(evaluated_root), "first") as (server, address, _):
        port = int(re.findall(r":([0-9]+)/", address)[0])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            head = f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            time.sleep(0.3)
            server.send_signal(signal.SIGINT)
            assert server.wait(9) is not None


def test_clients_that_do_not_ask_are_let_go(
    evaluated_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server in a thread of this process, which waits for a shorter time."""
    from threading import Thread

    import uvicorn

    monkeypatch.setattr(serving, "MAX_WAIT", 0.3)

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("nothing was asked")

    bound = _bound("127.0.0.1", 0)
    config = uvicorn.Config(app, http=serving.PromptProtocol, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    with socket.create_connection(bound.getsockname(), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: half")
        assert client.recv(100) == b"", "the connection was closed"
    server.should_exit = True
    thread.join(20)
