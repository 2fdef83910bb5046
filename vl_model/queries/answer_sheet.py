"""Images of the answers to a query: their crops, and one sheet that shows all of them.

A box is (x0, y0, x1, y1) in (column, row) pixels, counted from the centre of the first pixel.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data_prep.sites import Severity
from prompts.render import SEVERITY_WORDS
from vl_model.queries.answers import Reply, Truth, ranking_words
from vl_model.queries.index import Answer
from workspace.whole_files import replacing

#: (rows, columns)
SliceImage = NDArray[np.uint8]

#: The sheet shows at most this many answers; all others are in the table and among the crops.
SHEET_ANSWERS = 10
SHEET = "answers.png"

_INK, _MUTED, _FAINT, _BOX = "#1c2430", "#6b7685", "#e8ebef", "#ffd23f"
_COLOURS = {Severity.NORMAL_MILD: "#5b9a8b", Severity.MODERATE: "#e3a33b", Severity.SEVERE: "#c8473f"}
_WIDTH, _ROW, _HEAD, _FOOT, _MARGIN = 9.6, 2.0, 0.95, 0.35, 0.3  # inches
_PIXELS_PER_INCH = 150
_ENLARGED = 384  # pixels on a saved crop's longer side


def save_answers(reply: Reply, processed: Mapping[str, Path], folder: Path) -> dict[int, tuple[Path, Path]]:
    """Write the crops and the sheet of all answers.

    Args:
        reply: the answers, with the truth if it is known.
        processed: split -> its ``processed_data`` folder.
        folder: where the files are written.

    Returns:
        rank -> the files of that answer.
    """
    images = [read_slice(processed[answer.split], answer) for answer in reply.answers]
    saved = save_crops(reply.answers, images, folder)
    understood = reply.query.words or "nothing that is graded"
    subtitle = f"understood: {understood}   ·   ranked by {ranking_words(reply.query)}"
    save_sheet(folder / SHEET, reply.query.text, subtitle, reply.answers, images, reply.truth)
    return {answer.rank: paths for answer, paths in zip(reply.answers, saved, strict=True)}


def save_crops(answers: Sequence[Answer], images: Sequence[SliceImage], folder: Path) -> list[tuple[Path, Path]]:
    """Write two PNGs per answer to `folder`: the slice with the box, and the enlarged content of the box."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for answer, image in zip(answers, images, strict=True):
        name = f"{answer.rank:02d}_{answer.study_id}_{answer.site.key}"
        paths = folder / f"{name}_slice.png", folder / f"{name}_crop.png"
        _save(_with_box(image, answer), paths[0])
        _save(_enlarged(Image.fromarray(cut_box(image, answer.box))), paths[1])
        saved.append(paths)
    return saved


def read_slice(processed: Path, answer: Answer) -> SliceImage:
    """Return an answer's slice. Raises ValueError if its PNG does not exist or is not within `processed`."""
    path = (processed / answer.image).resolve()
    if not path.is_relative_to(processed.resolve()):
        raise ValueError(f"image {answer.image!r}: lies outside {processed}; run prepare_data.py again")
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("L"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}); run prepare_data.py again") from None


def cut_box(image: SliceImage, box: tuple[float, float, float, float]) -> SliceImage:
    """Return the pixels whose centres lie in the box, at least one."""
    rows, columns = image.shape
    x0, y0, x1, y1 = box
    left, right = _span(x0, x1, columns)
    upper, lower = _span(y0, y1, rows)
    return image[upper:lower, left:right]


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    first = int(np.clip(np.ceil(low), 0, size - 1))
    return first, int(np.clip(np.floor(high) + 1, first + 1, size))


def _with_box(image: SliceImage, answer: Answer) -> Image.Image:
    drawn = Image.fromarray(image).convert("RGB")
    ImageDraw.Draw(drawn).rectangle(answer.box, outline=_BOX, width=max(1, round(max(drawn.size) / 250)))
    return drawn


