"""Marks that disagree with a locator that was trained without their study: for a person to look at, never changed.

Only what no slip of some millimetres explains is a suspect: another level, another side, another place.
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
from workspace.whole_files import replacing

#: The table of marks that suspects speak of.
MARKS = "train_label_coordinates.csv"
#: `marks_sha256`, the same in every row: of the table of marks as it was then.
COLUMNS = ("study_id", "site", "reason", "distance_mm", "expected_error_mm", "marks_sha256")
#: A mark further than this from the located place is a suspect, whatever it may be instead,
FAR_MM = 15.0
#: if it is also further than this many of the errors that the locator expects there.
SURPRISING = 3.0


@dataclass(frozen=True)
class Suspect:
    """distance_mm: from the mark to where the locator sees its site; expected_error_mm: the locator's own."""

    study_id: int
    site: str
    reason: str
    distance_mm: float
    expected_error_mm: float


def find_suspects(study_id: int, marked_N3: Array, place_N3: Array, error_N: Array) -> Iterator[Suspect]:
    """Suspects of one study: its marks, NaN where none, against located places and their expected errors, mm."""
    for index in np.flatnonzero(np.isfinite(marked_N3 + place_N3).all(axis=1)):
        distance = float(np.linalg.norm(marked_N3[index] - place_N3[index]))
        if distance > max(FAR_MM, SURPRISING * error_N[index]):
            reason = _reason(int(index), marked_N3[index], place_N3)
            yield Suspect(study_id, SITES[index].key, reason, round(distance, 1), round(float(error_N[index]), 1))


def _reason(index: int, mark_mm: Array, place_N3: Array) -> str:
    """What the mark is instead: the located site of its condition that is nearest to it."""
    site = SITES[index]
    fellows = [number for number, other in enumerate(SITES) if other.condition is site.condition]
    distance = np.linalg.norm(place_N3[fellows] - mark_mm, axis=1)
    nearest = SITES[fellows[int(np.argmin(distance))]]
    if distance.min() > FAR_MM or nearest == site:
        return "far from where it is seen"
    if nearest == site.mirrored:
        return "on the other side"
    levels = list(Level)
    off = levels.index(nearest.level) - levels.index(site.level)
    side = "" if nearest.side is site.side else ", and on the other side"
    return f"{abs(off)} level{'s' if abs(off) > 1 else ''} too {'low' if off > 0 else 'high'}{side}"


def write_suspects(folder: Path, suspects: Sequence[Suspect], marks_sha256: str) -> None:
    """``suspects.csv``, worst first; marks_sha256: of the table of marks."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / SUSPECTS) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for suspect in sorted(suspects, key=lambda one: -one.distance_mm):
            table.writerow([*astuple(suspect), marks_sha256])


def read_suspects(root: DataRoot, marks_sha256: str | None) -> tuple[list[Suspect], int]:
    """What the locators' runs of a data root noted, each of studies that it had not learned from; worst first.

    Several runs that held out different folds speak of different studies. Tables that speak of other marks than
    those of `marks_sha256` (None: there are no marks) are left out; how many is the second value. Raises ValueError
    for a damaged table.
    """
    found: dict[tuple[int, str], Suspect] = {}
    outdated = 0
    for path in sorted(root.path.glob(f"train/logs/*/{SUSPECTS}")):
        rows = _read_table(path)
        if any(sha256 != marks_sha256 for _, sha256 in rows):
            outdated += 1
        else:
            found |= {(suspect.study_id, suspect.site): suspect for suspect, _ in rows}
    return sorted(found.values(), key=lambda one: -one.distance_mm), outdated


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


def told(suspect: Suspect) -> str:
    """A suspect in one line."""
    return (
        f"study {suspect.study_id}, {parse_row_id_site(suspect.site).words}: marked {suspect.distance_mm:g} mm from "
        f"where it is seen ({suspect.expected_error_mm:g} expected): {suspect.reason}"
    )
