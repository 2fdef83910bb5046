"""Suspects: marks that are contradicted by a locator that was not trained on their study.

Suspects are listed for a person to check; marks are never changed. Only marks on another level, on another side or far
from the site are suspects; an error of a few millimetres is not enough.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from data_prep.geometry import Array
from data_prep.sites import SITES, Level, parse_row_id_site
from locator.files import SUSPECTS
from workspace.layout import DataRoot
from workspace.whole_files import ESCAPED, replacing

#: The table of marks.
MARKS = "train_label_coordinates.csv"
#: Every row has the same `marks_sha256`: the digest of the table of marks when the suspects were found.
COLUMNS = ("study_id", "site", "reason", "distance_mm", "expected_error_mm", "marks_sha256")
#: A mark is a suspect if its distance from the located position is larger than this,
FAR_MM = 15.0
#: and also larger than the expected error of that position times this.
MIN_ERROR_RATIO = 3.0


@dataclass(frozen=True)
class Suspect:
    """A suspect mark.

    Attributes:
        study_id: The study.
        site: The key of the marked site.
        reason: How the mark disagrees with the locator.
        distance_mm: From the mark to the located position of its site.
        expected_error_mm: The expected error of the located position.
    """

    study_id: int
    site: str
    reason: str
    distance_mm: float
    expected_error_mm: float


def find_suspects(study_id: int, marked_N3: Array, located_N3: Array, expected_error_N: Array) -> Iterator[Suspect]:
    """Find the suspects of one study.

    Args:
        study_id: The study.
        marked_N3: Marked positions in mm, NaN where unmarked.
        located_N3: Located positions, mm.
        expected_error_N: Their expected errors, mm.
    """
    for index in np.flatnonzero(np.isfinite(marked_N3 + located_N3).all(axis=1)):
        distance = float(np.linalg.norm(marked_N3[index] - located_N3[index]))
        expected = float(expected_error_N[index])
        if distance > max(FAR_MM, MIN_ERROR_RATIO * expected):
            reason = _reason(int(index), marked_N3[index], located_N3)
            yield Suspect(study_id, SITES[index].key, reason, round(distance, 1), round(expected, 1))


def _reason(index: int, mark_mm: Array, located_N3: Array) -> str:
    """Describe the error of a mark by the located site of its condition that is nearest to it."""
    site = SITES[index]
    same_condition = [number for number, other in enumerate(SITES) if other.condition is site.condition]
    distance = np.linalg.norm(located_N3[same_condition] - mark_mm, axis=1)
    nearest = SITES[same_condition[int(np.argmin(distance))]]
    if distance.min() > FAR_MM or nearest == site:
        return "far from the located position"
    if nearest == site.mirrored:
        return "on the other side"
    levels = list(Level)
    offset = levels.index(nearest.level) - levels.index(site.level)
    side = "" if nearest.side is site.side else ", and on the other side"
    return f"{abs(offset)} level{'s' if abs(offset) > 1 else ''} too {'low' if offset > 0 else 'high'}{side}"


def write_suspects(folder: Path, suspects: Sequence[Suspect], marks_sha256: str) -> None:
    """Write ``suspects.csv``, sorted by decreasing distance; marks_sha256 is the digest of the table of marks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / SUSPECTS) as partial,
        partial.open("w", newline="", encoding="utf-8", errors=ESCAPED) as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for suspect in sorted(suspects, key=lambda one: -one.distance_mm):
            table.writerow([*astuple(suspect), marks_sha256])


def read_suspects(root: DataRoot, marks_sha256: str | None) -> tuple[list[Suspect], int]:
    """Read the suspects that all locators' runs of a data root found in their held-out studies.

    Runs that held out different folds list suspects of different studies.

    Args:
        root: The data root.
        marks_sha256: The digest of the present table of marks; None if there is none.

    Returns:
        The suspects, sorted by decreasing distance, and the number of tables that were skipped because the table of
        marks has changed since.

    Raises:
        ValueError: A table is damaged.
    """
    suspects: dict[tuple[int, str], Suspect] = {}
    outdated = 0
    for path in sorted(root.path.glob(f"train/logs/*/{SUSPECTS}")):
        rows = _read_table(path)
        if any(sha256 != marks_sha256 for _, sha256 in rows):
            outdated += 1
        else:
            suspects |= {(suspect.study_id, suspect.site): suspect for suspect, _ in rows}
    return sorted(suspects.values(), key=lambda one: -one.distance_mm), outdated


def _read_table(path: Path) -> list[tuple[Suspect, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(_suspect(row), row["marks_sha256"]) for row in csv.DictReader(file)]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a table of suspects ({error}); train_locator.py writes it") from None


def _suspect(row: Mapping[str, str]) -> Suspect:
    parse_row_id_site(row["site"])
    distance, expected = float(row["distance_mm"]), float(row["expected_error_mm"])
    return Suspect(int(row["study_id"]), row["site"], row["reason"], distance, expected)


def describe_suspect(suspect: Suspect) -> str:
    """Return one line of text about a suspect."""
    return (
        f"study {suspect.study_id}, {parse_row_id_site(suspect.site).words}: marked {suspect.distance_mm:g} mm from "
        f"the located position (expected error {suspect.expected_error_mm:g} mm): {suspect.reason}"
    )


def print_suspects(root: DataRoot, hashes: Mapping[str, str]) -> None:
    """Print the suspects of all locators, and how many tables of suspects are outdated.

    Args:
        root: The data root.
        hashes: The digests of the tables of the train split, by name.
    """
    suspects, outdated = read_suspects(root, hashes.get(MARKS))
    for suspect in suspects:
        print(f"train: suspect: {describe_suspect(suspect)}")
    if outdated:
        print(f"train: {outdated} tables of suspects skipped: {MARKS} has changed; train the locators again")
