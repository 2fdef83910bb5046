"""A server of the page, started as a user starts it, and Debian's Chromium to look at it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import CHROMIUM, CHROMIUM_FLAGS, served
from tests.vl_model.page.opened_page import Page


@pytest.fixture(scope="package")
def address(evaluated_root: Path) -> Iterator[str]:
    """The address of a server of the run, started as a user starts it."""
    with served(str(evaluated_root), "first") as (_, told, _):
        yield told


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Debian's chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    """A page whose every request, error and violation of the content policy is checked at the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    said: list[str] = []
    elsewhere: list[str] = []
    opened.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith((address, "blob:")) else None)
    opened.goto(address)
    opened.wait_for_selector("#split option:nth-child(2)", state="attached")
    opened.check("#seen")
    yield opened
    assert elsewhere == []
    assert [text for text in said if not re.search("status of (4|503)", text)] == []
    context.close()
