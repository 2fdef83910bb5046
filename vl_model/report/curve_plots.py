"""The report's curves as SVG text: ROC and precision-recall by condition, and the answers about whole studies."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_prep.sites import Condition
from vl_model.report.plots import BLUE, GREY, ORANGE, STYLE, svg_of
from vl_model.scoring.calibration_content import CUT_WORDS

Json = Mapping[str, Any]
_QUESTION_WORDS = {"any_severe_canal": "any severe canal stenosis", "any_severe": "any severe finding"}
_CUT_COLOURS = {"at_least_moderate": ORANGE, "severe": BLUE}
_DASHES = (0, (4, 3))


def question_words(question: str, block: Json | None = None) -> str:
    """Return a question in words; of a cohort that grades some of its conditions, they are named.

    >>> question_words("any_severe", {"conditions": ["neural_foraminal_narrowing"]})
    'any severe neural foraminal narrowing'
    """
    if question == "any_severe" and block and len(block["conditions"]) < len(Condition):
        return f"any severe {' or '.join(block['conditions']).replace('_', ' ')}"
    return _QUESTION_WORDS[question]


def rank_plot(curves: Json) -> str:
    """Plot the ROC curve (above) and the precision-recall curve (below) of each condition and cut."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        panels = figure.subplots(2, len(curves), sharey=True, squeeze=False)
        for column, (condition, cuts) in enumerate(curves.items()):
            above, below = panels[:, column]
            above.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=_DASHES)
            for cut, block in cuts.items():
                colour = _CUT_COLOURS[cut]
                above.plot(*block["roc"].values(), color=colour, linewidth=1.4, label=CUT_WORDS[cut])
                below.plot(*block["precision_recall"].values(), color=colour, linewidth=1.4)
                below.axhline(block["events"], color=colour, linewidth=0.8, linestyle=_DASHES)
            above.set_title(condition.replace("_", " "), fontsize=9)
            for axes, label in ((above, "1 - specificity"), (below, "sensitivity (recall)")):
                _unit_square(axes)
                axes.set_xlabel(label)
        panels[0][0].set_ylabel("sensitivity")
        panels[1][0].set_ylabel("precision")
        panels[0][0].legend(loc="lower right", fontsize=8, borderpad=0)
        return svg_of(figure, "ROC and precision-recall curves")


def answer_plot(answers: Json) -> str:
    """Plot each question in a row: ROC curve, reliability diagram and decision curve."""
    asked = {question: block for question, block in answers.items() if block and 0 < block["events"] < block["studies"]}
    if not asked:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.7 * len(asked)), layout="constrained")
        panels = figure.subplots(len(asked), 3, squeeze=False)
        for row, (question, block) in zip(panels, asked.items(), strict=True):
            _roc(row[0], block)
            _reliability(row[1], block["reliability"])
            _decision(row[2], block)
            row[0].set_title(question_words(question, block), fontsize=9, loc="left")
            row[0].set_ylabel("sensitivity")
        panels[0][2].legend(loc="upper right", fontsize=8, borderpad=0)
        return svg_of(figure, "Answers about whole studies")


def _roc(axes: Axes, block: Json) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=_DASHES)
    axes.plot(*block["roc"].values(), color=BLUE, linewidth=1.4)
    _unit_square(axes)
    axes.set_xlabel("1 - specificity")


def _reliability(axes: Axes, bins: Json) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=_DASHES)
    confidence, frequency, count = (np.array(bins[key]) for key in ("confidence", "frequency", "count"))
    low, high = np.array(bins["interval"]).T
    axes.vlines(confidence, low, high, color=BLUE, linewidth=0.8, alpha=0.6)
    axes.plot(confidence, frequency, color=BLUE, linewidth=1.1)
    axes.scatter(confidence, frequency, s=10 + 90 * count / count.sum(), color=BLUE, linewidths=0)
    _unit_square(axes)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share with the finding")


def _decision(axes: Axes, block: Json) -> None:
    curve, share = block["decision_curve"], block["prevalence"]
    threshold = np.array(curve["threshold"])
    axes.plot(threshold, curve["net_benefit"], color=BLUE, linewidth=1.4, label="by probability")
    axes.plot(threshold, curve["all"], color=ORANGE, linewidth=1.0, label="all")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=_DASHES, label="none")
    axes.set(
        xlim=(0, float(threshold[-1])), ylim=(-0.15 * share, 1.1 * share), xlabel="threshold", ylabel="net benefit"
    )


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
