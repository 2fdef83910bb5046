"""The panes of a study: keys, wheel and fingers, the cross, series without places, and the pictures that are kept."""

import re
from typing import Any

import numpy as np
import pytest

from tests.vl_model.page.opened_page import OPENED, Page, ask, open_first, until, viewer

CAPTION = "document.querySelector('.pane figcaption').textContent"


def window(page: Page) -> tuple[int, int]:
    found = re.search(r"window (-?\d+) to (-?\d+)", page.evaluate(CAPTION))
    assert found is not None
    return int(found[1]), int(found[2])


def wheel(page: Page, *ways: float, **more: Any) -> list[bool]:
    """Turn the wheel over the first pane; returns whether each event was taken from the browser."""
    taken: list[bool] = page.evaluate(
        """([ways, more]) => ways.map((deltaY) => !document.querySelector(".pane canvas").dispatchEvent(
            new WheelEvent("wheel", { deltaY, bubbles: true, cancelable: true, ...more })))""",
        [list(ways), more],
    )
    return taken


def test_known_grades_leave_the_slices_alone(page: Page) -> None:
    ask(page)
    open_first(page)
    page.focus(".pane canvas")
    page.keyboard.press("Home")
    page.check("#truth")
    assert page.locator(".truth").count() > 0 and "Known:" in page.inner_text("#site")
    assert viewer(page)[0]["at"] == 0


def test_a_hover_after_a_drag_that_was_broken_off_changes_no_window(page: Page) -> None:
    ask(page)
    open_first(page)
    before = window(page)
    fire = """([kind, x, buttons]) => document.querySelector(".pane canvas").dispatchEvent(
        new PointerEvent(kind, { pointerId: 1, clientX: x, clientY: 100, button: 2, buttons, bubbles: true }))"""
    page.evaluate("Element.prototype.setPointerCapture = () => {}")
    for end in (["pointercancel", 0, 0], ["lostpointercapture", 0, 0], None):
        page.evaluate(fire, ["pointerdown", 100, 2])
        if end:
            page.evaluate(fire, end)
        page.evaluate(fire, ["pointermove", 180, 2 if end else 0])
        assert window(page) == before, end
    page.evaluate(fire, ["pointerdown", 100, 2])
    page.evaluate(fire, ["pointermove", 180, 2])
    assert window(page) != before


def test_the_window_has_keys_and_the_browser_keeps_its_own(page: Page) -> None:
    ask(page)
    open_first(page)
    page.focus(".pane canvas")
    low, high = window(page)
    middle, width = (low + high) / 2, high - low
    for key, expected in (
        ("[", (middle - 0.4 * width, middle + 0.4 * width)),
        ("]", (middle - 0.625 * width, middle + 0.625 * width)),
        ("-", (low + 0.1 * width, high + 0.1 * width)),
        ("+", (low - 0.1 * width, high - 0.1 * width)),
    ):
        page.keyboard.press(key)
        assert window(page) == pytest.approx(expected, abs=1.5), key
        page.keyboard.press("r")
        assert window(page) == (low, high)
    at = viewer(page)[0]["at"]
    swallowed = page.evaluate(
        """() => ["ctrlKey", "altKey", "metaKey"].map((held) => !document.querySelector(".pane canvas").dispatchEvent(
            new KeyboardEvent("keydown", { key: "ArrowUp", [held]: true, bubbles: true, cancelable: true })))"""
    )
    assert swallowed == [False] * 3 and viewer(page)[0]["at"] == at


def test_a_trackpad_does_not_race(page: Page) -> None:
    ask(page)
    open_first(page)
    page.focus(".pane canvas")
    page.keyboard.press("Home")
    assert all(wheel(page, *[4.0] * 25))
    assert viewer(page)[0]["at"] == 2, "a hundred pixels in small pieces"
    wheel(page, 100)
    assert viewer(page)[0]["at"] == 3, "a notch"
    wheel(page, 1, deltaMode=1)
    assert viewer(page)[0]["at"] == 4, "a line"
    assert wheel(page, 100, 100, ctrlKey=True) == [False, False] and viewer(page)[0]["at"] == 4


