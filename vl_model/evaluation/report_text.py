"""The metrics of a report as lines for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = (("score", 7), ("spinal", 9), ("foraminal", 11), ("subarticular", 14), ("any_severe", 12))


def report_text(report: Mapping[str, Any]) -> str:
    """Return the metric and its parts: of the best constant, of both heads, and of the comparison if there is one."""
    n = report["n"]
    lines = [
        f"{n['studies']} held-out studies, {n['rows']} graded sites; lower is better, 95 % interval over studies",
        f"{'':34s}" + "".join(f"{name.replace('_', ' '):>{width}}" for name, width in _COLUMNS),
        f"{'constant':34s}{metric_line(report['constant_baseline'])}",
    ]
    for head, kinds in report["metric"].items():
        block = kinds["metric_optimal"]
        lines.append(f"{head.replace('_', ' '):14s}{_interval(block['interval']['score']):20s}{metric_line(block)}")
    if missing := missing_parts(report):
        lines.append(f"no score, because the held-out studies have no graded site for {missing}")
    if report["comparison"]:
        run = report["comparison"]["run"]
        for head, block in report["comparison"]["heads"].items():
            score = block["difference"]["score"]
            value, low, high = (_signed(x) for x in (score["value"], *score["interval"]))
            lines.append(f"{head.replace('_', ' ')} minus {run}'s: {value} ({low} to {high})")
    return "\n".join(lines)


def metric_line(metric: Mapping[str, Any]) -> str:
    """Return the score and its parts in columns; a dash for a part without a labelled row."""
    return "".join(
        f"{'-' if metric[name] is None else format(metric[name], '.3f'):>{width}}" for name, width in _COLUMNS
    )


def missing_parts(report: Mapping[str, Any]) -> str:
    """Return the parts of the metric that have no graded site, in words; an empty text if there are none."""
    names = [name for name, _ in _COLUMNS[1:] if report["constant_baseline"][name] is None]
    return " and ".join(name.replace("_", " ") for name in names)


def _interval(bounds: Sequence[float | None]) -> str:
    """Return an interval in 20 columns; words if there is none, because a part has no labelled row."""
    low, high = bounds
    return "    no interval" if low is None or high is None else f"{low:>8.3f} to {high:<8.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
