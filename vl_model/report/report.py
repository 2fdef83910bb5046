"""Write ``report.json`` and ``report.html``: one self-contained page, for light and dark, for screen and paper."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from data_prep.conversion.crop_geometry import FIELD_MM, VIEW_MM
from data_prep.sites import Severity, View
from vl_model.evaluation.grader import HEADS, KINDS
from vl_model.report.curve_plots import answer_plot, question_words, rank_plot
from vl_model.report.example_sites import ExampleSite, tile_as_png
from vl_model.report.number_words import known, number, share, span, times
from vl_model.report.plots import (
    BLUE,
    GREY,
    ORANGE,
    PART_WORDS,
    VIOLET,
    confusion_plot,
    learning_curve_plot,
    metric_plot,
    reliability_plot,
)
from vl_model.report.report_content import Json
from vl_model.report.report_text import (
    HEAD_WORDS,
    always_words,
    graded_parts,
    measure,
    missing_parts,
    percent,
)
from vl_model.report.summary import graded_conditions, summary
from vl_model.report.use_and_limits import guideline_items, limits
from vl_model.scoring.calibration_content import CUT_WORDS
from workspace.json_files import plain
from workspace.whole_files import ESCAPED, replacing

WORDS = {
    **HEAD_WORDS,
    "by_rule": "raw by Bayes\N{RIGHT SINGLE QUOTATION MARK} rule",
    "raw": "raw",
    "calibrated": "calibrated",
    "metric_optimal": "metric-optimal",
}
#: Whose labels the figures of a row learned from, besides those that the adapters learned from.
_LABELS_OF = {
    ("zero_shot", "raw"): "none",
    ("zero_shot", "by_rule"): "none",
    ("zero_shot", "calibrated"): "held-out",
    ("zero_shot", "metric_optimal"): "held-out",
    ("linear_probe", "raw"): "training",
    ("linear_probe", "by_rule"): "training",
    ("linear_probe", "calibrated"): "training, held-out",
    ("linear_probe", "metric_optimal"): "training, held-out",
}
#: Of the first 1 % of suspect labels, those that had been moved (docs/results/suspect_probes.txt).
PLANTED_SHARE = 0.871
_VIEW_WORDS = {View.SAGITTAL_T1: "sag T1", View.SAGITTAL_T2_STIR: "sag T2", View.AXIAL_T2: "ax T2"}
_GRADE_WORDS = ("normal\nor mild", "moderate", "severe")


def write_report(
    folder: Path,
    report: Json,
    examples: Sequence[ExampleSite],
    crops: NDArray[np.uint8],
    tile_share: float = VIEW_MM / FIELD_MM,
    suspects: Sequence[ExampleSite] = (),
) -> None:
    """Write ``report.html``, then ``report.json``, each by rename; `report` has plain values (`json_files.plain`).

    tile_share: the width of a tile as a share of that of a crop; the page shows crops, with the tile's frame. suspects:
    the first suspect labels, which the page shows.
    """
    groups, suspect_groups = (_with_images(sites, crops) for sites in (examples, suspects))
    page = render_report(report, groups, tile_share, [case for cases in suspect_groups.values() for case in cases])
    content = json.dumps({**report, "cases": plain([_as_json(example) for example in examples])}, indent=1)
    with replacing(folder / "report.html") as partial:
        partial.write_text(page, encoding="utf-8", errors=ESCAPED)
    with replacing(folder / "report.json") as partial:
        partial.write_text(content + "\n", encoding="utf-8")


def render_report(
    report: Json,
    examples: Mapping[str, Sequence[Json]],
    tile_share: float = VIEW_MM / FIELD_MM,
    suspect_cases: Sequence[Json] = (),
) -> str:
    """Return the page as text.

    Args:
        report: the content of ``report.json``.
        examples: group -> dictionaries with caption, probabilities, study_id, source and tiles.
        tile_share: the width of a tile as a share of that of a crop.
        suspect_cases: the first suspect labels, as the examples.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    head = report["head"]
    conditions = {
        kind: {name: block for name, block in blocks.items() if block["n"]}
        for kind, blocks in report["conditions"][head].items()
    }
    baseline = report.get("plain_baseline")  # reports of an earlier version have none
    compared = [("plain baseline", VIOLET, baseline["metric"]["metric_optimal"])] if baseline else []
    plots = {
        "metric": metric_plot(
            [
                ("constant", GREY, report["constant_baseline"]),
                *compared,
                ("prompt head", ORANGE, report["metric"]["zero_shot"]["metric_optimal"]),
                ("linear probe", BLUE, report["metric"]["linear_probe"]["metric_optimal"]),
            ]
        ),
        "reliability": reliability_plot(conditions["raw"], conditions["calibrated"]),
        "confusion": confusion_plot(conditions["calibrated"], _GRADE_WORDS),
        "curve": learning_curve_plot(report.get("learning_curve") or []),
        "ranks": rank_plot(curves) if (curves := report.get("curves")) else "",
        "answers": answer_plot(report.get("study_answers") or {}),
    }
    return environment.get_template("report.html.jinja").render(
        report=report,
        baseline=baseline,
        title=title(report),
        summary=summary(report),
        plots={name: Markup(svg) for name, svg in plots.items()},
        heads=HEADS,
        kinds=KINDS,
        rows=_rows(report),
        labels_of=_LABELS_OF,
        checks=_checks(report),
        parts=_columns(report["constant_baseline"]),
        measure=measure(report["constant_baseline"]),
        is_whole=not missing_parts(report["constant_baseline"]),
        part_words=PART_WORDS,
        words=WORDS,
        number=number,
        percent=percent,
        cut_words=CUT_WORDS,
        conditions=conditions["calibrated"],
        losses=conditions["metric_optimal"],
        ranks=conditions["raw"],
        examples=examples,
        suspect_cases=suspect_cases,
        planted_share=PLANTED_SHARE,
        times=times,
        provenance=_provenance(report),
        question_words=question_words,
        grade_words={grade.key: words.replace("\n", " ") for grade, words in zip(Severity, _GRADE_WORDS, strict=True)},
        always_words=always_words,
        share=share,
        span=span,
        limits=limits(report),
        guidelines=guideline_items(),
        tile_margin=round(50 * (1 - tile_share), 2),
    )


