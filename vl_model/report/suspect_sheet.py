"""``suspect_labels.png``: the most suspect labels with the images that speak against them, for a person to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray

from data_prep.conversion.crop_geometry import CROP_SLICES
from data_prep.conversion.pairs import Pair
from data_prep.sites import Condition, Severity, Side, Site
from vl_model.data.suspect_labels import SuspectLabel
from workspace.whole_files import replacing

COLUMNS = 2
_INK, _MUTED, _FAINT, _BOX = "#1c2430", "#6b7685", "#e8ebef", "#ffd23f"
_COLOURS = {Severity.NORMAL_MILD: "#5b9a8b", Severity.MODERATE: "#e3a33b", Severity.SEVERE: "#c8473f"}
_GRADES = {Severity.NORMAL_MILD: "normal or mild", Severity.MODERATE: "moderate", Severity.SEVERE: "severe"}
_ANATOMY = {
    Condition.SPINAL_CANAL_STENOSIS: "spinal canal",
    Condition.NEURAL_FORAMINAL_NARROWING: "foramen",
    Condition.SUBARTICULAR_STENOSIS: "lateral recess",
}
_TILE, _WORDS, _GAP, _ROW, _HEAD, _FOOT, _MARGIN = 1.9, 3.0, 0.1, 2.3, 0.95, 0.35, 0.25  # inches
_CELL = 2 * (_TILE + _GAP) + _WORDS + 0.25
_PIXELS_PER_INCH = 120


@dataclass(frozen=True)
class ShownView:
    """One view of a site: its name with the anatomy it shows, and the middle slice of the tile at the site.

    is_axial: the patient's right is at the left edge of the image.
    """

    caption: str
    image: NDArray[np.uint8]
    is_axial: bool


def shown_views(pairs: Sequence[Pair], crops_R3HW: NDArray[np.uint8]) -> list[ShownView]:
    """Return the views of one site, the one that readers mark it in first.

    Right-sided tiles are stored mirrored; axial ones are mirrored back, so that all have the radiological orientation.
    """
    ordered = sorted(pairs, key=lambda pair: pair.site.views.index(pair.view))
    views = []
    for pair in ordered:
        image = crops_R3HW[pair.crop][CROP_SLICES // 2]
        is_axial = not pair.view.is_sagittal
        if pair.site.side is Side.RIGHT and is_axial:
            image = image[:, ::-1]
        views.append(ShownView(f"{pair.view.words}: {anatomy(pair.site)}", image, is_axial))
    return views


def anatomy(site: Site) -> str:
    """Return what a picture of a site shows: ``left foramen at L4-L5``."""
    side = "" if site.side is None else f"{site.side} "
    return f"{side}{_ANATOMY[site.condition]} at {site.level.words}"


def draw_suspect_sheet(
    path: Path, title: str, labels: Sequence[SuspectLabel], views: Sequence[Sequence[ShownView]], tile_share: float
) -> None:
    """Draw suspect labels, two in a row: up to two views, the known grade, and the probabilities.

    Args:
        path: the PNG file.
        title: the line at its head.
        labels: the labels, at least one.
        views: the views of each of them.
        tile_share: the share of a crop's width that the model gets; it is framed.
    """
    rows = -(-len(labels) // COLUMNS)
    width, height = 2 * _MARGIN + COLUMNS * _CELL, _HEAD + _ROW * rows + _FOOT
    sheet = Figure(figsize=(width, height), dpi=_PIXELS_PER_INCH, facecolor="white")
    sheet.text(_MARGIN / width, 1 - 0.4 / height, title, fontsize=15, color=_INK, weight="bold", parse_math=False)
    subtitle = "The known grade is improbable for models that did not learn from these studies. Picture or label?"
    sheet.text(_MARGIN / width, 1 - 0.68 / height, subtitle, fontsize=9, color=_MUTED)
    for place, (label, shown) in enumerate(zip(labels, views, strict=True)):
        left, top = _MARGIN + place % COLUMNS * _CELL, _HEAD + place // COLUMNS * _ROW

        def panel(x: float, y: float, wide: float, high: float, left: float = left, top: float = top) -> Axes:
            box = ((left + x) / width, 1 - (top + y + high) / height, wide / width, high / height)
            axes = sheet.add_axes(box)
            axes.set_axis_off()
            return axes

        for number, view in enumerate(shown[:2]):
            _draw_view(panel(number * (_TILE + _GAP), 0.0, _TILE, _TILE), view, tile_share)
        x = min(len(shown), 2) * (_TILE + _GAP) + 0.1
        _draw_words(panel(x, 0.0, _WORDS, _TILE), label)
    footer = "Research use only, not a medical device.  Yellow: what the model gets.  R: the patient's right."
    sheet.text(_MARGIN / width, 0.14 / height, footer, fontsize=7.5, color=_MUTED)
    with replacing(path) as partial:
        FigureCanvasAgg(sheet).print_png(partial)


def _draw_view(axes: Axes, view: ShownView, tile_share: float) -> None:
    axes.imshow(view.image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    size = view.image.shape[0]
    inner = size * tile_share
    first = (size - inner) / 2 - 0.5
    axes.add_patch(Rectangle((first, first), inner, inner, fill=False, edgecolor=_BOX, linewidth=0.8))
    if view.is_axial:
        on_black = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1.0}
        axes.text(0.02, 0.5, "R", transform=axes.transAxes, fontsize=7, color=_BOX, va="center", bbox=on_black)
    axes.text(0.0, -0.025, view.caption, transform=axes.transAxes, fontsize=6.5, color=_MUTED, va="top")


def _draw_words(axes: Axes, label: SuspectLabel) -> None:
    """Draw site, study, known grade and probabilities; coordinates are inches from the upper left corner."""
    axes.set_xlim(0, _WORDS)
    axes.set_ylim(_TILE, 0)
    axes.text(0, 0.12, f"{label.rank}", fontsize=13, color=_MUTED, weight="bold", va="center")
    title = label.site.words
    axes.text(0.38, 0.12, title[:1].upper() + title[1:], fontsize=8, color=_INK, weight="bold", va="center")
    axes.text(0.38, 0.34, f"study {label.study_id}", fontsize=7.5, color=_MUTED, va="center")
    _draw_known_grade(axes, 0.38, 0.62, label.severity)
    for row, severity in enumerate(sorted(Severity, reverse=True)):
        _draw_bar(axes, 0.38, 0.98 + 0.24 * row, severity, label.probabilities[severity])
    times = np.exp(label.margin)
    words = f"another grade is {f'{times:,.0f}' if times >= 10 else f'{times:.1f}'} times as probable"
    axes.text(0.38, 1.75, words, fontsize=7.5, color=_MUTED, va="center")


def _draw_known_grade(axes: Axes, x: float, y: float, severity: Severity) -> None:
    axes.text(x, y, "known grade", fontsize=7.5, color=_MUTED, va="center")
    words = _GRADES[severity]
    wide = 0.075 * len(words) + 0.1
    chip = FancyBboxPatch(
        (x + 0.8, y - 0.07), wide, 0.14, boxstyle="round,pad=0.03", facecolor=_COLOURS[severity], edgecolor="none"
    )
    axes.add_patch(chip)
    axes.text(x + 0.8 + wide / 2, y, words, fontsize=7.5, color="white", weight="bold", va="center", ha="center")


def _draw_bar(axes: Axes, x: float, y: float, severity: Severity, probability: float) -> None:
    label, number = 0.95, 0.45
    length = _WORDS - x - label - number
    axes.text(x, y, _GRADES[severity], fontsize=7.5, color=_INK, va="center")
    axes.add_patch(Rectangle((x + label, y - 0.06), length, 0.12, color=_FAINT, linewidth=0))
    axes.add_patch(Rectangle((x + label, y - 0.06), length * probability, 0.12, color=_COLOURS[severity], linewidth=0))
    axes.text(_WORDS, y, f"{probability:.1%}", fontsize=7.5, color=_INK, va="center", ha="right")
