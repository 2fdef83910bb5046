"""The report's plots as SVG text, whose colour is that of the page's text, for light and for dark pages.

Each function takes parts of ``report.json`` and returns one ``<svg>`` element.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vl_model.report.report_text import percent
from vl_model.scoring.calibration_content import CUT_WORDS

Json = Mapping[str, Any]

#: A placeholder for the text colour of the page, replaced when the SVG is written.
_INK = "#010203"
BLUE, ORANGE, GREY, VIOLET = "#3b7dd8", "#d9822b", "#8a8f98", "#8b5fbf"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}
PART_WORDS = {
    "score": "score",
    "graded_parts": "mean of graded parts",
    "spinal": "spinal canal",
    "foraminal": "foraminal",
    "subarticular": "subarticular",
    "any_severe": "any severe",
}


def metric_plot(series: Sequence[tuple[str, str, Json]]) -> str:
    """Plot the metric and its parts with intervals: one row per part, one point per (name, colour, metric block).

    Parts without a graded site are left out. The mean of the graded parts stands in for the score if there is none.
    """
    rows = [part for part in PART_WORDS if series[0][2][part] is not None]
    if "score" in rows or len(rows) == 2:  # the mean is then the score, or the only part
        rows.remove("graded_parts")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.9))
        axes = figure.subplots()
        offsets = np.linspace(-0.22, 0.22, len(series))
        for offset, (name, colour, block) in zip(offsets, series, strict=True):
            for row, part in enumerate(rows):
                low, high = block["interval"][part]
                axes.plot([low, high], [row + offset] * 2, color=colour, linewidth=1.6, solid_capstyle="round")
                label = name if row == 0 else None
                axes.plot(block[part], row + offset, "o", color=colour, markersize=5, label=label)
        axes.set_yticks(range(len(rows)), [PART_WORDS[part] for part in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("weighted log loss (lower is better), 95 % interval over studies")
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=len(series), handletextpad=0.2, columnspacing=1.4)
        figure.set_layout_engine("constrained")
        return svg_of(figure, "The metric and its parts with intervals")


def reliability_plot(raw: Json, calibrated: Json) -> str:
    """Plot reliability diagrams: one column per condition, one row per cut; grey is raw, blue is calibrated.

    The area of a point is proportional to its number of sites.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.9), layout="constrained")
        panels = figure.subplots(len(CUT_WORDS), len(calibrated), sharex=True, sharey=True, squeeze=False)
        for column, condition in enumerate(calibrated):
            for row, (cut, words) in enumerate(CUT_WORDS.items()):
                axes = panels[row][column]
                axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
                _curve(axes, raw[condition]["reliability"][cut], GREY, "raw")
                _curve(axes, calibrated[condition]["reliability"][cut], BLUE, "calibrated")
                axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
                if row == 0:
                    axes.set_title(condition.replace("_", " "), fontsize=9)
                if column == 0:
                    axes.set_ylabel(f"share that is\n{words}")
        panels[0][0].legend(loc="upper left", handletextpad=0.4, borderpad=0, fontsize=8)
        figure.supxlabel("predicted probability", fontsize=9)
        return svg_of(figure, "Reliability diagrams")


def confusion_plot(conditions: Json, grades: Sequence[str]) -> str:
    """Plot confusion matrices: true severity in rows, most probable one in columns, shade by share of the row."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.5), layout="constrained")
        panels = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
        for axes, (condition, block) in zip(panels, conditions.items(), strict=True):
            count = np.array(block["confusion"])
            share = count / np.maximum(count.sum(axis=1, keepdims=True), 1)
            for row, column in np.ndindex(count.shape):
                cell = mpl.patches.Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=BLUE, linewidth=0)
                cell.set_alpha(0.06 + 0.74 * share[row, column])
                axes.add_patch(cell)
                axes.text(column, row - 0.09, str(count[row, column]), ha="center", va="center")
                axes.text(column, row + 0.26, percent(share[row, column]), ha="center", va="center", fontsize=7)
            axes.set_xticks(range(len(grades)), grades, fontsize=8)
            axes.set_yticks(range(len(grades)), grades, fontsize=8)
            axes.set(xlim=(-0.5, len(grades) - 0.5), ylim=(len(grades) - 0.5, -0.5), aspect="equal")
            axes.set_title(condition.replace("_", " "), fontsize=9)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel("truth")
        figure.supxlabel("most probable class", fontsize=9)
        return svg_of(figure, "Confusion matrices")


def learning_curve_plot(points: Sequence[Json]) -> str:
    """Plot the metric of probes by the number of their training studies; an empty text if there are fewer than two."""
    name = "score" if all(point["score"] is not None for point in points) else "graded_parts"
    studies = [point["studies"] for point in points]
    if len(set(studies)) < 2:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(studies, [point[name] for point in points], "o-", color=BLUE, linewidth=1.4, markersize=5)
        axes.set_xscale("log", base=2)
        axes.set_xticks(studies, [f"{count:g}" for count in studies])
        axes.minorticks_off()
        axes.set_ylim(0, 1.1 * max(point[name] for point in points))
        axes.set_xlabel("training studies")
        axes.set_ylabel(PART_WORDS[name])
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
        return svg_of(figure, "Learning curve over studies")


def _curve(axes: Axes, bins: Json, colour: str, name: str) -> None:
    """Draw a reliability curve; the whisker of a bin is the 95 % interval of its share, over studies."""
    confidence, frequency, count = (np.array(bins[key]) for key in ("confidence", "frequency", "count"))
    if not len(count):
        return
    low, high = np.array(bins["interval"]).T
    axes.vlines(confidence, low, high, color=colour, linewidth=0.8, alpha=0.6)
    axes.plot(confidence, frequency, color=colour, linewidth=1.1, alpha=0.85, label=name)
    axes.scatter(confidence, frequency, s=10 + 90 * count / count.sum(), color=colour, linewidths=0)


def svg_of(figure: Figure, title: str) -> str:
    """Return the figure as an element of a page: no prolog, no fixed size, the page's text colour and font."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # A page of several plots must not contain metadata, page-wide styles, or an id twice.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1; font-family: inherit", svg)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    return f'<svg role="img" aria-label="{title}" viewBox="{box.group(1)}">{svg[svg.index(">") + 1 :]}'
