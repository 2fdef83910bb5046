"""One picture of the first answers to a query: what was asked, and for each study its slices and probabilities.

All lengths are pixels. Text that is too long for its place is wrapped or shortened, by its measured width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from data_prep.sites import Severity, View
from prompts.render import SEVERITY_WORDS
from vl_model.queries.evidence_picture import BOX_COLOUR, EvidencePicture
from vl_model.queries.picture_marks import mark_font
from vl_model.queries.reply import Reply
from vl_model.queries.reply_text import chance_words
from vl_model.queries.saved_question import printable
from vl_model.queries.search import Answer, SpeakingSite
from workspace.layout import SPLITS

#: The sheet shows at most this many answers; all of them are in the table and have pictures of their own.
SHEET_ANSWERS = 10
#: The answer's rank and the view -> the picture, or None if its PNG cannot be shown. A view that no image shows lacks.
Pictures = Mapping[tuple[int, View], EvidencePicture | None]

_PAPER, _INK, _MUTED, _FAINT, _WARNING = "white", "#1c2430", "#6b7685", "#e8ebef", "#b3261e"
_COLOURS = {Severity.NORMAL_MILD: "#5b9a8b", Severity.MODERATE: "#e3a33b", Severity.SEVERE: "#c8473f"}
_WIDTH, _MARGIN, _PANEL, _GAP, _BETWEEN_VIEWS = 2140, 44, 300, 10, 28
_CAPTION, _BETWEEN_ROWS, _NONE, _FOOT = 30, 34, 80, 56
_VIEW_WIDTH = 2 * _PANEL + _GAP
_WORDS_LEFT = _MARGIN + 2 * _VIEW_WIDTH + _BETWEEN_VIEWS + 40
_ROW = _CAPTION + _PANEL + _BETWEEN_ROWS
#: Sites beside the first that have a line of their own.
_OTHER_SITES = 3


@dataclass(frozen=True)
class _Line:
    """A line of the head: words that are already fitted, their font and colour, and the height that they take."""

    words: str
    font: ImageFont.FreeTypeFont
    colour: str
    height: int


def draw_sheet(reply: Reply, pictures: Pictures) -> Image.Image:
    """Draw the first `SHEET_ANSWERS` answers, each with both views of its first site.

    pictures: of the first sites of these answers.
    """
    shown = reply.answers[:SHEET_ANSWERS]
    head = _head_lines(reply)
    top = _MARGIN + sum(line.height for line in head) + 24
    height = top + (_ROW * len(shown) or _NONE) + _FOOT
    sheet = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    for line in head:
        draw.text((_MARGIN, y), line.words, line.colour, line.font, "la")
        y += line.height
    for number, answer in enumerate(shown):
        _draw_answer(sheet, top + _ROW * number, reply, answer, pictures)
    if not shown:
        draw.text((_MARGIN, top), "no answers", _MUTED, mark_font(26), "la")
    draw.text((_MARGIN, height - _FOOT), _foot_words(reply), _MUTED, mark_font(17), "la")
    return sheet


def _head_lines(reply: Reply) -> list[_Line]:
    """Return the text, how it was read, and how many studies are expected to match."""
    query, line = reply.query, reply.line
    text = " ".join(printable(query.text).split())
    lines = _wrapped_lines(f"“{text}”" if text else line or "", mark_font(34, bold=True), _INK, 2)
    if text and line is not None:
        lines += _wrapped_lines(f"read as: {line}", mark_font(20), _MUTED, 3)
    if query.rest and reply.likeness is None:
        lines += _wrapped_lines(f"not read: “{query.rest}”", mark_font(20), _WARNING, 2)
    if reply.likeness is not None and not reply.likeness.is_told:
        words = f"this model cannot tell “{reply.likeness.words}” from nonsense: these words were not used"
        lines += _wrapped_lines(words, mark_font(20), _WARNING, 2)
    for note in reply.notes:
        lines += _wrapped_lines(f"note: {note}", mark_font(20), _MUTED, 1)
    return lines + _wrapped_lines(_expected_words(reply), mark_font(22, bold=True), _INK, 1)


def _expected_words(reply: Reply) -> str:
    if reply.found is None:
        return "ranked by likeness"
    worth = reply.found.worth
    expected = worth.expected_matches
    if expected is None:
        return "expected matches: not known, because too few held-out studies have known grades"
    span = f"{expected.low:.0f} to {expected.high:.0f}"
    return f"expected matches: {expected.value:.1f} of {worth.searched} studies ({span})"


def _foot_words(reply: Reply) -> str:
    words = "Research use only, not a medical device.   Yellow: the region that the probabilities belong to.   "
    words += "Letters: the patient's right, left, anterior, posterior, superior, inferior."
    if any(len(answer.sites) > 1 for answer in reply.answers[:SHEET_ANSWERS]):
        words += "   Dot: the known grade."
    if len(reply.answers) > SHEET_ANSWERS:
        words += f"   {SHEET_ANSWERS} of {len(reply.answers)} answers."
    return words


def _draw_answer(sheet: Image.Image, top: int, reply: Reply, answer: Answer, pictures: Pictures) -> None:
    first = answer.sites[0] if answer.sites else None
    if first is not None:
        for number, view in enumerate(first.site.views):
            left = _MARGIN + number * (_VIEW_WIDTH + _BETWEEN_VIEWS)
            _draw_view(sheet, left, top, answer, first, view, pictures)
    _draw_words(ImageDraw.Draw(sheet), top, reply, answer)


def _draw_view(
    sheet: Image.Image, left: int, top: int, answer: Answer, speaking: SpeakingSite, view: View, pictures: Pictures
) -> None:
    draw = ImageDraw.Draw(sheet)
    evidence = next((one for one in speaking.evidence if one.view is view), None)
    words = f"{view.words}: no image shows the site"
    if evidence is not None:
        words = f"{view.words}  ·  series {evidence.series_id}, slice {evidence.instance_number}"
        words += f"  ·  place: {evidence.source.value}"
    font = mark_font(17)
    draw.text((left, top + _CAPTION - 9), shortened(words, font, _VIEW_WIDTH), _MUTED, font, "ls")
    y = top + _CAPTION
    picture = pictures.get((answer.rank, view))
    if evidence is None:
        draw.rectangle((left, y, left + _VIEW_WIDTH - 1, y + _PANEL - 1), outline=_FAINT, width=2)
    elif picture is None:
        _draw_missing(draw, left, y, answer)
    else:
        _paste(sheet, picture.whole(_PANEL), left, y)
        crop = picture.crop(_PANEL)
        ImageDraw.Draw(crop).rectangle((0, 0, crop.width - 1, crop.height - 1), outline=BOX_COLOUR, width=3)
        _paste(sheet, crop, left + _PANEL + _GAP, y)


def _paste(sheet: Image.Image, panel: Image.Image, left: int, top: int) -> None:
    """Paste a panel in the middle of a black square, so that panels of all proportions line up."""
    sheet.paste("black", (left, top, left + _PANEL, top + _PANEL))
    sheet.paste(panel, (left + (_PANEL - panel.width) // 2, top + (_PANEL - panel.height) // 2))


def _draw_missing(draw: ImageDraw.ImageDraw, left: int, top: int, answer: Answer) -> None:
    draw.rectangle((left, top, left + _VIEW_WIDTH - 1, top + _PANEL - 1), fill="#c9ced6")
    font = mark_font(22)
    lines = wrapped(f"picture missing: run {maker_of(answer.segment)} again", font, _VIEW_WIDTH - 40, 3)
    for number, line in enumerate(lines):
        y = top + _PANEL / 2 + 32 * (number - (len(lines) - 1) / 2)
        draw.text((left + _VIEW_WIDTH / 2, y), line, _INK, font, "mm")


def maker_of(segment: str) -> str:
    """Return the command that writes the pictures of a split or of a kept set."""
    return "prepare_data.py" if segment in SPLITS else f"predict_vl.py --keep {segment} --overwrite"


def _draw_words(draw: ImageDraw.ImageDraw, top: int, reply: Reply, answer: Answer) -> None:
    left, right = _WORDS_LEFT + 54, _WIDTH - _MARGIN
    small, large = mark_font(18), mark_font(25, bold=True)
    y = top + _CAPTION
    draw.text((_WORDS_LEFT, y), str(answer.rank), _MUTED, mark_font(30, bold=True), "la")
    chance = _chance(answer)
    draw.text((right, y + 2), chance, _INK if answer.probability is not None else _MUTED, large, "ra")
    title = _capital(answer.sites[0].site.words) if answer.sites else f"study {answer.study_id}"
    room = right - left - large.getlength(chance) - 24
    title_font = next((font for font in (large, mark_font(21, bold=True)) if font.getlength(title) <= room), None)
    title_font = title_font or mark_font(18, bold=True)
    draw.text((left, y + 26), shortened(title, title_font, room), _INK, title_font, "ls")
    seen = "seen in training: its probabilities are too sure" if answer.seen else "not seen in training"
    line = f"study {answer.study_id}  ·  {answer.segment}  ·  {seen}"
    draw.text((left, y + 42), shortened(printable(line), small, right - left), _MUTED, small, "la")
    if not answer.sites:
        return
    first = answer.sites[0]
    for number, severity in enumerate(sorted(Severity, reverse=True)):
        _draw_bar(draw, left, right, y + 82 + 32 * number, severity, first.probabilities[severity])
    _draw_known(draw, left, y + 178, reply, answer, first)
    _draw_others(draw, left, right, y + 218, reply, answer)


def _chance(answer: Answer) -> str:
    if answer.probability is not None:
        return f"P {chance_words(answer)}"
    return chance_words(answer) if answer.likeness is None else f"likeness {answer.likeness:+.2f}"


def _draw_bar(
    draw: ImageDraw.ImageDraw, left: int, right: int, top: int, severity: Severity, probability: float
) -> None:
    font = mark_font(20)
    start, end, middle = left + 162, right - 84, top + 12
    draw.text((left, middle), SEVERITY_WORDS[severity], _INK, font, "lm")
    draw.rectangle((start, top + 2, end, top + 21), fill=_FAINT)
    if (length := round((end - start) * probability)) > 0:
        draw.rectangle((start, top + 2, start + length, top + 21), fill=_COLOURS[severity])
    draw.text((right, middle), f"{probability:.1%}", _INK, font, "rm")


def _draw_known(
    draw: ImageDraw.ImageDraw, left: int, top: int, reply: Reply, answer: Answer, speaking: SpeakingSite
) -> None:
    """Draw the site's known grade, and whether the study's known grades answer the question."""
    known = reply.known_severity(answer, speaking)
    font = mark_font(18, bold=True)
    words = "grade not known" if known is None else f"known grade: {SEVERITY_WORDS[known]}"
    end = left + round(font.getlength(words)) + 28
    draw.rounded_rectangle((left, top, end, top + 30), 8, fill=_MUTED if known is None else _COLOURS[known])
    draw.text((left + 14, top + 15), words, "white", font, "lm")
    if answer.matches is not None:
        words = "the study matches" if answer.matches else "the study does not match"
        draw.text((end + 18, top + 15), words, _INK if answer.matches else _WARNING, font, "lm")


def _draw_others(draw: ImageDraw.ImageDraw, left: int, right: int, top: int, reply: Reply, answer: Answer) -> None:
    """Draw a line for each further site: its name, its known grade as a dot, and a bar of its three probabilities."""
    others = answer.sites[1:]
    # A last line that only said how many more there are could as well be the one that is left out.
    shown = others if len(others) <= _OTHER_SITES else others[: _OTHER_SITES - 1]
    font = mark_font(17)
    for number, speaking in enumerate(shown):
        y = top + 28 * number
        start, end = right - 320, right - 190
        draw.text((left, y + 14), shortened(_capital(speaking.site.words), font, start - left - 42), _INK, font, "lm")
        known = reply.known_severity(answer, speaking)
        if known is not None:
            draw.ellipse((start - 28, y + 7, start - 14, y + 21), fill=_COLOURS[known])
        _draw_stack(draw, start, end, y + 7, speaking.probabilities)
        best = max(Severity, key=lambda severity: speaking.probabilities[severity])
        draw.text((end + 16, y + 14), f"{SEVERITY_WORDS[best]} {speaking.probabilities[best]:.0%}", _INK, font, "lm")
    if len(shown) < len(others):
        words = f"and {len(others) - len(shown)} more sites"
        draw.text((left, top + 28 * len(shown) + 14), words, _MUTED, font, "lm")


def _draw_stack(
    draw: ImageDraw.ImageDraw, start: int, end: int, top: int, probabilities: tuple[float, float, float]
) -> None:
    ends = [start + round((end - start) * sum(probabilities[:count])) for count in range(len(Severity) + 1)]
    for severity, (low, high) in zip(Severity, pairwise(ends), strict=True):
        if high > low:
            draw.rectangle((low, top, high, top + 14), fill=_COLOURS[severity])


def _wrapped_lines(text: str, font: ImageFont.FreeTypeFont, colour: str, most: int) -> list[_Line]:
    height = round(font.size * 1.4)
    lines = wrapped(printable(text), font, _WIDTH - 2 * _MARGIN, most)
    return [_Line(line, font, colour, height) for line in lines]


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, most: int) -> list[str]:
    """Return the text as at most `most` lines that are not wider than `width`; what is left ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and font.getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        lines.append(shortened(" ".join(words[:taken]), font, width))
        words = words[taken:]
    return [*lines, shortened(" ".join(words), font, width)] if words else lines


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return the text, or as much of its beginning as fits with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def sheet_sites(answers: Sequence[Answer]) -> set[tuple[int, str]]:
    """Return rank and site key of the sites whose pictures the sheet shows."""
    return {(answer.rank, answer.sites[0].site.key) for answer in answers[:SHEET_ANSWERS] if answer.sites}
