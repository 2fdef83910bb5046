"""The page without a mouse and without eyes: axe finds nothing serious, and the keyboard reaches everything."""

from pathlib import Path

import pytest

from tests.vl_model.page.opened_page import OPENED, QUESTION, Page, ask, open_first, until, viewer

SIZES = ((1280, 900), (390, 844))
SERIOUS = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`)"""


def findings(page: Page) -> list[str]:
    """Return what axe finds at both sizes, in light and dark."""
    found = []
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found += [f"{width} {scheme} {one}" for one in page.evaluate(SERIOUS)]
    return found


def test_axe_finds_nothing_serious(page: Page) -> None:
    axe = pytest.importorskip("axe_playwright_python")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    assert findings(page) == [], "the empty page"
    ask(page, "severe left foraminal narrowing at L4-L5, with oedema")
    page.check("#truth")
    page.click("#session summary")
    page.fill("#reader", "anna")
    page.press("#reader", "Tab")
    page.wait_for_selector(".verdicts")
    page.click(".fold summary")
    page.click(".chip summary")
    assert findings(page) == [], "with answers"
    open_first(page)
    assert findings(page) == [], "with a study"


def test_axe_would_find_what_is_wrong(page: Page) -> None:
    axe = pytest.importorskip("axe_playwright_python")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    page.evaluate(
        "document.querySelector('label[for=text]').remove(), document.querySelector('#text').placeholder = ''"
    )
    assert any("label" in one for one in page.evaluate(SERIOUS))


def tab_to(page: Page, selector: str, most: int = 60) -> None:
    """Press the tabulator until an element has the focus."""
    for _ in range(most):
        if page.evaluate(f"document.activeElement.matches({selector!r})"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector}: is not reached by {most} tabulators")


def test_everything_is_reached_by_keyboard(page: Page) -> None:
    page.focus("#text")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector("#list li button")
    tab_to(page, "select[aria-label=grades]")
    page.keyboard.press("ArrowDown")
    until(page, "document.getElementById('line').value.includes('>= moderate')")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "grades", "the focus stays"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    tab_to(page, ".menu label:nth-child(3) input")
    page.keyboard.press("Space")
    until(page, "document.getElementById('line').value.includes('any(foramen, L4-L5)')")
    assert page.evaluate("document.activeElement.closest('details').open"), "the menu stays open"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('summary') && !document.activeElement.parentElement.open")
    tab_to(page, "#line")
    page.keyboard.press("Control+A")
    page.keyboard.type("any(left foramen) <= moderate; P >= 0")
    page.keyboard.press("Enter")
    # The address, because the line has these words as soon as they are typed.
    until(page, "new URLSearchParams(location.search).get('line')?.includes('<= moderate')")
    tab_to(page, "#list li:nth-child(2) .head button")
    page.keyboard.press("Enter")
    until(page, OPENED)
    until(page, "document.activeElement.id === 'study-name'")
    tab_to(page, ".pane canvas")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert viewer(page)[0]["at"] == 1
    assert page.get_attribute(".pane canvas", "aria-valuenow") == "2"
    assert "(2 of " in page.get_attribute(".pane canvas", "aria-valuetext")
    tab_to(page, "#grid button[data-site^=left_sub]")
    page.keyboard.press("Enter")
    assert page.get_attribute("#grid button[data-site^=left_sub]:focus", "aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.is_hidden("#study")
    assert page.evaluate("document.activeElement === document.querySelector('#list li:nth-child(2) .head button')")


def test_results_are_announced(page: Page) -> None:
    said = page.locator("#said")
    assert said.get_attribute("role") == "status" and said.is_visible() and said.inner_text() == ""
    ask(page)
    count = page.locator("#list li").count()
    assert said.inner_text() == (f"{count} answers" if count > 1 else "1 answer")
    page.fill("#line", "any(canal) <= moderate; top 1")
    page.press("#line", "Enter")
    until(page, "document.querySelector('#said').textContent === '1 answer'")
    page.fill("#text", "severe stenosis at T12-L1")
    page.press("#text", "Enter")
    page.wait_for_selector("#problem[role=alert]:not([hidden])")
    assert said.inner_text() == ""
