"""The metrics of a report as lines for the terminal.

If the held-out studies grade some conditions only, the score of the whole metric does not exist. The measure is then
the mean of the graded parts, and the columns are those of the graded parts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_PARTS = (("spinal", 9), ("foraminal", 11), ("subarticular", 14), ("any_severe", 12))
_SCORE, _MEAN = ("score", 7), ("graded_parts", 7)
#: The names of heads, and of what they are compared with, in what people read.
HEAD_WORDS = {"zero_shot": "prompt head", "linear_probe": "linear probe", "plain_baseline": "plain baseline"}
_HEADINGS = {"graded_parts": "mean", "any_severe": "any severe"}


def report_text(report: Mapping[str, Any]) -> str:
    """Return the metric and its parts: of the best constant, the plain baseline, both heads, and the comparison.

    The plain baseline and the comparison are left out of a report that has none.
    """
    n, constant = report["n"], report["constant_baseline"]
    lines = [
        f"{n['studies']} held-out studies, {n['rows']} graded sites; lower is better, 95 % interval over studies",
        heading_line(constant),
        f"{'constant':34s}{metric_line(constant)}",
    ]
    baseline = report.get("plain_baseline")
    blocks = {"plain_baseline": baseline["metric"]} if baseline else {}
    for name, kinds in (blocks | report["metric"]).items():
        block = kinds["metric_optimal"]
        interval = _interval(block["interval"][measure(block)])
        lines.append(f"{HEAD_WORDS[name]:14s}{interval:20s}{metric_line(block)}")
    lines += places_lines(report)
    lines += head_lines(report)
    lines += calibration_lines(report)
    if choice := chosen_here(report):
        lines.append(choice)
    if missing_parts(constant):
        lines.append(no_score(constant))
    if report["comparison"]:
        run = report["comparison"]["run"]
        for head, block in report["comparison"]["heads"].items():
            difference = block["difference"]
            found = difference["score" if difference["score"]["value"] is not None else "graded_parts"]
            value, low, high = (_signed(x) for x in (found["value"], *found["interval"]))
            lines.append(f"{HEAD_WORDS[head]} minus {run}'s: {value} ({low} to {high})")
    if baseline:
        for head, difference in baseline["heads_minus_baseline"].items():
            lines.append(f"{HEAD_WORDS[head]} minus the plain baseline: {differences(difference)}")
        if loss := baseline_loss(report):
            lines.append(loss)
    return "\n".join(lines)


def places_lines(report: Mapping[str, Any]) -> list[str]:
    """Return each head's metric at places as in use, and its ratio to that at marks; or why they are not known.

    There is no line if the report is of an earlier version, or no held-out study has marks.
    """
    places = report.get("places")
    if not places:
        return []
    if places["reason"]:
        return [f"places as in use: not measured ({places['reason']})"]
    lines = []
    for head, kinds in places["located"].items():
        block, name = kinds["metric_optimal"], f"{HEAD_WORDS[head]}, located"
        ratio = places["ratio"][head][measure(block)]
        low, high = ratio["interval"]
        lines.append(f"{name:34s}{metric_line(block)}   {ratio['value']:.3f} of marks' ({low:.3f} to {high:.3f})")
    return lines


def head_lines(report: Mapping[str, Any]) -> list[str]:
    """Return what is measured of each head without calibrators, and the range of the prompt head over its wordings.

    There is no line if the report is of an earlier version.
    """
    if "by_rule" not in report:
        return []
    lines = []
    for head, block in report["by_rule"].items():
        name = f"{HEAD_WORDS[head]}, raw by Bayes' rule"
        lines.append(f"{name:34s}{metric_line(block)}")
    if values := [block[measure(block)] for block in report["wordings"]]:
        lines.append(f"prompt head, single wordings by Bayes' rule: {min(values):.3f} to {max(values):.3f}")
    return lines


def calibration_lines(report: Mapping[str, Any]) -> list[str]:
    """Return each head's calibration error beside its floor; no line if the report is of an earlier version."""
    return [
        f"{HEAD_WORDS[head]}, calibrated: ECE {error_and_floor(kinds['calibrated'])}"
        for head, kinds in report.get("calibration", {}).items()
    ]


def error_and_floor(block: Mapping[str, Any]) -> str:
    """Return the ECE of a block of `scoring.calibration_content`, beside what perfect probabilities would show."""
    floor = block["ece_floor"]
    return (
        f"{block['ece']:.3f} (perfect probabilities would show {floor['mean']:.3f}, and 95 % of them at most "
        f"{floor['high']:.3f})"
    )


