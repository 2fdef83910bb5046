"""The parts of all studies, in the cohort's order, to the tables, the crops and ``dataset.json``.

One study is held at a time: what grows with the cohort is a few counts.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.conversion.crops import write_crops
from data_prep.conversion.dataset_card import write_dataset_card
from data_prep.conversion.pairs import TRAIN_COLUMNS, Pair, count_sites, train_row, write_dataset
from data_prep.conversion.study_records import (
    SITES_CSV_COLUMNS,
    SLICE_COLUMNS,
    StudyRecord,
    decoders_that_matter,
    image_path,
    read_record,
    read_tiles,
    site_row,
)
from data_prep.conversion.work_folder import output_sizes, parts_folder, remove_stale_images, remove_stale_studies
from data_prep.faults import Fault
from data_prep.sites import Severity, Site
from data_prep.studies.cohorts import Cohort
from data_prep.studies.studies import StudyFolder
from workspace.whole_files import replacing

FAULT_COLUMNS = ("study_id", "series_id", "path", "kind", "action", "message")
#: Each table and its columns.
TABLES = {
    "slices.csv": SLICE_COLUMNS,
    "sites.csv": SITES_CSV_COLUMNS,
    "faults.csv": FAULT_COLUMNS,
    "train_dataset.csv": TRAIN_COLUMNS,
}
#: What ``dataset.json`` notes the sizes of, besides images: all that must be whole. People may edit the dataset card.
OUTPUTS = (*TABLES, "atlas.json", "crops.npy", "crops.json")

Caption = Callable[[Site, Severity | None], str]
"""Words of a pair, for a site and what it was graded."""


@dataclass(frozen=True)
class Summary:
    """What a conversion wrote; faults by kind. `studies` are those with at least one image."""

    studies: int
    slices: int
    pairs: int
    faults: dict[str, int]
    up_to_date: bool = False


@dataclass
class _Counts:
    """What is counted while the parts pass by."""

    studies: int = 0
    slices: int = 0
    pairs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    not_imaged: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    sites: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def add(self, record: StudyRecord, pairs: Sequence[Pair]) -> None:
        self.studies += bool(record.slices)
        self.slices += len(record.slices)
        self.pairs += len(pairs)
        self.faults.update(fault.kind.value for fault in record.faults)
        self.not_imaged.update(record.not_imaged)
        self.sources.update(pair.source.value for pair in pairs)
        for condition, levels in count_sites(pairs).items():
            for level, severities in levels.items():
                cell = self.sites.setdefault(condition, {}).setdefault(level, {})
                for severity, count in severities.items():
                    cell[severity] = cell.get(severity, 0) + count

    def to_metadata(self) -> dict[str, Any]:
        return {
            "studies": self.studies,
            "slices": self.slices,
            "pairs": self.pairs,
            "faults": dict(sorted(self.faults.items())),
            "not_imaged": dict(self.not_imaged),
            "sites": self.sites,
        }


def gather(
    cohort: Cohort, processed: Path, caption: Caption, fold_of: Mapping[int, int], notes: dict[str, Any]
) -> Summary:
    """Write all that is not there yet, ``dataset.json`` last, and remove images that are nobody's any more."""
    counts = _write_tables(cohort, processed, caption, fold_of)
    remove_stale_studies(processed, {folder.study_id for folder in cohort.folders})
    tiles = (read_tiles(parts_folder(processed), folder.study_id) for folder in cohort.folders)
    crops_fingerprint = write_crops(processed, tiles, counts.pairs)
    metadata = {
        "split": cohort.split,
        "counts": counts.to_metadata(),
        "sources": dict(counts.sources),
        **notes,
        "decoders": decoders_that_matter(counts.faults),
        "sizes": output_sizes(processed, OUTPUTS),
        "study_ids": list(cohort.study_ids),
    }
    pairs = (pair for _, pairs in _parts(cohort, processed, caption, fold_of) for pair in pairs)
    write_dataset(processed, metadata, pairs, crops_fingerprint)
    return summary_of(metadata["counts"])


def write_faults(cohort: Cohort, processed: Path) -> None:
    """``faults.csv`` alone, of a conversion that came to nothing else."""
    with _table(processed / "faults.csv", FAULT_COLUMNS) as table:
        table.writerows(map(_fault_row, cohort.faults))
        for folder in cohort.folders:
            table.writerows(map(_fault_row, read_record(parts_folder(processed), folder.study_id).faults))


def summary_of(counts: Mapping[str, Any], up_to_date: bool = False) -> Summary:
    """From the counts in the metadata of ``dataset.json``."""
    return Summary(counts["studies"], counts["slices"], counts["pairs"], counts["faults"], up_to_date)


def _write_tables(cohort: Cohort, processed: Path, caption: Caption, fold_of: Mapping[int, int]) -> _Counts:
    counts = _Counts(faults=Counter(fault.kind.value for fault in cohort.faults))
    shown: list[Pair] = []
    with ExitStack() as stack:
        slices, sites, faults, train = (
            stack.enter_context(_table(processed / name, columns)) for name, columns in TABLES.items()
        )
        faults.writerows(map(_fault_row, cohort.faults))
        for record, pairs in _parts(cohort, processed, caption, fold_of):
            slices.writerows(record.slices)
            sites.writerows(site_row(record.study_id, position) for position in record.positions)
            faults.writerows(map(_fault_row, record.faults))
            train.writerows(map(train_row, pairs))
            remove_stale_images(processed, record.study_id, record.images)
            counts.add(record, pairs)
            shown = shown or pairs
    write_dataset_card(processed, cohort.split, shown)
    return counts


def _parts(
    cohort: Cohort, processed: Path, caption: Caption, fold_of: Mapping[int, int]
) -> Iterator[tuple[StudyRecord, list[Pair]]]:
    """Each study's record and pairs; crops are numbered through."""
    crop = 0
    for folder in cohort.folders:
        record = read_record(parts_folder(processed), folder.study_id)
        pairs = list(_pairs(folder, record, caption, fold_of.get(folder.study_id), first_crop=crop))
        crop += len(pairs)
        yield record, pairs


def _pairs(
    folder: StudyFolder, record: StudyRecord, caption: Caption, fold: int | None, first_crop: int
) -> Iterator[Pair]:
    for crop, found in enumerate(record.regions, start=first_crop):
        severity = folder.severities.get(found.site)
        yield Pair(
            study_id=folder.study_id,
            site=found.site,
            view=found.view,
            series_id=found.series_id,
            instance_number=found.instance_number,
            instance_numbers=found.instance_numbers,
            image=image_path(folder.study_id, found.series_id, found.instance_number),
            box=found.box,
            text=caption(found.site, severity),
            severity=severity,
            source=found.source,
            fold=fold,
            crop=crop,
        )


def _fault_row(fault: Fault) -> list[Any]:
    return [getattr(fault, name) for name in FAULT_COLUMNS]


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """A CSV writer on a new table that appears by rename."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        yield table
