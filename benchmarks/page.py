"""Measure the page of a run as its users feel it: start, memory, the first answer, a turn of a slice, many clients.

    python -m benchmarks.page --root data/demo/second --run lora        # an evaluated run; a minute

The server is `query_vl.py --serve`, started as a user starts it, and the page runs in Debian's Chromium, which
Playwright drives. What is measured:

- start: from the command to the printed address, and from there to the first answer of the API.
- memory: the server's proportional share of memory (PSS), less the index files that it maps, after the questions of
  all clients.
- first answer: from the press of Enter to the first answer in the list, by the page's own clock, for several questions.
- slice turn: from a turn of the wheel to the drawn pane with its reference lines, the neighbours being decoded; the
  pixel that is read back at its end makes the browser finish its drawing.
- clients: each of many asks at the same moment, several times, and is answered or told 503.

Times are by the clock, for that is what a user waits.
"""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks.comparison import REPOSITORY
from benchmarks.machine import describe_machine
from workspace.cli import run_command
from workspace.layout import data_root
from workspace.root_settings import RootSettings
from workspace.setting_types import PositiveInteger
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.page"
QUESTIONS = (
    "severe canal stenosis",
    "moderate or severe left foraminal narrowing at L4-L5 or L5-S1",
    "no stenosis at all",
    "bilateral foraminal narrowing, worse on the left",
    "severe canal stenosis except L5-S1, without foraminal narrowing",
    "at least two levels with severe subarticular stenosis",
    "only L4-L5 is severe",
    "two adjacent levels of moderate canal stenosis",
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Without them it asks its maker's servers for news of its own.
CHROMIUM_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
ROUNDS, LONGEST_WAIT = 5, 30
#: Turns the first pane once, and returns how many milliseconds pass until its pixels can be read.
TURN = """
(deltaY) => {
  const canvas = document.querySelector(".pane canvas");
  const start = performance.now();
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY, cancelable: true }));
  canvas.getContext("2d").getImageData(0, 0, 1, 1);
  return performance.now() - start;
}
"""
#: Notes when Enter was pressed, and when the list of answers changed after it.
WATCH = """
() => {
  addEventListener("keydown", (event) => { if (event.key === "Enter") window.asked = performance.now(); }, true);
  new MutationObserver(() => { window.answered = performance.now(); })
    .observe(document.getElementById("list"), { childList: true });
}
"""


@dataclass(frozen=True, kw_only=True)
class Settings(RootSettings):
    """Settings of the benchmark of the page."""

    run: str
    """The evaluated run."""
    clients: PositiveInteger = 50
    """How many clients ask at the same moment."""
    turns: PositiveInteger = 60
    """How many turns of a slice are timed."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    if CHROMIUM is None:
        raise ValueError("the page is measured in Chromium, which is not installed")
    index = data_root(settings.root).run(settings.run) / "index"
    describe_machine("fastapi", "uvicorn", "playwright")
    with served(str(settings.root), settings.run) as (server, address, started):
        before = time.perf_counter()
        ask(address, QUESTIONS[0])
        print(f"start: address after {started:.2f} s, first answer {time.perf_counter() - before:.2f} s later")
        print_clients(address, settings.clients)
        mapped = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
        print(f"memory: {memory_beyond(server.pid, index):.0f} MB beyond the index of {mapped / 1e6:.1f} MB")
        print_browser(address, CHROMIUM, settings.turns)


@contextmanager
def served(root: str, run: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """Yield a server, the address that it told, and the seconds until then."""
    where = ("--root", str(Path(root).resolve()), "--run", run)
    command = [sys.executable, "query_vl.py", *where, "--serve", "--port", "0", *flags]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if line.startswith("open "):
                    yield server, line.split()[1], time.perf_counter() - start
                    return
            said.seek(0)
            raise ValueError(f"query_vl.py --serve: failed: {said.read().strip()}")
        finally:
            server.terminate()
            server.wait(30)


def ask(address: str, text: str) -> tuple[int, float]:
    """Ask the API, and return the status and the seconds."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    content = json.dumps({"text": text, "seen": True, "top": 12})
    connection.request("POST", "/api/ask", content, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, time.perf_counter() - start


def print_clients(address: str, clients: int) -> None:
    """Let all clients ask at once, several times, and print what they were told and how late the last was."""
    gate = Barrier(clients)

    def one(number: int) -> list[tuple[int, float]]:
        told = []
        for turn in range(ROUNDS):
            gate.wait()
            told.append(ask(address, QUESTIONS[(number + turn) % len(QUESTIONS)]))
        return told

    with ThreadPoolExecutor(clients) as pool:
        told = [reply for replies in pool.map(one, range(clients)) for reply in replies]
    seconds = np.array([seconds for _, seconds in told])
    counts = ", ".join(f"{count} times {status}" for status, count in sorted(Counter(s for s, _ in told).items()))
    print(f"clients: {clients} at once, {ROUNDS} times: {counts}", end="; ")
    print(f"median {np.median(seconds):.3f} s, last {seconds.max():.3f} s")


def memory_beyond(process: int, index: Path) -> float:
    """Return a process's proportional share of memory in MB, without the files below `index` that it maps."""
    maps = psutil.Process(process).memory_maps(grouped=True)
    return float(sum(one.pss for one in maps if not one.path.startswith(str(index.resolve())))) / 1e6


def print_browser(address: str, chromium: str, turns: int) -> None:
    """Print what the page takes in a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.wait_for_selector("#split option:nth-child(2)", state="attached")
        page.check("#seen")
        page.evaluate(WATCH)
        waits = [first_answer(page, text) for text in QUESTIONS]
        print(f"first answer: the first question {waits[0]:.0f} ms", end=", ")
        print(f"then median {np.median(waits[1:]):.0f} ms, longest {max(waits[1:]):.0f} ms")
        page.click("#list li:first-child .head button")
        page.wait_for_selector(".pane canvas")
        page.wait_for_timeout(3000)  # the neighbours are decoded
        taken = np.array([turn(page, 100 if count % 8 < 4 else -100) for count in range(turns)])
        print(
            f"slice turn: median {np.median(taken):.1f} ms, 95th percentile {np.percentile(taken, 95):.1f} ms", end=", "
        )
        print(f"{(taken <= 16).mean():.0%} within 16 ms")
        browser.close()


def first_answer(page: Any, text: str) -> float:
    """Ask in the page, and return the milliseconds from Enter to the list of answers."""
    page.evaluate("() => { window.answered = 0; }")
    page.fill("#text", text)
    page.press("#text", "Enter")
    end = time.monotonic() + LONGEST_WAIT
    while not page.evaluate("window.answered"):
        if time.monotonic() > end:
            raise ValueError(f"{text!r}: the page has shown no answer within {LONGEST_WAIT} seconds")
        page.wait_for_timeout(20)
    return float(page.evaluate("window.answered - window.asked"))


def turn(page: Any, delta: int) -> float:
    page.wait_for_timeout(100)
    return float(page.evaluate(TURN, delta))


if __name__ == "__main__":
    run_command(PROG, main)
