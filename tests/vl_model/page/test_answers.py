"""What the page tells of a reply: the words of the command line, likeness against its null, and what is folded."""

import re
from dataclasses import replace
from typing import Any

import pytest

from prompts.canonical import parse_canonical
from tests.vl_model.page.opened_page import OPENED, Page, ask, until
from tests.vl_model.queries.random_segments import random_segment
from vl_model.queries.reply import Likeness, Reply, reply_json
from vl_model.queries.reply_text import reply_text
from vl_model.queries.search import Bounds, search

UNREAD = "facet arthropathy with oedema"


def reply_of(line: str, likeness: Likeness | None = None, rest: str = "", **bounds: Any) -> Reply:
    """Return the reply to a line over random studies of which some sites have no image."""
    query = replace(parse_canonical(line), rest=rest)
    segment = random_segment(studies=60, missing=0.08)
    assert query.tree is not None
    found = search(query.tree, [segment], [segment], Bounds(**{"top": 12, **bounds}))
    return Reply(query, "run", ("train",), {}, found, found.answers, likeness)


def words(page: Page, function: str, content: dict[str, Any], *more: Any) -> str:
    told: str = page.evaluate(
        "async ([name, ...given]) => (await import('/words.js'))[name](...given)", [function, content, *more]
    )
    return told


def plain(text: str) -> str:
    """Return the letters and digits of a text: the page's sentences and the terminal's columns are set differently."""
    return re.sub(r"[^a-z0-9.]+", " ", text.lower()).strip(" .")


@pytest.mark.parametrize(("highest", "needed"), [(0.412, 0.377), (0.3124, 0.3771)])
def test_likeness_is_told_as_on_the_command_line(page: Page, highest: float, needed: float) -> None:
    reply = reply_of("any(canal) = severe", Likeness("oedema", highest, needed), "oedema")
    told = plain(words(page, "restWords", reply_json(reply), True))
    assert told in plain(reply_text(reply)) and "oedema" in told and f"{needed:.3f}" in told


def test_images_of_another_kind_are_told_on_the_card_and_of_the_study(page: Page) -> None:
    """The terminal names the same answers; random segments have atypical studies and others."""
    reply = reply_of("any(canal) = severe", top=60, least=0.0)
    content = reply_json(reply)
    told = {one["rank"] for one in content["answers"] if words(page, "typicalityWords", one)}
    [line] = [one for one in reply_text(reply).splitlines() if one.startswith("atypical")]
    assert told == {int(rank) for rank in re.findall(r"\d+(?=[,:])", line)} and 0 < len(told) < len(content["answers"])
    assert words(page, "typicalityWords", {"typicality": None}) == ""
    said = words(page, "typicalityWords", {"typicality": 0.024})
    assert said == "atypical images (typicality 0.024): the probabilities may be wrong"
    facts = page.evaluate(
        """async (answer) => {
            const { card } = await import("/answers.js");
            return card(answer, { showTruth: false, session: { isOpen: false }, open: () => null }).textContent;
        }""",
        {**content["answers"][0], "typicality": 0.024},
    )
    assert said in facts


@pytest.mark.parametrize(
    ("line", "likeness", "change"),
    [
        ("any(canal) = severe", None, {"answers": ()}),
        ("any(canal) = severe", Likeness("x", 0.1, 0.3), {"answers": (), "found": None}),
        ("any(canal) = severe", None, {"answers": (), "found": None}),
    ],
)
def test_why_there_is_no_answer_is_told(
    page: Page, line: str, likeness: Likeness | None, change: dict[str, Any]
) -> None:
    reply = replace(reply_of(line, likeness), **change)
    told = plain(words(page, "whyNone", reply_json(reply)))
    [why] = [one for one in reply_text(reply).splitlines() if one.startswith("no answers")]
    shared = set(told.split()) & set(plain(why).split())
    assert len(shared) >= 0.6 * len(set(told.split())), (told, why)


