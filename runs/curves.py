"""``training.png``: a run's loss, logit scale and held-out terms against its steps."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workspace.whole_files import replacing

BLUE, ORANGE, GREY = "#3b7dd8", "#d9822b", "#8a8f98"
#: The smoothed loss averages over this share of the steps so far.
SMOOTHING = 0.05


def write_training_curves(metrics: Path, target: Path) -> None:
    """Draw the curves of ``metrics.csv`` into the file `target`, which is replaced by rename when it is complete."""
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    step_S = np.array([int(row["step"]) for row in rows])
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    loss, scale, held_out = figure.subplots(1, 3)
    _draw_loss(loss, step_S, _column(rows, "loss"))
    scale.plot(step_S, _column(rows, "logit_scale"), color=BLUE, linewidth=1.2)
    scale.set_title("logit scale")
    _draw_held_out(held_out, step_S, rows)
    for axes in (loss, scale, held_out):
        axes.set_xlabel("step")
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(target) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})


def _column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    """Return one column as float64 of shape (S,), with NaN at steps that have no value."""
    return np.array([float(row.get(name) or "nan") for row in rows])


def _draw_loss(axes: Axes, step_S: np.ndarray, loss_S: np.ndarray) -> None:
    width = max(1, round(SMOOTHING * len(loss_S)))
    axes.plot(step_S, loss_S, color=GREY, linewidth=0.7, alpha=0.6)
    smooth = np.convolve(loss_S, np.full(width, 1 / width), mode="valid")
    axes.plot(step_S[width - 1 :], smooth, color=BLUE, linewidth=1.4)
    axes.set_title(f"training loss, and its mean over {width} step{'s' if width > 1 else ''}")


def _draw_held_out(axes: Axes, step_S: np.ndarray, rows: list[dict[str, str]]) -> None:
    for name, colour in (("held_out_caption", BLUE), ("held_out_severity", ORANGE)):
        value_S = _column(rows, name)
        known_S = np.isfinite(value_S)
        label = "all captions" if name.endswith("caption") else "own severities"
        axes.plot(step_S[known_S], value_S[known_S], "o-", color=colour, linewidth=1.2, markersize=3, label=label)
    axes.set_title("held-out cross-entropy")
    axes.legend(frameon=False, fontsize=8)
