"""The main results of a report in plain sentences, which stand at the head of its page."""

from collections.abc import Sequence

from data_prep.sites import Condition
from vl_model.report.curve_plots import question_words
from vl_model.report.number_words import MINUS, area_words, interval_words, number, share
from vl_model.report.report_content import Json
from vl_model.report.report_text import (
    HEAD_WORDS,
    baseline_loss,
    chosen_here,
    differences,
    error_and_floor,
    graded_parts,
    in_words,
    measure,
    missing_parts,
)


def summary(report: Json) -> list[str]:
    """Return the main results in plain sentences."""
    n, head = report["n"], report["head"]
    block, constant = report["metric"][head]["metric_optimal"], report["constant_baseline"]
    measured = measure(constant)
    ratio = block["ratio_to_constant"][measured]
    verdict = "better than" if _below(ratio["interval"], 1) else "not clearly better than"
    sentences = [] if not report.get("fold_runs") else [_out_of_fold(report)]
    sentences.append(
        f"On {n['studies']} held-out studies ({n['rows']} graded sites) the {HEAD_WORDS[head]} scores "
        f"{number(block[measured])} ({interval_words(block['interval'][measured])}){_of_graded(constant)}. This is "
        f"{verdict} the best constant answer, which scores {number(constant[measured])}: the ratio is "
        f"{number(ratio['value'], 2)} ({interval_words(ratio['interval'], 2)})."
    )
    if missing := missing_parts(constant):
        graded = ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in graded_conditions(report).items())
        sentences.append(
            f"Graded are {graded}. There is no score of the whole metric, because the held-out studies have no graded "
            f"site for {in_words(missing)}: nothing here tells how good the probabilities of such sites are."
        )
    if sentence := _places(report):
        sentences.append(sentence)
    if report.get("plain_baseline"):
        sentences.append(_against_baseline(report))
    raw, calibrated = (report["calibration"][head][kind] for kind in ("raw", "calibrated"))
    severe, moderate = (area_words(raw["auc"][cut]) for cut in ("severe", "at_least_moderate"))
    sentences.append(
        f"The AUC{_averaged(report)} is {severe} for severe sites and {moderate} for moderate or severe sites. The "
        f"expected calibration error is {number(raw['ece'])} before calibration, and after it "
        f"{error_and_floor(calibrated)}."
    )
    sentences += [*_sets(report), *_answers(report)]
    if choice := chosen_here(report):
        sentences.append(choice)
    if n["rows_without_image"]:
        sentences.append(
            f"{n['rows_without_image']} of the graded sites have no image; they have their column's constant."
        )
    return sentences


def _out_of_fold(report: Json) -> str:
    runs = report["fold_runs"]
    return (
        f"{len(runs)} runs are evaluated as one: every study of the data set is predicted, each by the run that held "
        "it out. New studies are graded by the mean of all models, which itself has no figures here."
    )


def _places(report: Json) -> str:
    """Return how the grades at places as in use compare with those at marks; empty if the report knows of none."""
    places, head = report.get("places"), report["head"]
    if not places or places["reason"]:
        return "" if not places else f"Places as in use are not measured: {places['reason']}."
    block = places["located"][head]["metric_optimal"]
    measured = measure(block)
    ratio = places["ratio"][head][measured]
    counts = ", ".join(f"{count} {source}" for source, count in sorted(places["sources"].items()))
    return (
        f"These figures are for sites that readers marked. At places as in use, found without the marks ({counts}), "
        f"the {HEAD_WORDS[head]} scores {number(block[measured])} ({interval_words(block['interval'][measured])}): "
        f"{number(ratio['value'], 2)} of the former ({interval_words(ratio['interval'], 2)}). The calibrators for new "
        "studies are fitted there."
    )


def _against_baseline(report: Json) -> str:
    """Return one sentence: where the head of the submission loses to the plain baseline, or that it does nowhere."""
    if loss := baseline_loss(report):
        return loss.replace("-", MINUS)
    difference = report["plain_baseline"]["heads_minus_baseline"][report["head"]]
    words = differences(difference).replace("-", MINUS)
    return f"The {HEAD_WORDS[report['head']]} minus the plain baseline, which uses no network, is {words}."


def _sets(report: Json) -> list[str]:
    """Return one sentence on the prediction sets; none if the report knows of none."""
    if "prediction_sets" not in report:
        return []
    words = []
    for level in report["prediction_sets"]["levels_of_coverage"]:
        grades = report["prediction_sets"][str(level)]["grades"]
        covered = ", ".join(
            f"{share(block['coverage']['value'])} of the {grade.replace('_', ' or ')} sites"
            for grade, block in grades.items()
        )
        words.append(f"the {level} % prediction sets contain the true grade of {covered}")
    sentence = f"{'; '.join(words)}."
    return [sentence[0].upper() + sentence[1:]]


def _answers(report: Json) -> list[str]:
    """Return one sentence on each question about whole studies that has an AUC."""
    sentences = []
    for question, block in (report.get("study_answers") or {}).items():
        if block and block["auc"]["value"] is not None:
            found = block["sensitivity_at_specificity"]["90"]
            sentences.append(
                f"Whether a study has {question_words(question, block)} ({block['events']} of {block['studies']} have) "
                f"is told with an AUC of {area_words(block['auc'])}; at a specificity of 90 %, the sensitivity is "
                f"{number(found['value'], 2)} ({interval_words(found['interval'], 2)})."
            )
    return sentences


def graded_conditions(report: Json) -> dict[str, int]:
    """Return the conditions of which held-out sites are graded, with the number of these sites."""
    blocks = report["conditions"][report["head"]]["raw"]
    return {name: block["n"] for name, block in blocks.items() if block["n"]}


def _of_graded(constant: Json) -> str:
    """Return what a score is about if the whole metric has none; nothing if it has."""
    parts = graded_parts(constant)
    if not missing_parts(constant):
        return ""
    return f" on the {in_words(parts)} part of the metric" if len(parts) == 1 else f", the mean of {in_words(parts)}"


def _averaged(report: Json) -> str:
    conditions = len(graded_conditions(report))
    if conditions == 1:
        return ""
    return f", averaged over the {'' if conditions == len(Condition) else 'graded '}conditions,"


def _below(interval: Sequence[float | None], bound: float) -> bool:
    return interval[1] is not None and interval[1] < bound
