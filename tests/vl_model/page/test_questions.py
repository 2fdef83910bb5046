"""Questions in the browser: limits, free words, further answers, links of other runs, and a server that is busy."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.vl_model.page.opened_page import OPENED, QUESTION, Page, ask, open_first, until

LINE = "any(left foramen, L4-L5) = severe"
ANYONE = "any(left foramen, L4-L5) <= moderate"
NO_SUCH_TIME = 300  # milliseconds in which nothing more may happen


def ask_line(page: Page, line: str) -> None:
    page.fill("#line", line)
    page.press("#line", "Enter")
    until(page, f"new URLSearchParams(location.search).get('line') === {json.dumps(line)}")


def sent_questions(page: Page) -> list[dict[str, Any]]:
    """A list that is filled with what the page asks from now on."""
    asked: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.url.endswith("/api/ask"):
            asked.append(json.loads(request.post_data))

    page.on("request", note)
    return asked


def copied_answers(page: Page, count: int) -> None:
    """Let each reply have as many answers as are asked for, up to a count; they are copies of the first one."""

    def copy(route: Any) -> None:
        content = json.loads(route.request.post_data)
        reply = route.fetch().json()
        most = reply["query"]["limits"]["top"] or content["page"]
        first = reply["answers"][0]
        reply["answers"] = [{**first, "rank": rank} for rank in range(1, min(most, count) + 1)]
        route.fulfill(json=reply)

    page.route("**/api/ask", copy)


@pytest.mark.parametrize("line", [f"{ANYONE}; top 120; split train", f"{ANYONE}; top 12; P >= 0.01; seen; count"])
def test_the_line_keeps_the_limits_that_were_written_and_no_others(page: Page, line: str) -> None:
    ask(page)
    page.select_option("#split", "test")
    until(page, "location.search.includes('split=test')")
    assert page.input_value("#line") == LINE, "what the controls set is not written"
    ask_line(page, line)
    page.select_option("select[aria-label=grades]", label="severe")
    until(page, "document.getElementById('line').value.includes('= severe')")
    assert page.input_value("#line") == line.replace("<= moderate", "= severe"), "a chip leaves the limits alone"


@pytest.mark.parametrize(("text", "shown"), [("first 3 studies with", 3), ("show me twenty patients with", 20)])
def test_a_number_of_answers_that_is_asked_for_is_shown(page: Page, text: str, shown: int) -> None:
    copied_answers(page, 100)
    ask(page, f"{text} severe left foraminal narrowing at L4-L5")
    until(page, f"document.querySelectorAll('#list > li').length === {shown}")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(NO_SUCH_TIME)
    assert page.locator("#list > li").count() == shown and page.is_hidden("#more")


def test_more_answers_are_those_to_the_question_that_is_shown(page: Page) -> None:
    copied_answers(page, 100)
    ask(page)
    until(page, "document.querySelectorAll('#list > li').length >= 12")
    page.unroute("**/api/ask")
    page.route("**/api/ask", lambda route: route.fulfill(status=503, json={"error": "busy"}))
    page.fill("#text", "severe canal stenosis")
    page.press("#text", "Enter")
    page.wait_for_selector("#problem:not([hidden])")
    asked = sent_questions(page)
    page.unroute("**/api/ask")
    copied_answers(page, 100)
    count = page.locator("#list > li").count()
    page.evaluate("document.getElementById('more').click()")
    until(page, f"document.querySelectorAll('#list > li').length > {count}")
    assert [one["text"] for one in asked] == [QUESTION] * len(asked) and page.input_value("#line") == LINE


def test_more_is_refused_while_another_question_is_under_way(page: Page) -> None:
    copied_answers(page, 100)
    ask(page)
    until(page, "document.querySelectorAll('#list > li').length >= 12")
    page.wait_for_timeout(NO_SUCH_TIME)
    page.evaluate(
        """() => {
            const asks = globalThis.fetch;
            globalThis.fetch = async (path, options) => {
                const reply = await asks(path, options);
                await new Promise((done) => setTimeout(done, 400));
                return reply;
            };
        }"""
    )
    asked = sent_questions(page)
    page.fill("#text", "first 2 studies with severe canal stenosis")
    page.press("#text", "Enter")
    page.evaluate("document.getElementById('more').click()")
    until(page, "document.getElementById('line').value.startsWith('any(canal)')")
    assert page.locator("#list > li").count() == 2 and len(asked) == 1


def test_a_question_that_tells_of_a_new_index_is_answered(page: Page, evaluated_root: Path) -> None:
    ask(page)
    open_first(page)
    asked = sent_questions(page)
    os.utime(evaluated_root / "train" / "checkpoints" / "first" / "heads" / "heads.json")
    page.fill("#text", "severe canal stenosis")
    with page.expect_request("**/api/study/**"):
        page.press("#text", "Enter")
    page.wait_for_selector("#renewed:not([hidden])")
    until(page, "document.getElementById('line').value.startsWith('any(canal)')")
    page.wait_for_timeout(NO_SUCH_TIME)
    assert [one["text"] for one in asked] == ["severe canal stenosis"]
    assert page.input_value("#line") == "any(canal) = severe" and "canal" in page.url


def test_links_of_other_runs_and_sets_are_told(page: Page, address: str) -> None:
    ask(page)
    assert "run=first" in page.url and page.is_hidden("#link")
    page.goto(page.url.replace("run=first", "run=second"))
    until(page, "document.querySelectorAll('#list li button').length > 0")
    assert page.inner_text("#link") == "This link was made for run second; this is run first."
    asked = sent_questions(page)
    page.goto(f"{address}?line=any(canal)+%3D+severe&split=clinic")
    page.wait_for_selector("#link:not([hidden])")
    page.wait_for_timeout(NO_SUCH_TIME)
    assert '"clinic", which run first does not have' in page.inner_text("#link")
    assert asked == [] and "split=clinic" in page.url and page.is_hidden("#answers")
    for study in ("..%2Fnotes", "..%2F12", "train%2Fx"):
        page.goto(f"{address}?study={study}")
        page.wait_for_selector("#split option:nth-child(2)", state="attached")
        page.wait_for_timeout(100)
        assert page.is_hidden("#study") and page.is_hidden("#problem")


READ = """async (tree) => {
    const { showChips } = await import("/reading.js");
    const root = document.createElement("div");
    showChips(root, tree, () => {});
    const said = (chip) => chip.querySelector("select").selectedOptions[0].text;
    const words = (one) => (one.matches(".chip") ? said(one) : one.textContent);
    return [...root.children].map(words).join(" ");
}"""


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("not (any(canal) = severe and all(recess) = severe)", "not ( any of and all of )"),
        (
            "same_level(any(canal) = severe and any(recess) = severe) and all(site) = moderate",
            "at the same level ( any of and any of ) and all of",
        ),
        ("not any(canal) = severe or all(recess) = severe", "not any of or all of"),
        ("adjacent_5_levels(canal) = severe", "5 adjacent levels of"),
        ("adjacent_1_level(canal) = severe", "1 adjacent levels of"),
    ],
)
def test_chips_read_as_the_line(page: Page, line: str, read: str) -> None:
    tree = page.evaluate(
        "(line) => fetch('api/read', {method: 'POST', headers: {'Content-Type': 'application/json'}, "
        "body: JSON.stringify({line})}).then((r) => r.json()).then((r) => r.tree)",
        line,
    )
    assert page.evaluate(READ, tree) == read


def test_a_refused_chip_is_as_it_was(page: Page) -> None:
    ask(page)
    page.route("**/api/ask", lambda route: route.fulfill(status=400, json={"error": "refused"}))
    page.select_option("select[aria-label=grades]", label="moderate or severe")
    page.wait_for_selector("#problem:not([hidden])")
    grades = "document.querySelector('select[aria-label=grades]').selectedOptions[0].text"
    until(page, f"{grades} === 'severe'")
    page.click(".chip summary")
    page.click("#worth")
    assert not page.evaluate("document.querySelector('.chip details').open"), "a click beside a menu closes it"


def test_a_ticked_place_changes_its_row_or_column_alone(page: Page) -> None:
    canal, recess = "spinal_canal_stenosis", "left_subarticular_stenosis"
    sites = [f"{canal}_l1_l2", f"{canal}_l4_l5", f"{recess}_l5_s1"]

    def ticked(value: str, is_on: bool) -> Any:
        return page.evaluate("async (given) => (await import('/reading.js')).ticked(...given)", [sites, value, is_on])

    assert ticked("l4_l5", False) == [f"{canal}_l1_l2", f"{recess}_l5_s1"]
    assert ticked("l2_l3", True) == [sites[0], f"{canal}_l2_l3", sites[1], f"{recess}_l2_l3", sites[2]]
    added = [f"left_neural_foraminal_narrowing_{level}" for level in ("l1_l2", "l4_l5", "l5_s1")]
    assert ticked("left_neural_foraminal_narrowing", True) == [*sites[:2], *added, sites[2]]


def test_similar_studies_are_searched_in_the_set_of_the_study(page: Page) -> None:
    ask_first = page.locator("#list li:first-child")
    ask(page)
    split = ask_first.get_attribute("data-study").split("/")[0]
    open_first(page)
    other = {"train": "test", "test": "train"}[split]
    page.select_option("#split", other)
    until(page, f"location.search.includes('split={other}')")
    page.click("#similar")
    until(page, "location.search.includes('like=')")
    assert page.is_hidden("#problem") and page.input_value("#split") == split
    assert f"searched in {split}" in page.inner_text("#notes")
    assert page.title().startswith("study ")


def test_a_busy_server_is_asked_once_more(page: Page) -> None:
    told: list[str] = []

    def busy_once(route: Any) -> None:
        told.append(route.request.url)
        if len(told) == 1:
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": "busy"})
        else:
            route.continue_()

    page.route("**/api/run?**", busy_once)
    page.reload()
    page.wait_for_selector("#split option:nth-child(2)", state="attached")
    assert len(told) == 2 and page.is_hidden("#problem")


def test_a_study_that_comes_late_is_not_shown(page: Page) -> None:
    ask(page)
    page.evaluate(
        """() => {
            const asks = globalThis.fetch;
            let count = 0;
            globalThis.arrived = 0;
            globalThis.fetch = async (path, options) => {
                const isLate = path.startsWith("api/study/") && count++ === 0;
                const reply = await asks(path, options);
                if (isLate) await new Promise((done) => setTimeout(done, 500));
                if (isLate) setTimeout(() => { globalThis.arrived += 1; }, 50);
                return reply;
            };
        }"""
    )
    page.click("#list li:nth-child(1) .head button")
    page.click("#list li:nth-child(2) .head button")
    until(page, OPENED)
    name = page.inner_text("#study-name")
    until(page, "globalThis.arrived === 1")
    assert page.inner_text("#study-name") == name
    page.click("#close")
    page.evaluate(
        """() => {
            document.querySelector("#list li .head button").click();
            history.pushState(null, "", "/");
            dispatchEvent(new PopStateEvent("popstate"));
        }"""
    )
    page.wait_for_timeout(NO_SUCH_TIME)
    assert page.is_hidden("#study"), "it was closed while it was loaded"
