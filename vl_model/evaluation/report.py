"""``report.json`` -> ``report.html``: one self-contained page, for light and dark, for screen and paper."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from data_prep.conversion.crops import FIELD_MM, VIEW_MM
from data_prep.sites import Severity, View
from vl_model.evaluation.cases import Case, tile_picture
from vl_model.evaluation.grader import HEADS, KINDS
from vl_model.evaluation.metrics import PARTS
from vl_model.evaluation.plots import BLUE, GREY, ORANGE, confusion_plot, metric_plot, reliability_plot
from vl_model.evaluation.report_content import Json
from workspace.json_files import plain
from workspace.whole_files import replacing

WORDS = {
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "raw": "raw",
    "calibrated": "calibrated",
    "metric_optimal": "metric-optimal",
}
_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_VIEW_WORDS = {View.SAGITTAL_T1: "sag T1", View.SAGITTAL_T2_STIR: "sag T2", View.AXIAL_T2: "ax T2"}
_GRADE_WORDS = ("normal\nor mild", "moderate", "severe")


def write_report(folder: Path, report: Json, cases: Sequence[Case], crops: NDArray[np.uint8]) -> None:
    """Write ``report.html`` and then ``report.json``, each by rename. `report` is what `measures.plain` leaves."""
    page = render_report(report, _pictured(cases, crops))
    content = json.dumps({**report, "cases": plain([_facts(case) for case in cases])}, indent=1)
    with replacing(folder / "report.html") as partial:
        partial.write_text(page, encoding="utf-8")
    with replacing(folder / "report.json") as partial:
        partial.write_text(content + "\n", encoding="utf-8")


def render_report(report: Json, cases: Mapping[str, Sequence[Json]]) -> str:
    """The page as text. `cases`: group -> dictionaries with caption, probabilities, study_id, source and tiles."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    head = report["head"]
    conditions = report["conditions"][head]
    plots = {
        "metric": metric_plot(
            [
                ("constant", GREY, report["constant_baseline"]),
                ("zero-shot", ORANGE, report["metric"]["zero_shot"]["metric_optimal"]),
                ("linear probe", BLUE, report["metric"]["linear_probe"]["metric_optimal"]),
            ]
        ),
        "reliability": reliability_plot(conditions["raw"], conditions["calibrated"]),
        "confusion": confusion_plot(conditions["calibrated"], _GRADE_WORDS),
    }
    return environment.get_template("report.html.jinja").render(
        report=report,
        summary=summary(report),
        plots={name: Markup(svg) for name, svg in plots.items()},
        heads=HEADS,
        kinds=KINDS,
        parts=("score", *PARTS),
        words=WORDS,
        number=number,
        conditions=conditions["calibrated"],
        losses=conditions["metric_optimal"],
        ranks=conditions["raw"],
        cases=cases,
        facts=_provenance(report),
        tile_margin=round(50 * (1 - VIEW_MM / FIELD_MM), 2),
    )


def summary(report: Json) -> list[str]:
    """What a reader should take away, in plain sentences."""
    n, head = report["n"], report["head"]
    block, constant = report["metric"][head]["metric_optimal"], report["constant_baseline"]["score"]
    ratio = block["ratio_to_constant"]["score"]
    verdict = "better than" if _below(ratio["interval"], 1) else "not clearly better than"
    sentences = [
        f"On {n['studies']} held-out studies ({n['rows']} graded sites) the {WORDS[head]} scores "
        f"{number(block['score'])} (95 % interval {_range(block['interval']['score'])}): {verdict} the best constant "
        f"answer, {number(constant)}, at {number(ratio['value'], 2)} of it ({_range(ratio['interval'], 2)})."
    ]
    before, after = (report["ece"][head][kind]["top_label"] for kind in ("raw", "calibrated"))
    areas = report["auc"][head]["raw"]
    sentences.append(
        f"Severe sites are ranked above the others with an AUC of {number(areas['severe'], 2)}, moderate or severe "
        f"ones with {number(areas['at_least_moderate'], 2)} (mean over the conditions). The expected calibration error "
        f"is {number(after)} after calibration, {number(before)} before."
    )
    if n["rows_without_image"]:
        sentences.append(f"{n['rows_without_image']} of these sites are in no image; they got their column's constant.")
    return sentences


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Fixed digits, a real minus, a dash for what could not be measured."""
    if value is None:
        return _DASH
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", _MINUS)


def _range(bounds: Sequence[float | None], digits: int = 3) -> str:
    return f"{number(bounds[0], digits)} to {number(bounds[1], digits)}"


def _below(interval: Sequence[float | None], bound: float) -> bool:
    return interval[1] is not None and interval[1] < bound


def _provenance(report: Json) -> dict[str, str]:
    """Run, data and settings, as a list of names and values."""
    n = report["n"]
    severities = ", ".join(f"{count} {grade.replace('_', '/')}" for grade, count in n["severities"].items())
    facts = {
        "run": report["run"],
        "held-out folds": ", ".join(map(str, report["held_out_folds"])),
        "held-out studies": str(n["studies"]),
        "graded sites": f"{n['rows']} ({severities})",
        "training studies": str(report["training_studies"]),
        "head of the submission": WORDS[report["head"]],
        "data set": report["fingerprint"]["dataset"][:16],
        "checkpoint": report["fingerprint"]["checkpoint"][:16],
    }
    shown = {name: value for name, value in report["training_settings"].items() if value not in (None, "", [])}
    return facts | {f"--{name}": str(value) for name, value in shown.items()}


def _pictured(cases: Iterable[Case], crops: NDArray[np.uint8]) -> dict[str, list[Json]]:
    groups: dict[str, list[Json]] = {}
    for case in cases:
        tiles = [
            {
                "view": _VIEW_WORDS[View(view)],
                "picture": tile_picture(crops[crop], case.site.side, View(view) is View.AXIAL_T2),
            }
            for view, crop in zip(case.views, case.crops, strict=True)
        ]
        # Two are enough to look at; a site may have more.
        groups.setdefault(case.group, []).append({**_facts(case), "tiles": tiles[:2]})
    return groups


def _facts(case: Case) -> dict[str, Any]:
    return {
        "group": case.group,
        "study_id": case.study_id,
        "site": case.site.key,
        "severity": Severity(case.severity).key,
        "probabilities": list(case.probabilities),
        "caption": case.caption,
        "source": case.source,
        "views": list(case.views),
        "crops": list(case.crops),
    }
