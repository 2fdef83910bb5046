"""What tests of the page do in a browser: they ask, open studies, and read what the panes show."""

from typing import Any

QUESTION = "severe left foraminal narrowing at L4-L5"
#: True when a study is open, and a slice is shown in one of its panes.
OPENED = "document.querySelector('#study:not([hidden]) .pane[data-slice]') !== null"
Page = Any


def until(page: Page, expression: str) -> None:
    """Wait for an expression to become true; Playwright's own waiting is evaluated in the page, which forbids that."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within 20 seconds: {expression}")


def ask(page: Page, text: str = QUESTION) -> None:
    page.fill("#text", text)
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#list li button').length > 0")


def open_first(page: Page) -> None:
    page.click("#list li:first-child .head button")
    until(page, OPENED)


def shown_study(page: Page) -> dict[str, Any]:
    """The study that is open, as the API tells it."""
    study: dict[str, Any] = page.evaluate(
        "fetch('api/study/' + new URLSearchParams(location.search).get('study')).then((r) => r.json())"
    )
    return study


def viewer(page: Page) -> list[dict[str, Any]]:
    """The panes: their slices with places in the order in which they are turned, and which one is shown."""
    panes: list[dict[str, Any]] = page.evaluate(
        """async (slices) => {
            const { ordered } = await import("/geometry.js");
            return [...document.querySelectorAll(".pane")].map(({ dataset }) => {
                const own = ordered(slices.filter((one) => one.view === dataset.view), dataset.view !== "axial_t2");
                const at = own.findIndex((one) => one.number === Number(dataset.slice));
                return { view: dataset.view, slices: own, at };
            });
        }""",
        shown_study(page)["slices"],
    )
    return panes
