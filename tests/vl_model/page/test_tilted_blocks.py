"""A study whose axial series is five tilted blocks: reference lines to the pixel, and clicks to the millimetre."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vl_model.page.opened_page import OPENED, Page, until, viewer

BLOCKS = 5
#: The pane's picture as it is drawn: width, height, and the RGBA of every pixel of the canvas.
DRAWN = """
(view) => {
  const canvas = document.querySelector(`.pane[data-view=${view}] canvas`);
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.width, canvas.height, [...data]];
}
"""


@pytest.fixture(scope="module")
def blocks(evaluated_root: Path) -> tuple[int, dict[int, list[int]]]:
    """A study with five axial blocks in one series, and the numbers of each block's slices."""
    found: dict[tuple[int, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    with (evaluated_root / "train" / "processed_data" / "slices.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            if row["view"] == "axial_t2":
                found[int(row["study_id"]), row["series_id"]][int(row["stack"])].append(number)
    return next((study, dict(own)) for (study, _), own in found.items() if len(own) == BLOCKS)


@pytest.fixture
def opened(page: Page, address: str, blocks: tuple[int, dict[int, list[int]]]) -> Page:
    page.goto(f"{address}?study=train/{blocks[0]}&seen=true")
    until(page, OPENED)
    return page


def pane(page: Page, view: str) -> dict[str, Any]:
    return next(one for one in viewer(page) if one["view"] == view)


def turn_to(page: Page, number: int) -> None:
    """Turn the axial pane to a slice, as a reader does."""
    page.focus(".pane[data-view=axial_t2] canvas")
    page.keyboard.press("Home")
    for _ in range([one["number"] for one in pane(page, "axial_t2")["slices"]].index(number)):
        page.keyboard.press("ArrowDown")
    until(page, f"document.querySelector('.pane[data-view=axial_t2]').dataset.slice === '{number}'")


def points(shown: dict[str, Any], column_N: NDArray[Any], row_N: NDArray[Any]) -> NDArray[np.float64]:
    """The points (N, 3) in the patient of pixels, from the slice's place alone."""
    place = shown["place"]
    along, down = np.array(place["row_direction"]), np.array(place["column_direction"])
    row_mm, column_mm = place["spacing_mm"]
    corner: NDArray[np.float64] = np.array(place["position_mm"])
    return corner + np.outer(column_N * column_mm, along) + np.outer(row_N * row_mm, down)


def line_in(shown: dict[str, Any], other: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the plane of `other` cuts a slice: columns and rows, found by bisection along each column."""
    normal = np.cross(other["place"]["row_direction"], other["place"]["column_direction"])
    column_N = np.linspace(0, shown["columns"] - 1, 60)

    def across(row_N: NDArray[Any]) -> NDArray[np.float64]:
        side: NDArray[np.float64] = (points(shown, column_N, row_N) - np.array(other["place"]["position_mm"])) @ normal
        return side

    low_N, high_N = np.zeros(60), np.full(60, shown["rows"] - 1.0)
    inside = across(low_N) * across(high_N) < 0
    for _ in range(50):
        middle_N = (low_N + high_N) / 2
        above = across(middle_N) * across(low_N) > 0
        low_N, high_N = np.where(above, middle_N, low_N), np.where(above, high_N, middle_N)
    return column_N[inside], low_N[inside]


def distance(shown: dict[str, Any], point: NDArray[np.float64]) -> float:
    """The distance of a point from a slice's plane, in millimetres."""
    normal = np.cross(shown["place"]["row_direction"], shown["place"]["column_direction"])
    return abs(float((point - np.array(shown["place"]["position_mm"])) @ normal))


def on_canvas(shown: dict[str, Any], width: int, height: int, column_N: Any, row_N: Any) -> tuple[Any, Any]:
    """Pixels of the canvas of pixels of a slice that is drawn as large as fits, with square millimetres."""
    row_mm, column_mm = shown["place"]["spacing_mm"]
    wide, tall = shown["columns"] * column_mm, shown["rows"] * row_mm
    per_mm = min(width / wide, height / tall)
    left, top = (width - wide * per_mm) / 2, (height - tall * per_mm) / 2
    return left + (column_N + 0.5) * column_mm * per_mm, top + (row_N + 0.5) * row_mm * per_mm


def greens(image_HW4: NDArray[np.int64], x_N: Any, y_N: Any) -> NDArray[np.bool_]:
    """Whether a pixel has the colour of the axial pane's line; slices are grey, other lines blue, orange or yellow."""
    near = [image_HW4[np.clip(np.floor(y_N + step).astype(int), 0, len(image_HW4) - 1), np.floor(x_N).astype(int)]
            for step in (-1, 0, 1)]  # fmt: skip
    return np.any([rgb_N4[:, 1] - np.maximum(rgb_N4[:, 0], rgb_N4[:, 2]) > 15 for rgb_N4 in near], axis=0)


def test_the_line_of_each_block_is_drawn_as_the_block_is_tilted(
    opened: Page, blocks: tuple[int, dict[int, list[int]]]
) -> None:
    slopes = []
    for numbers in blocks[1].values():
        turn_to(opened, sorted(numbers)[len(numbers) // 2])
        axial = pane(opened, "axial_t2")
        sagittal = pane(opened, "sagittal_t2_stir")
        shown, other = sagittal["slices"][sagittal["at"]], axial["slices"][axial["at"]]
        column_N, row_N = line_in(shown, other)
        width, height, data = opened.evaluate(DRAWN, "sagittal_t2_stir")
        image_HW4 = np.array(data, dtype=np.int64).reshape(height, width, 4)
        x_N, y_N = on_canvas(shown, width, height, column_N, row_N)
        assert len(x_N) > 20
        assert greens(image_HW4, x_N, y_N).mean() > 0.9, "the line is where the plane is"
        for away in (-6, 6):
            assert greens(image_HW4, x_N, y_N + away).mean() < 0.1, "and nowhere else"
        slopes.append(float(np.degrees(np.arctan2(y_N[-1] - y_N[0], x_N[-1] - x_N[0]))))
    assert np.ptp(slopes) > 10, slopes


def test_a_click_on_a_disc_shows_the_slice_of_its_block(opened: Page, blocks: tuple[int, dict[int, list[int]]]) -> None:
    stack_of = {number: block for block, numbers in blocks[1].items() for number in numbers}
    reached = set()
    for numbers in blocks[1].values():
        turn_to(opened, sorted(numbers)[len(numbers) // 2])
        axial, sagittal = pane(opened, "axial_t2"), pane(opened, "sagittal_t2_stir")
        aimed, shown = axial["slices"][axial["at"]], sagittal["slices"][sagittal["at"]]
        middle = points(aimed, np.array([(aimed["columns"] - 1) / 2]), np.array([(aimed["rows"] - 1) / 2]))[0]
        column_N, row_N = line_in(shown, aimed)
        nearest = np.linalg.norm(points(shown, column_N, row_N) - middle, axis=1).argmin()
        canvas = opened.locator(".pane[data-view=sagittal_t2_stir] canvas")
        width, height = canvas.evaluate("(one) => [one.clientWidth, one.clientHeight]")
        x, y = on_canvas(shown, width, height, column_N[nearest], row_N[nearest])
        canvas.click(position={"x": float(x), "y": float(y)})
        after = pane(opened, "axial_t2")
        point = np.array([float(x) for x in opened.get_attribute("#panes", "data-point").split()])
        apart = [distance(one, point) for one in after["slices"]]
        assert apart[after["at"]] <= min(apart) + 1e-6 < 5, "no other slice of the series is nearer"
        reached.add(stack_of[after["slices"][after["at"]]["number"]])
    assert len(reached) >= BLOCKS - 1, "blocks may overlap by one"


def test_the_page_without_javascript_says_so(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(address)
    assert "This page needs JavaScript." in opened.inner_text("body")
    context.close()
