"""A locator's report: ``locator_report.json``, the same in words, and ``suspects.csv``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from locator.calibration import Seen, cross_fitted, measured
from locator.errors import lines
from locator.files import SUSPECTS
from locator.locator import Locator
from locator.suspects import find_suspects, write_suspects
from workspace.json_files import plain
from workspace.whole_files import replacing


def write_report(logs: Path, locator: Locator, seen: Sequence[Seen], marks_sha256: str) -> None:
    """locator_report.json and the same in words, and suspects.csv; calibration is cross-fitted over two halves."""
    located = cross_fitted(locator, seen)
    result = measured(located)
    bins = ("expected_mm", "found_mm", "sites")
    content = {
        "studies": len(seen),
        "conditions": [asdict(table) for table in result.tables()],
        "not_located": result.not_located,
        "right_level_share": result.right_level_share,
        "sides_exchanged": result.sides_exchanged,
        "reliability": [dict(zip(bins, row, strict=True)) for row in result.reliability()],
    }
    with replacing(logs / "locator_report.json") as partial:
        partial.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print("\n".join(lines(result)), flush=True)
    suspects = [
        suspect
        for study, found in located
        if found is not None
        for suspect in find_suspects(study.study_id, study.marked_N3, found.place_N3, found.error_N)
    ]
    write_suspects(logs, suspects, marks_sha256)
    print(f"{len(suspects)} marks of held-out studies are suspect: {logs / SUSPECTS}", flush=True)
