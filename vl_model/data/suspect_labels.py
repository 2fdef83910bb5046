"""``suspect_labels.csv``: known grades that are improbable for models that did not learn from their study.

A suspect label is listed for a person to check; no label is ever changed. `eval_vl.py` writes the table
(`vl_model.evaluation.label_ranking`), and `train_vl.py --drop_suspects` leaves the sites out of a training
(`vl_model.data.dropped_sites`). Every row names the data set by its fingerprint, so that rows may be deleted by the
person who has checked them. Suspect *marks* are another matter (`locator.suspects`).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.conversion.pairs import Pair
from data_prep.sites import SITE_COLUMNS, Severity, Site
from data_prep.truth import check_cells, parse_study_id
from workspace.whole_files import replacing

SUSPECT_LABELS = "suspect_labels.csv"
PROBABILITIES = ("normal_mild", "moderate", "severe")
EVIDENCE = ("view", "series_id", "instance_number", "x0", "y0", "x1", "y1", "source")
COLUMNS = (
    *("rank", "study_id", *SITE_COLUMNS, "severity", *PROBABILITIES, "surprise", "margin"),
    *(*EVIDENCE, "graded_sites", "dataset_fingerprint"),
)
"""surprise: -ln of the probability of the known grade. margin: ln of how many times as probable the most probable grade
is. graded_sites: how many sites were ranked, of which the table lists a part; the same in every row."""


@dataclass(frozen=True)
class SuspectLabel:
    """A suspect label: a site, its known grade, and the calibrated probabilities of the three grades."""

    rank: int
    study_id: int
    site: Site
    severity: Severity
    probabilities: tuple[float, float, float]
    surprise: float
    margin: float


@dataclass(frozen=True)
class ListedLabel:
    """A row of the table, as far as a training needs it. row: the cells that name site and grade, to be quoted."""

    rank: int
    study_id: int
    site: Site
    severity: Severity
    graded_sites: int
    dataset_fingerprint: str
    row: str


def write_suspect_labels(
    path: Path,
    labels: Sequence[SuspectLabel],
    evidence: Mapping[tuple[int, Site], Pair],
    graded_sites: int,
    dataset_fingerprint: str,
) -> None:
    """Write the table, by rename.

    Args:
        path: the file.
        labels: the suspect labels, by rank.
        evidence: the pair that shows each of them (`vl_model.data.site_rows.evidence_of`).
        graded_sites: how many sites were ranked.
        dataset_fingerprint: of the data set with these labels.
    """
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for label in labels:
            pair = evidence[label.study_id, label.site]
            cells = [label.rank, label.study_id, *(cell or "" for cell in label.site.columns.values())]
            numbers = [f"{number:.6g}" for number in (*label.probabilities, label.surprise, label.margin)]
            box = [f"{corner:g}" for corner in pair.box]
            shown = [pair.view.value, pair.series_id, pair.instance_number, *box, pair.source.value]
            table.writerow([*cells, label.severity.key, *numbers, *shown, graded_sites, dataset_fingerprint])


def read_suspect_labels(path: Path) -> list[ListedLabel]:
    """Read the table. Raises ValueError that quotes the file, the line and the cells if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise ValueError(f"{path}: is no table of suspect labels (no column {missing[0]}){_other(table)}")
            return [_listed(path, table.line_num, row) for row in table]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); eval_vl.py writes {SUSPECT_LABELS}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: is no table of suspect labels ({error}); eval_vl.py writes it") from None


def _other(table: "csv.DictReader[str]") -> str:
    if "marks_sha256" in (table.fieldnames or ()):
        return "; it lists the suspect marks of a locator, which say nothing about grades"
    return "; eval_vl.py writes it"


def _listed(path: Path, line: int, row: Mapping[str | None, str]) -> ListedLabel:
    words = ",".join(str(row.get(name)) for name in ("rank", "study_id", *SITE_COLUMNS, "severity"))
    try:
        check_cells(row)
        cells = {str(name): cell for name, cell in row.items()}
        severity = Severity.from_column(cells["severity"])
        if severity is None:
            raise ValueError("has no severity")
        return ListedLabel(
            _positive(cells["rank"]),
            parse_study_id(cells["study_id"]),
            Site.from_columns(cells),
            severity,
            _positive(cells["graded_sites"]),
            cells["dataset_fingerprint"],
            f"line {line}: {words!r}",
        )
    except ValueError as error:
        raise ValueError(f"{path}: line {line}: {words!r}: {error}") from None


def _positive(cell: str) -> int:
    if not (cell.isascii() and cell.isdigit() and int(cell)):
        raise ValueError(f"{cell!r} is no whole number above 0")
    return int(cell)
