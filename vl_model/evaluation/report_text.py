"""The metrics of a report as lines for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = (("score", 7), ("spinal", 9), ("foraminal", 11), ("subarticular", 14), ("any_severe", 12))


def report_text(report: Mapping[str, Any]) -> str:
    """Return the metric and its parts: of the best constant, the plain baseline, both heads, and the comparison.

    The plain baseline and the comparison are left out of a report that has none.
    """
    n = report["n"]
    lines = [
        f"{n['studies']} held-out studies, {n['rows']} graded sites; lower is better, 95 % interval over studies",
        f"{'':34s}" + "".join(f"{name.replace('_', ' '):>{width}}" for name, width in _COLUMNS),
        f"{'constant':34s}{metric_line(report['constant_baseline'])}",
    ]
    baseline = report.get("plain_baseline")
    blocks = {"plain_baseline": baseline["metric"]} if baseline else {}
    for name, kinds in (blocks | report["metric"]).items():
        block = kinds["metric_optimal"]
        lines.append(f"{name.replace('_', ' '):14s}{_interval(block['interval']['score']):20s}{metric_line(block)}")
    if missing := missing_parts(report):
        lines.append(f"no score, because the held-out studies have no graded site for {missing}")
    if report["comparison"]:
        run = report["comparison"]["run"]
        for head, block in report["comparison"]["heads"].items():
            score = block["difference"]["score"]
            value, low, high = (_signed(x) for x in (score["value"], *score["interval"]))
            lines.append(f"{head.replace('_', ' ')} minus {run}'s: {value} ({low} to {high})")
    if baseline:
        for head, difference in baseline["heads_minus_baseline"].items():
            lines.append(f"{head.replace('_', ' ')} minus the plain baseline: {differences(difference)}")
        if loss := baseline_loss(report):
            lines.append(loss)
    return "\n".join(lines)


def differences(difference: Mapping[str, Any]) -> str:
    """Return the difference of the score with its interval; if there is no score, those of the parts that there are."""
    parts = [name for name, _ in _COLUMNS[1:] if difference[name]["value"] is not None]
    names = ["score"] if difference["score"]["value"] is not None or not parts else parts
    texts = []
    for name in names:
        value, low, high = (_signed(x) for x in (difference[name]["value"], *difference[name]["interval"]))
        texts.append(f"{'' if name == 'score' else name.replace('_', ' ') + ' '}{value} ({low} to {high})")
    return "; ".join(texts)


def baseline_loss(report: Mapping[str, Any]) -> str:
    """Return a sentence that says where the head of the submission is worse than the plain baseline.

    The text is empty if that is nowhere. Each part counts, and the score if there is one. A difference whose interval
    contains zero is called not certain.
    """
    difference = report["plain_baseline"]["heads_minus_baseline"][report["head"]]
    worse = [name for name, _ in _COLUMNS if (difference[name]["value"] or 0.0) > 0]
    if not worse:
        return ""
    words = [_worse_by(name, difference[name]) for name in worse]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    better_score = (difference["score"]["value"] or 0.0) < 0
    though = ", though its whole score is better" if better_score else ""
    return f"The {report['head'].replace('_', ' ')} loses to the plain baseline {listed}{though}."


def _worse_by(name: str, difference: Mapping[str, Any]) -> str:
    value, low, high = (_signed(x) for x in (difference["value"], *difference["interval"]))
    part = "in the whole score" if name == "score" else f"in {name.replace('_', ' ')}"
    certain = difference["interval"][0] is not None and difference["interval"][0] > 0
    return f"{part} by {value.lstrip('+')} ({low} to {high}{'' if certain else ', not certain'})"


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
