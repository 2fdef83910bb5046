"""Which studies the locator of a placer was trained on: to it, a held-out study among them is no new study."""

from collections.abc import Iterable, Mapping

from data_prep.placement.placer import Placer
from locator.files import LOCATOR, SCHEMA_VERSION
from locator.marked_studies import MarkedStudy
from locator.site_placer import LocatorPlacer
from workspace.json_files import read_object

#: The entry of a locator's notes that names the series it learned from, by study.
TRAINED_SERIES = "trained_series"


def trained_series(studies: Iterable[MarkedStudy]) -> dict[str, list[int]]:
    """Return the entry of the notes of a locator that was trained on these studies."""
    return {str(study.study_id): sorted(study.series_ids) for study in studies}


def studies_seen(placer: Placer, series_of: Mapping[int, Iterable[int]]) -> set[int] | None:
    """Return the studies that the locator was trained on; None if it does not record its training studies.

    An atlas alone is a mean over many studies, and counts as having seen none.

    Args:
        placer: A placer of the sites of new studies.
        series_of: The series of each study in question. A study is the same if it has a series of the same number.

    Raises:
        ValueError: The record of the locator is damaged.
    """
    # The shipped locator learned from synthetic spines only.
    if not isinstance(placer, LocatorPlacer) or placer.folder is None:
        return set()
    notes = read_object(placer.folder / LOCATOR, "train_locator.py", SCHEMA_VERSION).get("notes")
    recorded = notes.get(TRAINED_SERIES) if isinstance(notes, dict) else None
    if not isinstance(recorded, dict):
        return None
    return {study for study, series in series_of.items() if set(series) & set(recorded.get(str(study), ()))}