def test_what_cannot_be_told_is_folded_with_its_counts(page: Page) -> None:
    reply = reply_json(reply_of("any(canal, L4-L5, L5-S1) = severe", top=40, least=0.0))
    answers = reply["answers"]
    counts = {
        "cannot-tell": sum(answer["by_sets"] is None for answer in answers),
        "does-not-match": sum(answer["by_sets"] is False for answer in answers),
        "not-assessable": len(reply["not_assessable"]),
    }
    assert all(counts.values()), counts
    found = page.evaluate(
        """async (reply) => {
            const { showFolds } = await import("/folds.js");
            const root = document.createElement("div");
            showFolds(root, reply, () => {});
            return [...root.children].map((one) => [one.id, one.open, one.firstChild.textContent,
                [...one.querySelectorAll("li")].map((item) => item.textContent)]);
        }""",
        reply,
    )
    assert [name for name, *_ in found] == list(counts)
    for name, is_open, summary, items in found:
        assert not is_open and summary.startswith(f"{counts[name]} ") and len(items) == counts[name]
    assert found[0][3][0] == next(f"{a['rank']}. study {a['study_id']}" for a in answers if a["by_sets"] is None)
    first = reply["not_assessable"][0]
    assert found[2][3][0].startswith(f"study {first['study_id']} (train): ")
    assert found[2][3][0].count("spinal canal stenosis") == len(first["missing"])


def test_probabilities_are_never_rounded_to_certainty(page: Page) -> None:
    told = [words(page, "percent", p) for p in (0, 0.0004, 0.02, 0.5, 0.994, 0.998, 1)]  # type: ignore[arg-type]
    assert told == ["0 %", "< 0.1 %", "2.0 %", "50 %", "99 %", "> 99 %", "100 %"]
    assert words(page, "chance", {"probability": 0.9999}) == "P > 0.99"
    assert words(page, "chance", {"probability": None, "likeness": None}) == "rank only"


def test_an_answer_that_is_folded_can_be_opened(page: Page) -> None:
    ask(page)
    page.click("#cannot-tell summary")
    button = page.locator("#cannot-tell li button").first
    name = re.sub(r"^\d+\. study ", "", button.inner_text())
    button.click()
    until(page, OPENED)
    assert name in page.inner_text("#study-name")


def test_a_text_that_is_not_read_is_searched_by_likeness(page: Page) -> None:
    page.fill("#text", UNREAD)
    page.press("#text", "Enter")
    page.wait_for_selector("#by-likeness:not([hidden])")
    assert page.inner_text("#problem").startswith(f'"{UNREAD}": nothing that is graded was asked')
    page.click("#by-likeness")
    page.wait_for_selector("#rest:not([hidden])", timeout=120_000)
    assert page.is_hidden("#problem") and page.is_hidden("#by-likeness") and page.is_checked("#likeness")
    reply = page.evaluate(
        "(content) => fetch('api/ask', {method: 'POST', headers: {'Content-Type': 'application/json'}, "
        "body: JSON.stringify(content)}).then((r) => r.json())",
        {"text": UNREAD, "seen": True, "likeness": True, "top": 12},
    )
    told = page.inner_text("#rest")
    assert f"{reply['likeness']['needed']:.3f} is needed" in told
    assert ("cannot tell" in told) is not reply["likeness"]["is_told"]
    assert page.locator("#list li").count() == len(reply["answers"])
    assert "likeness=true" in page.url and "text=facet" in page.url
    page.goto(page.url)
    page.wait_for_selector("#rest:not([hidden])")
    assert page.inner_text("#rest") == told and page.input_value("#text") == UNREAD and page.is_checked("#likeness")
    with page.expect_download() as download:
        page.click("#export")
    text = download.value.path().read_text()
    assert len(text.splitlines()) - 1 == sum(len(answer["sites"]) for answer in reply["answers"])


def test_words_beside_a_finding_are_compared_and_kept_in_the_address(page: Page) -> None:
    page.check("#likeness")
    ask(page, "severe left foraminal narrowing at L4-L5 with oedema")
    assert '"oedema"' in page.inner_text("#rest") and "is needed" in page.inner_text("#rest")
    assert "likeness=true" in page.url and "oedema" in page.url
    page.fill("#line", "any(canal) = severe")
    page.press("#line", "Enter")
    until(page, "!location.search.includes('likeness')")
    assert "line=any" in page.url and page.is_hidden("#rest")


def test_free_words_stay_if_a_chip_is_changed(page: Page) -> None:
    page.check("#likeness")
    ask(page, "severe left foraminal narrowing at L4-L5 with oedema")
    before = page.inner_text("#rest")
    page.select_option("select[aria-label=grades]", label="moderate or severe")
    until(page, "document.getElementById('line').value.includes('>= moderate')")
    assert page.inner_text("#rest") == before and '"oedema"' in before
    assert "words=oedema" in page.url and "likeness=true" in page.url
    page.goto(page.url)
    page.wait_for_selector("#rest:not([hidden])")
    assert page.inner_text("#rest") == before


def test_that_all_was_read_is_told(page: Page) -> None:
    page.check("#likeness")
    ask(page)
    assert page.inner_text("#rest") == "All words were read: none is left to compare with the images."