def test_a_finger_scrolls_the_page_until_a_picture_was_tapped(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{address}?seen=true&line=any(left+foramen,+L4-L5)+%3D+severe")
    until(page, "document.querySelectorAll('#list li button').length > 0")
    open_first(page)
    action = "getComputedStyle(document.querySelector('.pane canvas')).touchAction"
    assert page.evaluate(action) == "pan-y"
    page.tap(".pane canvas")
    assert page.evaluate(action) == "none"
    page.tap("#site")
    assert page.evaluate(action) == "pan-y"
    context.close()


def test_a_series_without_places_is_shown_in_the_order_of_its_numbers(page: Page) -> None:
    def forget(route: Any) -> None:
        study = route.fetch().json()
        for one in study["slices"]:
            if one["view"] == "axial_t2":
                one["place"] = None
        study["slices"].reverse()
        route.fulfill(json=study)

    page.route("**/api/study/**", forget)
    ask(page)
    open_first(page)
    pane = page.locator(".pane[data-view=axial_t2]")
    assert "no such series" not in pane.inner_text() and "place in the patient not known" in pane.inner_text()
    canvas = pane.locator("canvas")
    canvas.focus()
    page.keyboard.press("Home")
    numbers = []
    for _ in range(4):
        numbers.append([int(x) for x in re.findall(r"series (\d+), slice (\d+)", pane.inner_text())[0]])
        page.keyboard.press("ArrowDown")
    assert numbers == sorted(numbers) and numbers[0] != numbers[-1]
    before = page.get_attribute("#panes", "data-point")
    canvas.click()
    assert page.get_attribute("#panes", "data-point") == before
    page.locator(".pane canvas").first.click()
    assert page.get_attribute("#panes", "data-point") != before


def test_the_cross_is_drawn_where_its_point_lies_in_the_slice(page: Page) -> None:
    ask(page)
    open_first(page)
    page.locator(".pane canvas").first.click()
    point = np.array([float(mm) for mm in page.get_attribute("#panes", "data-point").split()])
    for pane in viewer(page):
        if len(pane["slices"]) < 3:
            continue
        normals = [np.cross(s["place"]["row_direction"], s["place"]["column_direction"]) for s in pane["slices"]]
        origins = [np.array(s["place"]["position_mm"]) for s in pane["slices"]]
        away = [abs(float((point - o) @ n)) for o, n in zip(origins, normals, strict=True)]
        within = page.evaluate(
            """async ([slices, point]) => {
                const { isWithin } = await import("/geometry.js");
                return slices.map((_, at) => isWithin(slices, at, point));
            }""",
            [pane["slices"], point.tolist()],
        )
        assert within[int(np.argmin(away))] is (min(away) < 5), pane["view"]
        assert 1 <= sum(within) <= 2 or min(away) >= 2
        assert not any(inside for inside, mm in zip(within, away, strict=True) if mm > 5)


DRAWN_WHITE = """() => {
    globalThis.crosses = 0;
    const line = CanvasRenderingContext2D.prototype.lineTo;
    CanvasRenderingContext2D.prototype.lineTo = function (...to) {
        const isThin = this.strokeStyle === "#ffffff" && Math.abs(this.lineWidth - 1.2) < 0.01;
        if (isThin && this.canvas === document.querySelector(".pane canvas")) crosses += 1;
        return line.call(this, ...to);
    };
}"""


def test_no_cross_is_drawn_far_from_its_point(page: Page) -> None:
    ask(page)
    open_first(page)
    page.locator(".pane canvas").first.click()
    page.wait_for_timeout(300)
    page.evaluate(DRAWN_WHITE)
    page.focus(".pane canvas")
    counts = []
    for key in ("ArrowDown", "ArrowUp", "Home", "End"):
        page.evaluate("crosses = 0")
        page.keyboard.press(key)
        page.wait_for_timeout(200)
        counts.append(page.evaluate("crosses"))
    assert counts[1] >= 2, "on the slice that was clicked"
    assert counts[0] == counts[2] == counts[3] == 0, "not on its neighbour, nor on those at the edge"


def test_decoded_pictures_are_bounded_by_their_bytes(page: Page) -> None:
    kept = page.evaluate(
        """async () => {
            const { Pictures, KEPT } = await import("/pictures.js");
            const pictures = new Pictures("train", 1000);
            const image = { width: 10, height: 30, data: new Uint8ClampedArray(1200).fill(7) };
            for (const number of [1, 2, 3]) pictures.keep(number, image);
            pictures.of({ number: 1 }, () => {});
            pictures.keep(4, image);
            return [KEPT, pictures.bytes, [...pictures.known.keys()], pictures.known.get(4).greys.length];
        }"""
    )
    assert kept == [64 * 2**20, 900, [3, 1, 4], 300]


def test_a_pane_is_a_slider_from_top_to_bottom(page: Page) -> None:
    ask(page)
    open_first(page)
    until(page, OPENED)
    assert page.get_attribute(".pane canvas", "aria-orientation") == "vertical"
