"""The page in Debian's Chromium: questions, chips, a study, geometry to the pixel, and no request to anybody else."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.conversion.slice_frames import frame_of
from data_prep.geometry import Frame
from tests.vl_model.page.opened_page import OPENED, QUESTION, Page, ask, open_first, shown_study, until, viewer


def frame(shown: dict[str, Any]) -> Frame:
    place = shown["place"]
    row = {
        **dict(zip(("position_x_mm", "position_y_mm", "position_z_mm"), map(str, place["position_mm"]), strict=True)),
        **dict(zip(("row_x", "row_y", "row_z"), map(str, place["row_direction"]), strict=True)),
        **dict(zip(("column_x", "column_y", "column_z"), map(str, place["column_direction"]), strict=True)),
        **dict(zip(("spacing_row_mm", "spacing_column_mm"), map(str, place["spacing_mm"]), strict=True)),
        **{"rows": str(shown["rows"]), "columns": str(shown["columns"])},
    }
    found = frame_of(row)
    assert found is not None
    return found


def test_a_question_is_asked_changed_by_a_chip_and_by_its_line(page: Page) -> None:
    ask(page)
    assert page.input_value("#line") == "any(left foramen, L4-L5) = severe"
    assert "held-out studies" in page.inner_text("#worth") or "not known" in page.inner_text("#worth")
    page.select_option("select[aria-label=grades]", label="moderate or severe")
    until(page, "document.getElementById('line').value.includes('>= moderate')")
    page.fill("#line", "all(canal) = normal/mild")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('select[aria-label=\"how many\"]').value === 'all,0'")
    page.click(".chip details summary")
    page.click(".chip .menu label:has-text('L1-L2')")
    until(page, "document.getElementById('line').value.includes('L2-L3')")
    assert page.input_value("#line") == "all(canal, L2-L3, L3-L4, L4-L5, L5-S1) = normal/mild"


def test_what_is_wrong_is_told_and_what_was_there_stays(page: Page) -> None:
    ask(page)
    page.fill("#text", "severe stenosis at T12-L1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#problem:not([hidden])")
    assert "is not graded" in page.inner_text("#problem")
    assert page.input_value("#line") == "any(left foramen, L4-L5) = severe"
    page.fill("#text", "severe canal stenosis with <img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rest:not([hidden])")
    assert page.locator("#rest img").count() == 0


def test_a_link_opens_the_same_question_and_study(page: Page, address: str) -> None:
    ask(page)
    open_first(page)
    link, name = page.url, page.inner_text("#study-name")
    assert "line=any" in link and "study=" in link
    page.goto(link)
    until(page, OPENED)
    assert page.inner_text("#study-name") == name
    assert page.input_value("#line") == "any(left foramen, L4-L5) = severe"
    page.click("#close")
    page.go_back()


def test_answers_are_exported(page: Page) -> None:
    ask(page)
    with page.expect_download() as download:
        page.click("#export")
    text = Path(download.value.path()).read_text()
    assert text.startswith("rank,study_id") and len(text.splitlines()) > 1


def test_a_click_turns_all_panes_to_the_point(page: Page) -> None:
    ask(page)
    open_first(page)
    canvas = page.locator(".pane canvas").first
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.45, "y": box["height"] * 0.4})
    point = np.array([float(mm) for mm in page.get_attribute("#panes", "data-point").split()])
    panes = [pane for pane in viewer(page) if pane["slices"]]
    assert len(panes) >= 2
    for pane in panes:
        distances = []
        for one in pane["slices"]:
            its = frame(one)
            column, row = its.to_pixel(tuple(point))
            normal = np.cross(one["place"]["row_direction"], one["place"]["column_direction"])
            across = abs(float((point - np.array(one["place"]["position_mm"])) @ normal))
            beyond_column = max(-0.5 - column, column - one["columns"] + 0.5, 0) * its.spacing_mm[1]
            beyond_row = max(-0.5 - row, row - one["rows"] + 0.5, 0) * its.spacing_mm[0]
            distances.append(float(np.sqrt(across**2 + beyond_column**2 + beyond_row**2)))
        assert distances[pane["at"]] == pytest.approx(min(distances), abs=1e-6), pane["view"]


def test_reference_lines_are_where_the_planes_cut(page: Page) -> None:
    ask(page)
    open_first(page)
    panes = [pane for pane in viewer(page) if pane["slices"]]
    checked = 0
    for one in panes:
        for other in panes:
            if one is other:
                continue
            a, b = one["slices"][one["at"]], other["slices"][other["at"]]
            ends = page.evaluate("async ([a, b]) => (await import('/geometry.js')).cut(a, b)", [a, b])
            first, second = (np.cross(x["place"]["row_direction"], x["place"]["column_direction"]) for x in (a, b))
            angle = np.degrees(np.arccos(np.clip(abs(float(first @ second)), 0, 1)))
            if angle < 20:
                assert ends is None
                continue
            if ends is None:
                continue
            for column, row in ends:
                point = np.array(frame(a).to_patient((column, row)))
                away = abs(float((point - np.array(b["place"]["position_mm"])) @ second))
                assert away < 0.01 * min(a["place"]["spacing_mm"])
                on_edge = min(
                    abs(column + 0.5), abs(column - a["columns"] + 0.5), abs(row + 0.5), abs(row - a["rows"] + 0.5)
                )
                assert on_edge < 1e-6
            checked += 1
    assert checked >= 2


def test_slices_are_turned_towards_the_feet_and_the_left(page: Page) -> None:
    ask(page)
    open_first(page)
    for pane in viewer(page):
        centres = []
        for one in pane["slices"]:
            centres.append(frame(one).to_patient(((one["columns"] - 1) / 2, (one["rows"] - 1) / 2)))
        along = [-z for _, _, z in centres] if pane["view"] == "axial_t2" else [x for x, _, _ in centres]
        assert along == sorted(along)
    canvas = page.locator(".pane canvas").first
    canvas.focus()
    page.keyboard.press("Home")
    assert viewer(page)[0]["at"] == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("PageDown")
    assert viewer(page)[0]["at"] == min(6, len(viewer(page)[0]["slices"]) - 1)
    page.keyboard.press("End")
    assert viewer(page)[0]["at"] == len(viewer(page)[0]["slices"]) - 1
    canvas.hover()
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(100)
    assert viewer(page)[0]["at"] == len(viewer(page)[0]["slices"]) - 2


def test_the_window_is_dragged_in_the_scanners_units_and_reset(page: Page) -> None:
    ask(page)
    open_first(page)
    caption = page.locator(".pane figcaption").first
    before = re.search(r"window (-?\d+) to (-?\d+)", caption.inner_text())
    assert before is not None
    shown = viewer(page)[0]
    assert [int(before[1]), int(before[2])] == [round(x) for x in shown["slices"][shown["at"]]["window"]]
    box = page.locator(".pane canvas").first.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 120, box["y"] + 50, steps=5)
    page.mouse.up(button="right")
    assert caption.inner_text() != before.string
    page.locator(".pane canvas").first.focus()
    page.keyboard.press("r")
    assert before[0] in caption.inner_text()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(page: Page, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    ask(page, "severe canal stenosis except L5-S1 and at least two levels of foraminal narrowing")
    open_first(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) is (scheme == "dark")


def test_a_missing_picture_costs_that_picture_only(page: Page, evaluated_root: Path) -> None:
    ask(page)
    reply = page.evaluate(
        "fetch('api/ask', {method: 'POST', headers: {'Content-Type': 'application/json'}, "
        f"body: JSON.stringify({{text: {json.dumps(QUESTION)}, seen: true}})}}).then((r) => r.json())"
    )
    answer = reply["answers"][0]
    path = evaluated_root / answer["split"] / "processed_data" / answer["image"]
    hidden = path.with_suffix(".hidden")
    path.replace(hidden)
    try:
        page.reload()
        page.wait_for_selector("#list li button")
        open_first(page)
        captions = "[...document.querySelectorAll('figcaption')]"
        until(page, f"{captions}.some((one) => one.textContent.includes('picture missing'))")
    finally:
        hidden.replace(path)


def test_known_grades_are_shown_and_marked_where_they_differ(page: Page) -> None:
    ask(page)
    open_first(page)
    assert page.locator(".truth").count() == 0
    page.check("#truth")
    keys = ["normal_mild", "moderate", "severe"]
    expected = {
        site["key"]: keys[int(np.argmax(site["probabilities"]))] != site["truth"]
        for site in shown_study(page)["sites"]
        if site["truth"] and site["probabilities"]
    }
    marked = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.truth')].map((one) => "
        "[one.parentElement.dataset.site, one.classList.contains('differs')]))"
    )
    assert marked == expected and len(set(expected.values())) == 2


def test_a_late_reply_does_not_replace_that_of_a_later_question(page: Page) -> None:
    page.evaluate(
        """() => {
            const asks = globalThis.fetch;
            let first = true;
            globalThis.fetch = async (path, options) => {
                const isLate = first && path === "api/ask";
                if (isLate) first = false;
                const reply = await asks(path, options);
                if (isLate) await new Promise((done) => setTimeout(done, 700));
                if (isLate) globalThis.hasArrived = true;
                return reply;
            };
        }"""
    )
    page.fill("#text", "severe canal stenosis")
    page.press("#text", "Enter")
    ask(page)
    until(page, "globalThis.hasArrived === true")
    page.wait_for_timeout(100)
    assert page.input_value("#line") == "any(left foramen, L4-L5) = severe"


def test_a_run_that_is_evaluated_again_is_told_and_shown_anew(page: Page, evaluated_root: Path) -> None:
    ask(page)
    open_first(page)
    assert page.is_hidden("#renewed")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    os.utime(evaluated_root / "train" / "checkpoints" / "first" / "heads" / "heads.json")
    page.select_option("select[aria-label=grades]", label="moderate or severe")
    page.wait_for_selector("#renewed:not([hidden])")
    assert "evaluated again" in page.inner_text("#renewed")
    until(page, "document.getElementById('line').value.includes('>= moderate')")
    page.wait_for_timeout(500)
    assert any("/api/study/" in url for url in asked), "the study is opened again"
