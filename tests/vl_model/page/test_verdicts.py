"""The reading session in a browser: no note is lost, marks come back, and the unmarked answers are a queue."""

from typing import Any

import pytest

from tests.vl_model.page.opened_page import Page, until

LINE = "any(left foramen, L4-L5) <= moderate"
NOTE = "#list li:first-child .verdicts input"
SAID = "document.querySelector('#list li:first-child .verdicts [role=status]').textContent"
PRESSED = "document.querySelector('#list li:first-child .verdicts [aria-pressed=true]')?.textContent"
UNMARKED = "document.querySelector('#queue [role=status]').textContent"


def ask_line(page: Page, line: str) -> None:
    """Ask by a line; the text before it only brings its field to light."""
    if page.is_hidden("#line"):
        page.fill("#text", "severe canal stenosis")
        page.press("#text", "Enter")
        page.wait_for_selector("#line:not([hidden])")
    page.fill("#line", line)
    page.press("#line", "Enter")
    until(page, f"new URLSearchParams(location.search).get('line') === {line!r}")
    assert page.locator("#list li").count() > 1


def read_as(page: Page, reader: str) -> None:
    if page.is_hidden("#reader"):
        page.click("#session summary")
    page.fill("#reader", reader)
    page.press("#reader", "Tab")
    page.wait_for_selector(".verdicts")


def press(page: Page, number: int, verdict: str) -> None:
    page.click(f"#list li:nth-child({number}) .verdicts button:text-is('{verdict}')")
    until(
        page, f"document.querySelector('#list li:nth-child({number}) [aria-pressed=true]')?.textContent === '{verdict}'"
    )


def kept(page: Page, reader: str) -> list[dict[str, Any]]:
    notes: list[dict[str, Any]] = page.evaluate(
        "(reader) => fetch(`api/notes?reader=${reader}`).then((reply) => reply.json())", reader
    )
    return notes


@pytest.mark.parametrize("key", ["Enter", "Tab"])
def test_a_note_after_the_verdict_is_kept(page: Page, key: str) -> None:
    reader = f"after-{key}"
    ask_line(page, LINE)
    read_as(page, reader)
    press(page, 1, "agree")
    until(page, f"{SAID} === 'kept'")
    page.fill(NOTE, "as before")
    assert page.evaluate(SAID) == "not kept"
    page.press(NOTE, key)
    until(page, f"{SAID} === 'kept'")
    [note] = kept(page, reader)
    assert (note["verdict"], note["note"], note["line"]) == ("agree", "as before", LINE)


def test_a_note_before_the_verdict_waits_for_it(page: Page) -> None:
    ask_line(page, LINE)
    read_as(page, "before")
    page.fill(NOTE, "hard to see")
    page.press(NOTE, "Tab")
    assert page.evaluate(SAID) == "not kept: choose a verdict" and kept(page, "before") == []
    page.check("#truth")
    assert page.input_value(NOTE) == "hard to see", "what is typed outlives new cards"
    press(page, 1, "unsure")
    press(page, 1, "disagree")
    [note] = kept(page, "before")
    assert (note["verdict"], note["note"]) == ("disagree", "hard to see")


def test_a_note_typed_before_a_slow_verdict_is_answered_is_kept(page: Page) -> None:
    ask_line(page, LINE)
    read_as(page, "slow")
    page.route("**/api/notes", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.click("#list li:first-child .verdicts button:text-is('agree')")
    page.fill(NOTE, "typed at once")
    page.press(NOTE, "Enter")
    until(page, f"{SAID} === 'kept'")
    [note] = kept(page, "slow")
    assert note["note"] == "typed at once"


def test_what_cannot_be_kept_is_told(page: Page) -> None:
    ask_line(page, LINE)
    read_as(page, "refused")
    refusal = {"status": 404, "content_type": "application/json", "body": '{"error": "study 1: not there"}'}
    page.route("**/api/notes", lambda route: route.fulfill(**refusal))
    page.click("#list li:first-child .verdicts button:text-is('agree')")
    until(page, f"{SAID} === 'not kept: study 1: not there'")
    assert page.evaluate(PRESSED) is None
    page.unroute("**/api/notes")
    press(page, 1, "agree")
    assert page.evaluate(SAID) == "kept"


def test_marks_come_back(page: Page) -> None:
    ask_line(page, LINE)
    read_as(page, "back")
    page.fill(NOTE, "seen")
    press(page, 1, "disagree")
    page.check("#truth")
    assert page.evaluate(PRESSED) == "disagree" and page.input_value(NOTE) == "seen"
    read_as(page, "somebody-else")
    assert page.evaluate(PRESSED) is None and page.input_value(NOTE) == ""
    read_as(page, "back")
    until(page, f"{PRESSED} === 'disagree'")
    assert page.input_value(NOTE) == "seen" and page.evaluate(SAID) == "kept"
    ask_line(page, "any(canal) <= moderate")
    assert page.evaluate(PRESSED) is None
    ask_line(page, f"{LINE}; top 2")
    until(page, f"{PRESSED} === 'disagree'")
    page.reload()
    page.wait_for_selector("#list li")
    read_as(page, "back")
    until(page, f"{PRESSED} === 'disagree'")
    assert page.input_value(NOTE) == "seen"


def test_notes_that_cannot_be_loaded_are_told_and_asked_for_again(page: Page) -> None:
    ask_line(page, LINE)
    refusal = {"status": 404, "content_type": "application/json", "body": '{"error": "no disk"}'}
    page.route("**/api/notes?*", lambda route: route.fulfill(**refusal))
    read_as(page, "unloaded")
    until(page, f"{UNMARKED} === 'The notes cannot be loaded: no disk'")
    page.unroute("**/api/notes?*")
    page.check("#truth")
    until(page, f"{UNMARKED}.endsWith(' unmarked')")


def test_the_unmarked_answers_are_a_queue(page: Page) -> None:
    ask_line(page, f"{LINE}; top 3")
    assert page.is_hidden("#queue"), "without a reader"
    read_as(page, "queue")
    assert page.evaluate(UNMARKED) == "3 of 3 answers unmarked"

    def moved_to() -> int:
        page.click("#queue button")
        assert page.evaluate("document.activeElement.matches('#list .head button')")
        cards = "[...document.querySelectorAll('#list li')]"
        at: int = page.evaluate(f"{cards}.indexOf(document.activeElement.closest('li'))")
        return at + 1

    assert [moved_to(), moved_to(), moved_to(), moved_to()] == [1, 2, 3, 1]
    press(page, 2, "agree")
    until(page, f"{UNMARKED} === '2 of 3 answers unmarked'")
    assert [moved_to(), moved_to()] == [3, 1]
    press(page, 1, "unsure")
    assert moved_to() == 3
    press(page, 3, "agree")
    until(page, f"{UNMARKED} === '0 of 3 answers unmarked'")
    assert page.is_disabled("#queue button")