def chosen_here(report: Mapping[str, Any]) -> str:
    """Return that `auto` chose the head by the same studies; an empty text if a person chose it, or nobody knows."""
    if report.get("settings", {}).get("head") != "auto":
        return ""
    return (
        f"The {HEAD_WORDS[report['head']]} makes the submission because it is the better head on these very studies: "
        "its figures are slightly too good."
    )


def always_words(level: int, always: Mapping[str, Sequence[str]]) -> str:
    """Return which grades are in every set of a level because too few sites have them; an empty text if none are.

    >>> always_words(95, {"spinal_canal_stenosis": ["severe"], "subarticular_stenosis": []})
    'In every 95 % set, for want of graded sites: severe (spinal canal stenosis).'
    """
    named = [
        f"{' and '.join(grades).replace('_', ' or ')} ({condition.replace('_', ' ')})"
        for condition, grades in always.items()
        if grades
    ]
    return f"In every {level} % set, for want of graded sites: {', '.join(named)}." if named else ""


def percent(share: float) -> str:
    """Return a share in whole percent; what is not quite all or nothing is not called so.

    >>> percent(0.996), percent(1.0), percent(0.004), percent(0.0), percent(0.42)
    ('> 99 %', '100 %', '< 1 %', '0 %', '42 %')
    """
    words = f"{100 * share:.0f} %"
    if share < 1 and words == "100 %":
        return "> 99 %"
    return "< 1 %" if share > 0 and words == "0 %" else words


def differences(difference: Mapping[str, Any]) -> str:
    """Return the difference of the score with its interval; if there is no score, those of the parts that there are."""
    parts = [name for name, _ in _PARTS if difference[name]["value"] is not None]
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
    worse = [name for name in ("score", *(part for part, _ in _PARTS)) if (difference[name]["value"] or 0.0) > 0]
    if not worse:
        return ""
    words = [_worse_by(name, difference[name]) for name in worse]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    better_score = (difference["score"]["value"] or 0.0) < 0
    though = ", though its whole score is better" if better_score else ""
    return f"The {HEAD_WORDS[report['head']]} loses to the plain baseline {listed}{though}."


def _worse_by(name: str, difference: Mapping[str, Any]) -> str:
    value, low, high = (_signed(x) for x in (difference["value"], *difference["interval"]))
    part = "in the whole score" if name == "score" else f"in {name.replace('_', ' ')}"
    certain = difference["interval"][0] is not None and difference["interval"][0] > 0
    return f"{part} by {value.lstrip('+')} ({low} to {high}{'' if certain else ', not certain'})"


def heading_line(metric: Mapping[str, Any]) -> str:
    """Return the headings of `metric_line`'s columns."""
    return f"{'':34s}" + "".join(f"{_HEADINGS.get(name, name):>{width}}" for name, width in _columns(metric))


def metric_line(metric: Mapping[str, Any]) -> str:
    """Return the measure and the graded parts in columns."""
    return "".join(f"{metric[name]:>{width}.3f}" for name, width in _columns(metric))


def measure(metric: Mapping[str, Any]) -> str:
    """Return the name of the number that says how good a metric is: the score or, without one, the graded parts."""
    return "score" if metric["score"] is not None else "graded_parts"


def graded_parts(metric: Mapping[str, Any]) -> list[str]:
    """Return the parts of the metric that have a graded site."""
    return [name for name, _ in _PARTS if metric[name] is not None]


def missing_parts(metric: Mapping[str, Any]) -> list[str]:
    """Return the parts of the metric that have no graded site."""
    return [name for name, _ in _PARTS if metric[name] is None]


def in_words(parts: Sequence[str]) -> str:
    """Return the names of parts in words: a, b and c."""
    *first, last = (part.replace("_", " ") for part in parts)
    return f"{', '.join(first)} and {last}" if first else last


def no_score(metric: Mapping[str, Any]) -> str:
    """Return why there is no score of the whole metric."""
    mean = "; mean: of the graded parts" if len(graded_parts(metric)) > 1 else ""
    return f"no score of the whole metric, because there is no graded site for {in_words(missing_parts(metric))}{mean}"


def _columns(metric: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the columns of a table: of the score and all parts, or of the graded parts and, if several, their mean."""
    parts = [part for part in _PARTS if metric[part[0]] is not None]
    if len(parts) == len(_PARTS):
        return [_SCORE, *parts]
    return [_MEAN, *parts] if len(parts) > 1 else parts


def _interval(bounds: Sequence[float | None]) -> str:
    """Return an interval in 20 columns; words if there is none."""
    low, high = bounds
    return "    no interval" if low is None or high is None else f"{low:>8.3f} to {high:<8.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