def _enlarged(image: Image.Image) -> Image.Image:
    scale = max(1.0, _ENLARGED / max(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as partial:
        image.save(partial, format="PNG")


def save_sheet(
    path: Path,
    title: str,
    subtitle: str,
    answers: Sequence[Answer],
    images: Sequence[SliceImage],
    truth: Truth | None = None,
) -> None:
    """Draw the first `SHEET_ANSWERS` answers: slice with box, enlarged crop, probabilities, known grade.

    `images` are the slices of `answers`; `truth` is None if no grades are known.
    """
    shown = list(zip(answers, images, strict=True))[:SHEET_ANSWERS]
    height = _HEAD + _ROW * len(shown) + _FOOT
    sheet = Figure(figsize=(_WIDTH, height), dpi=_PIXELS_PER_INCH, facecolor="white")
    _draw_head(sheet, height, title, subtitle)
    for position, (answer, image) in enumerate(shown):
        _draw_row(sheet, height, height - _HEAD - _ROW * (position + 1), answer, image, truth)
    footer = "Research use only, not a medical device.  Yellow: the region that the probabilities belong to."
    sheet.text(_MARGIN / _WIDTH, 0.14 / height, footer, fontsize=7.5, color=_MUTED)
    with replacing(path) as partial, warnings.catch_warnings():
        # The text may be in a script that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        sheet.savefig(partial, format="png")


def _draw_head(sheet: Figure, height: float, title: str, subtitle: str) -> None:
    x = _MARGIN / _WIDTH
    sheet.text(
        x, 1 - 0.42 / height, f"“{_shortened(title, 70)}”", fontsize=16, color=_INK, weight="bold", parse_math=False
    )
    sheet.text(x, 1 - 0.70 / height, _shortened(subtitle, 125), fontsize=9, color=_MUTED, parse_math=False)


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"


def _draw_row(
    sheet: Figure, height: float, bottom: float, answer: Answer, image: SliceImage, truth: Truth | None
) -> None:
    """Draw one answer, `bottom` inches above the sheet's lower edge."""
    size = _ROW - 0.2

    def panel(left: float, width: float) -> Axes:
        axes = sheet.add_axes((left / _WIDTH, (bottom + 0.1) / height, width / _WIDTH, size / height))
        axes.set_axis_off()
        return axes

    _draw_slice(panel(_MARGIN, size), answer, image)
    _draw_crop(panel(_MARGIN + size + 0.1, size), answer, image)
    left = _MARGIN + 2 * size + 0.35
    _draw_words(panel(left, _WIDTH - _MARGIN - left), _WIDTH - _MARGIN - left, size, answer, truth)


def _draw_slice(axes: Axes, answer: Answer, image: SliceImage) -> None:
    # A black background fills the panel, so that panels line up for every shape of image.
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, color="black", linewidth=0, zorder=0))
    rows, columns = image.shape
    side = max(rows, columns)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased", zorder=1)
    axes.set_xlim((columns - side) / 2 - 0.5, (columns + side) / 2 - 0.5)
    axes.set_ylim((rows + side) / 2 - 0.5, (rows - side) / 2 - 0.5)
    x0, y0, x1, y1 = answer.box
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=_BOX, linewidth=1.3, zorder=2))


def _draw_crop(axes: Axes, answer: Answer, image: SliceImage) -> None:
    axes.imshow(cut_box(image, answer.box), cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    rows, columns = cut_box(image, answer.box).shape
    frame = Rectangle((-0.5, -0.5), columns, rows, fill=False, edgecolor=_BOX, linewidth=2.2)
    axes.add_patch(frame)


def _draw_words(axes: Axes, width: float, height: float, answer: Answer, truth: Truth | None) -> None:
    """Draw site, evidence, probabilities and known grade; coordinates are inches from the upper left corner."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.text(0, 0.2, f"{answer.rank}", fontsize=15, color=_MUTED, weight="bold", va="center")
    axes.text(0.35, 0.2, _capital(answer.site.words), fontsize=11.5, color=_INK, weight="bold", va="center")
    line = f"study {answer.study_id}  ·  {answer.view.words}  ·  series {answer.series_id}"
    axes.text(0.35, 0.43, line, fontsize=7.5, color=_MUTED, va="center")
    line = f"slice {answer.instance_number}  ·  position {answer.source}"
    line += f"  ·  likeness {answer.likeness:+.3f}" if answer.likeness is not None else ""
    line += "  ·  training study: optimistic" if answer.in_training else ""
    axes.text(0.35, 0.6, line, fontsize=7.5, color=_MUTED, va="center")
    known = None if truth is None else truth.get((answer.study_id, answer.site))
    for row, severity in enumerate(sorted(Severity, reverse=True)):
        _draw_bar(axes, 0.35, 0.88 + 0.25 * row, width - 0.35, severity, answer.probabilities[severity])
    if truth is not None:
        _draw_truth(axes, 0.35, 1.66, known)


def _draw_bar(axes: Axes, x: float, y: float, width: float, severity: Severity, probability: float) -> None:
    label, number = 0.95, 0.5
    length = width - label - number
    axes.text(x, y, SEVERITY_WORDS[severity], fontsize=8.5, color=_INK, va="center")
    axes.add_patch(Rectangle((x + label, y - 0.065), length, 0.13, color=_FAINT, linewidth=0))
    axes.add_patch(Rectangle((x + label, y - 0.065), length * probability, 0.13, color=_COLOURS[severity], linewidth=0))
    axes.text(x + width, y, f"{probability:.1%}", fontsize=8.5, color=_INK, va="center", ha="right")


def _draw_truth(axes: Axes, x: float, y: float, known: Severity | None) -> None:
    colour = _MUTED if known is None else _COLOURS[known]
    words = "truth: unknown" if known is None else f"truth: {SEVERITY_WORDS[known]}"
    width = 0.095 * len(words) * 0.72 + 0.16
    chip = FancyBboxPatch(
        (x + 0.04, y - 0.07), width - 0.08, 0.14, boxstyle="round,pad=0.04", facecolor=colour, edgecolor="none"
    )
    axes.add_patch(chip)
    axes.text(x + width / 2, y, words, fontsize=8, color="white", weight="bold", va="center", ha="center")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