def title(report: Json) -> str:
    """Return the page's title."""
    runs = [fold["run"] for fold in report.get("fold_runs") or ()]
    if runs:
        return f"Runs {runs[0]} to {runs[-1]}: out-of-fold evaluation"
    return f"Run {report['run']}: held-out evaluation"


def _rows(report: Json) -> list[tuple[str, str, Json]]:
    """Return (head, kind, metric) of the rows of the table of the metric; raw by Bayes' rule stands after raw."""
    rows: list[tuple[str, str, Json]] = []
    for head in HEADS:
        for kind in KINDS:
            rows.append((head, kind, report["metric"][head][kind]))
            if kind == "raw" and "by_rule" in report:
                rows.append((head, "by_rule", report["by_rule"][head]))
    return rows


def _checks(report: Json) -> list[str]:
    """Return the sentences on the heads by themselves: single wordings, and the probe's two losses."""
    if "by_rule" not in report:
        return []
    sentences = []
    if values := [block[measure(block)] for block in report["wordings"]]:
        whole = report["by_rule"]["zero_shot"]
        sentences.append(
            f"With one of its {len(values)} wordings alone, the prompt head scores {number(min(values))} to "
            f"{number(max(values))} by Bayes\N{RIGHT SINGLE QUOTATION MARK} rule; with all of them, "
            f"{number(whole[measure(whole)])}."
        )
    losses = {
        name.replace("_", " "): f"{known(block['inner'])} and {known(block['held_out'])}"
        for name, block in report["probe_losses"].items()
        if block["held_out"] is not None
    }
    if losses:
        listed = "; ".join(f"{name}: {words}" for name, words in losses.items())
        sentences.append(
            "The raw log loss of the linear probe, cross-validated within the training studies and then on the "
            f"held-out ones, is {listed}. If the first is much lower, the embeddings are over-fitted to the training "
            "studies."
        )
    return sentences


def _columns(constant: Json) -> list[str]:
    """Return the columns of the table of the metric: as `report_text`'s."""
    parts = graded_parts(constant)
    return [measure(constant), *parts] if len(parts) > 1 else parts


def _provenance(report: Json) -> dict[str, str]:
    """Return the run, the data and the training settings as names and values."""
    n = report["n"]
    severities = ", ".join(f"{count} {grade.replace('_', '/')}" for grade, count in n["severities"].items())
    content = {
        "run": report["run"],
        "held-out folds": ", ".join(map(str, report["held_out_folds"])),
        "held-out studies": str(n["studies"]),
        "graded sites": f"{n['rows']} ({severities})",
        "graded conditions": ", ".join(name.replace("_", " ") for name in graded_conditions(report)),
        "training studies": ", ".join(str(fold["training_studies"]) for fold in report.get("fold_runs") or [report]),
        "submission's head": WORDS[report["head"]],
        "data set": report["fingerprint"]["dataset"][:16],
        "checkpoint": report["fingerprint"]["checkpoint"][:16],
    }
    shown = {name: value for name, value in report["training_settings"].items() if value not in (None, "", [])}
    return content | {name: str(value) for name, value in shown.items()}


def _with_images(examples: Iterable[ExampleSite], crops: NDArray[np.uint8]) -> dict[str, list[Json]]:
    groups: dict[str, list[Json]] = {}
    for example in examples:
        tiles = [
            {
                "view": _VIEW_WORDS[View(view)],
                "image": tile_as_png(crops[crop], example.site.side, View(view) is View.AXIAL_T2),
            }
            for view, crop in zip(example.views, example.crops, strict=True)
        ]
        # The page shows two; a site may have more.
        groups.setdefault(example.group, []).append({**_as_json(example), "tiles": tiles[:2]})
    return groups


def _as_json(example: ExampleSite) -> dict[str, Any]:
    return {
        "group": example.group,
        "study_id": example.study_id,
        "site": example.site.key,
        "severity": Severity(example.severity).key,
        "probabilities": list(example.probabilities),
        "caption": example.caption,
        "source": example.source,
        "views": list(example.views),
        "crops": list(example.crops),
    }
