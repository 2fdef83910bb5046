"""Marks that disagree with a locator that was trained without their study: for a person to look at, never changed.

Only what no slip of some millimetres explains is a suspect: another level, another side, another place.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.geometry import Array
from data_prep.layout import DataRoot
from data_prep.sites import SITES, Level, parse_row_id_site
from data_prep.whole_files import replacing
from vl_model.located_sites import SUSPECTS

COLUMNS = ("study_id", "site", "reason", "distance_mm", "expected_error_mm")
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


def write_suspects(folder: Path, suspects: Sequence[Suspect]) -> None:
    """``suspects.csv``, worst first."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / SUSPECTS) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for suspect in sorted(suspects, key=lambda one: -one.distance_mm):
            table.writerow([getattr(suspect, name) for name in COLUMNS])


def read_suspects(root: DataRoot) -> list[Suspect]:
    """What the locators' runs of a data root noted, each of studies that it had not learned from; worst first.

    Several runs that held out different folds speak of different studies. Raises ValueError for a damaged table.
    """
    found: dict[tuple[int, str], Suspect] = {}
    for path in sorted(root.path.glob(f"train/logs/*/{SUSPECTS}")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                try:
                    suspect = Suspect(
                        int(row["study_id"]),
                        row["site"],
                        row["reason"],
                        float(row["distance_mm"]),
                        float(row["expected_error_mm"]),
                    )
                    parse_row_id_site(suspect.site)
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{path}: not a table of suspects ({error}); train_locator.py writes it") from None
                found[suspect.study_id, suspect.site] = suspect
    return sorted(found.values(), key=lambda one: -one.distance_mm)


def told(suspect: Suspect) -> str:
    """A suspect in one line."""
    return (
        f"study {suspect.study_id}, {parse_row_id_site(suspect.site).words}: marked {suspect.distance_mm:g} mm from "
        f"where it is seen ({suspect.expected_error_mm:g} expected): {suspect.reason}"
    )
