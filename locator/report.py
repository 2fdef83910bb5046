"""The report on a locator's held-out studies: ``locator_report.json``, the same as text, and ``suspects.csv``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from locator.calibration import HeldOutStudy, level_reliability, locate_cross_fitted, position_errors
from locator.errors import report_lines
from locator.files import SUSPECTS
from locator.learning_set import LearningSet
from locator.locator import Locator
from locator.suspects import find_suspects, write_suspects
from workspace.json_files import plain
from workspace.whole_files import replacing

LEVEL_BINS = ("confidence", "right_levels", "studies")


def write_report(logs: Path, locator: Locator, held_out: Sequence[HeldOutStudy], studies: LearningSet) -> None:
    """Write locator_report.json and suspects.csv, and print the errors; the calibration is cross-fitted on two halves.

    Args:
        logs: The folder of the run's logs.
        locator: The locator, not calibrated yet.
        held_out: The studies that it was not trained on, with its detections.
        studies: The marked studies, among them those held out.
    """
    located = locate_cross_fitted(locator, held_out, studies.held_out, studies.processed)
    results = [result for result in located if not result[0].cut_off]
    levels = {
        name: level_reliability([result for result in located if result[0].cut_off is cut_off])
        for name, cut_off in (("complete", False), ("lower_end_cut_off", True))
    }
    errors = position_errors(results)
    bins = ("expected_mm", "found_mm", "sites")
    content = {
        "studies": len(results),
        "knows": locator.knowledge.to_json(),
        "conditions": [asdict(row) for row in errors.by_condition()],
        "not_located": errors.not_located,
        "right_level_share": errors.right_level_share,
        "sides_exchanged": errors.sides_exchanged,
        "reliability": [dict(zip(bins, row, strict=True)) for row in errors.reliability()],
        "level_reliability": {
            name: [dict(zip(LEVEL_BINS, row, strict=True)) for row in rows] for name, rows in levels.items()
        },
    }
    with replacing(logs / "locator_report.json") as partial:
        partial.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print("\n".join([*locator.knowledge.lines, *report_lines(errors), *_level_lines(levels)]), flush=True)
    suspects = [
        suspect
        for study, located in results
        if located is not None
        for suspect in find_suspects(study.study_id, study.marked_N3, located.position_N3, located.total_error_N)
    ]
    write_suspects(logs, suspects, studies.marks_sha256)
    print(f"{len(suspects)} marks of held-out studies are suspect; see {logs / SUSPECTS}", flush=True)


def _level_lines(levels: Mapping[str, Sequence[tuple[float, float, int]]]) -> list[str]:
    """Return the reliability of the level confidence as lines of text."""
    words = {"complete": "complete studies", "lower_end_cut_off": "their copies without the lower end"}
    return [
        f"Level confidence -> share of right levels, {words[name]}: "
        + ", ".join(f"{confidence:.2f} -> {right:.2f} ({studies})" for confidence, right, studies in rows)
        for name, rows in levels.items()
        if rows
    ]
