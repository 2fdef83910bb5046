"""The score sheet (`vl_model.scoring.score_sheet`) as lines for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.sites import Condition, Level
from vl_model.scoring.calibration_content import CUT_WORDS
from vl_model.scoring.metrics import PARTS

_INDENT = 30
_CUT_INDENT = 48
_NAMED = 5
#: The columns of the table by condition and level: heading, and where the figure is.
_COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("weighted", ("weighted_log_loss",)),
    ("log loss", ("log_loss",)),
    ("Brier", ("brier",)),
    ("AUC moderate+", ("auc", "at_least_moderate")),
    ("AUC severe", ("auc", "severe")),
    ("kappa", ("quadratic_kappa",)),
    ("ECE", ("calibration", "ece")),
    ("floor", ("calibration", "ece_floor", "mean")),
)
_FIGURES = (
    ("log loss, unweighted", ("log_loss",)),
    ("Brier", ("brier",)),
    ("AUC, moderate or severe", ("auc", "at_least_moderate")),
    ("AUC, severe", ("auc", "severe")),
    ("kappa, quadratic", ("quadratic_kappa",)),
    ("log loss, removable", ("calibration", "log_loss_removable")),
)
_EXPLAINED = (
    "Lower is better, but for AUC and kappa. Brackets: 95 % interval, by study; what another training or another seed "
    "would change is not in it.",
    "AUC: mean over conditions. kappa, ECE: of the most probable severity. floor: the ECE that perfect probabilities "
    "would show. log loss, removable: what a recalibration of other studies would remove.",
    "Slope: below 1, probabilities are overconfident. Intercept, at a slope of 1: above 0, they are too low; "
    "probabilities that were made for the metric are too high by design.",
)


def score_text(sheet: Mapping[str, Any]) -> str:
    """Return the score sheet: of each file its figures and what was wrong with it, then the differences."""
    truth, constant = sheet["truth"], sheet["constant"]["metric"]
    lines = [
        f"truth: {truth['file']}, {_counted(truth)}",
        f"best constants, learned from other studies: {_whole(constant)}",
        *_EXPLAINED,
    ]
    for block in sheet["files"]:
        lines += ["", f"{block['file']}: {_counted(block)}"]
        lines += [f"note: {note}" for note in _notes(block, sheet)]
        lines += [*_summary(block), *_table(block), *_slopes(block)]
    if sheet["differences"]:
        lines += ["", "Differences, paired by study; below zero, the first is better."]
        lines += [_difference(block) for block in sheet["differences"]]
    return "\n".join(lines)


def _notes(block: Mapping[str, Any], sheet: Mapping[str, Any]) -> list[str]:
    notes = []
    if unknown := block["unknown_studies"]:
        notes.append(f"{_studies(unknown)} not in the truth, and not scored")
    if left_out := block["left_out_studies"]:
        notes.append(f"{_studies(left_out)} left out, because the file lacks graded rows of them")
    if filled := block["filled_rows"]:
        notes.append(
            f"{filled:,} of {block['rows']:,} graded rows are missing and count in the metric with the best constants; "
            "all other figures are of the predicted rows"
        )
    if block["normalised"]:
        notes.append(f"rows were divided by their sums, which differ from 1 by up to {_short(block)}")
    elif sheet["normalise"] and block["largest_deviation_of_a_sum"] > 0:
        notes.append(
            f"sums of rows differ from 1 by up to {_short(block)}: values were cut to at most 1 and rows divided by "
            "their sums, as the competition's code does"
        )
    if unpredicted := block["unpredicted_conditions"]:
        words = ", ".join(Condition(name).words for name in unpredicted)
        notes.append(f"no score of the whole metric, because the file predicts no site of {words}")
    elif missing := [part for part in PARTS if block["metric"][part]["value"] is None]:
        words = ", ".join(part.replace("_", " ") for part in missing)
        notes.append(f"no score of the whole metric, because the truth has no graded site for {words}")
    return notes


def _summary(block: Mapping[str, Any]) -> list[str]:
    metric = block["metric"]
    parts = [part for part in PARTS if metric[part]["value"] is not None]
    lines = []
    if metric["score"]["value"] is not None:
        lines.append(_line("score", metric["score"], digits=4))
    elif len(parts) > 1:
        lines.append(_line("mean of these parts", metric["graded_parts"], digits=4))
    lines += [_line(part.replace("_", " "), metric[part], digits=4) for part in parts]
    lines += [_line(name, _at(block, path)) for name, path in _FIGURES if _at(block, path)["value"] is not None]
    error, floor = block["calibration"]["ece"], block["calibration"]["ece_floor"]
    words = f"{error:.3f} (floor {floor['mean']:.3f}, 95 % of perfect ones up to {floor['high']:.3f})"
    return [*lines, f"  {'ECE':{_INDENT - 2}}{words}"]


def _table(block: Mapping[str, Any]) -> list[str]:
    """Return the table by condition and level, without intervals, which the JSON file has."""
    lines = [f"{'':{_INDENT}}{'rows':>7}" + "".join(f"{name:>{_width(name)}}" for name, _ in _COLUMNS)]
    for name, condition in block["conditions"].items():
        lines.append(_row(Condition(name).words, condition))
        lines += [_row(f"  {Level(level).words}", group) for level, group in condition["levels"].items()]
    return lines


def _slopes(block: Mapping[str, Any]) -> list[str]:
    """Return the calibration slope and intercept by condition and cut; a cut without both outcomes has none."""
    lines = []
    for name, condition in block["conditions"].items():
        for cut, found in condition["calibration"]["cuts"].items():
            if found["intercept"]["value"] is not None:
                words = f"{Condition(name).words}, {CUT_WORDS[cut]}"
                slope, intercept = (_bracketed(found[figure], digits=2) for figure in ("slope", "intercept"))
                lines.append(f"{words:{_CUT_INDENT}}slope {slope:24s} intercept {intercept}")
    return lines


def _row(name: str, group: Mapping[str, Any]) -> str:
    cells = [(_value(_at(group, path)), _width(heading)) for heading, path in _COLUMNS]
    texts = [f"{'-' if value is None else format(value, '.3f'):>{width}}" for value, width in cells]
    return f"{name:{_INDENT}}{group['rows']:>7,}" + "".join(texts)


def _difference(block: Mapping[str, Any]) -> str:
    names = f"{Path(block['file']).name} minus {Path(block['minus']).name}"
    found = block["difference"]
    if found is None:
        return f"{names}: nothing to compare, because the two files share no scored row"
    parts = [part for part in PARTS if found[part]["value"] is not None]
    shown = [*(["score"] if found["score"]["value"] is not None else []), *parts]
    texts = [f"{name.replace('_', ' ')} {_bracketed(found[name], sign='+', digits=4)}" for name in shown]
    return f"{names}, on the {_counted(block)} that both have: {'; '.join(texts)}"


def _whole(metric: Mapping[str, Any]) -> str:
    name = "score" if metric["score"]["value"] is not None else "graded_parts"
    return f"{name.replace('_', ' ')} {_bracketed(metric[name], digits=4)}"


def _line(name: str, figure: Mapping[str, Any], digits: int = 3) -> str:
    return f"  {name:{_INDENT - 2}}{_bracketed(figure, digits=digits)}"


def _bracketed(figure: Mapping[str, Any], sign: str = "", digits: int = 3) -> str:
    """Return a figure with its interval in brackets, which are left out if there is none; a dash for no figure."""
    if figure["value"] is None:
        return "-"
    style = f"{sign}.{digits}f"
    low, high = figure["interval"]
    interval = "" if low is None or high is None else f" ({format(low, style)} to {format(high, style)})"
    return f"{format(figure['value'], style)}{interval}"


def _at(block: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = block
    for name in path:
        found = found[name]
    return found


def _value(figure: Mapping[str, Any] | float | None) -> float | None:
    """Return the value of a figure with or without an interval."""
    return figure["value"] if isinstance(figure, Mapping) else figure


def _width(heading: str) -> int:
    return max(8, len(heading) + 2)


def _counted(block: Mapping[str, Any]) -> str:
    return f"{block['studies']:,} studies, {block['rows']:,} graded rows"


def _studies(ids: Sequence[int]) -> str:
    named = ", ".join(map(str, ids[:_NAMED])) + (", ..." if len(ids) > _NAMED else "")
    return f"{len(ids):,} studies ({named}) are" if len(ids) > 1 else f"1 study ({named}) is"


def _short(block: Mapping[str, Any]) -> str:
    return f"{block['largest_deviation_of_a_sum']:.2g}"
