"""The merge of all studies' parts, in the cohort's order, into the tables, the crops and ``dataset.json``.

One study is held in memory at a time; only a few counts grow with the cohort.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, CropGeometry
from data_prep.conversion.crops import write_crops
from data_prep.conversion.dataset_card import write_dataset_card
from data_prep.conversion.pairs import TRAIN_COLUMNS, Pair, count_sites, png_path, train_row, write_dataset
from data_prep.conversion.study_records import (
    SITES_CSV_COLUMNS,
    SLICE_COLUMNS,
    StudyRecord,
    needed_decoders,
    read_crops,
    read_record,
    site_row,
)
from data_prep.conversion.twin_studies import find_twins, twin_faults
from data_prep.conversion.work_folder import output_sizes, parts_folder, remove_stale_images, remove_stale_studies
from data_prep.faults import Fault
from data_prep.placement.regions import Region
from data_prep.sites import Severity, Site
from data_prep.studies.cohorts import Cohort
from data_prep.studies.identity import split_study_faults
from workspace.whole_files import ESCAPED, replacing

FAULT_COLUMNS = ("study_id", "series_id", "path", "kind", "action", "message")
#: The tables and their columns.
TABLES = {
    "slices.csv": SLICE_COLUMNS,
    "sites.csv": SITES_CSV_COLUMNS,
    "faults.csv": FAULT_COLUMNS,
    "train_dataset.csv": TRAIN_COLUMNS,
}
#: The files whose sizes ``dataset.json`` contains, besides images: those that must be complete. People may edit the
#: dataset card, so it is not among them.
OUTPUTS = (*TABLES, "atlas.json", "crops.npy", "crops.json")

Caption = Callable[[Site, Severity | None], str]
"""Makes the caption of a pair from a site and its severity, None if unlabelled."""


@dataclass(frozen=True)
class Summary:
    """The counts of a conversion: studies with images, slices, pairs, and faults by kind.

    up_to_date: Whether an earlier conversion had written everything.
    """

    studies: int
    slices: int
    pairs: int
    faults: dict[str, int]
    up_to_date: bool = False


@dataclass
class _Counts:
    """The counts over all parts, for the metadata."""

    studies: int = 0
    slices: int = 0
    pairs: int = 0
    tiles: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    not_imaged: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    sites: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    identities: dict[int, str] = field(default_factory=dict)
    digests: dict[int, tuple[str, ...]] = field(default_factory=dict)
    twins: list[tuple[int, int]] = field(default_factory=list)

    def add(self, record: StudyRecord, pairs: Sequence[Pair]) -> None:
        """Count a study and its pairs."""
        self.studies += bool(record.slices)
        self.slices += len(record.slices)
        self.pairs += len(pairs)
        self.tiles += sum(found.tiles for found in record.regions)
        self.faults.update(fault.kind.value for fault in record.faults)
        self.not_imaged.update(record.not_imaged)
        self.sources.update(pair.source.value for pair in pairs)
        if record.slices:
            self.identities[record.study_id] = record.identity
            self.digests[record.study_id] = record.digests
        for condition, levels in count_sites(pairs).items():
            for level, severities in levels.items():
                cell = self.sites.setdefault(condition, {}).setdefault(level, {})
                for severity, count in severities.items():
                    cell[severity] = cell.get(severity, 0) + count

    def to_metadata(self) -> dict[str, Any]:
        """Return the counts as a JSON object."""
        return {
            "studies": self.studies,
            "slices": self.slices,
            "pairs": self.pairs,
            "faults": dict(sorted(self.faults.items())),
            "not_imaged": dict(self.not_imaged),
            "sites": self.sites,
        }


def merge_parts(
    cohort: Cohort,
    processed: Path,
    caption: Caption,
    fold_of: Mapping[int, int],
    notes: dict[str, Any],
    geometry: CropGeometry = DEFAULT_CROPS,
) -> Summary:
    """Write all files of ``processed_data`` but the PNGs, ``dataset.json`` last, and remove stale images.

    Args:
        cohort: The studies, all of which have been converted.
        processed: The folder to write.
        caption: Makes the caption of a site and severity.
        fold_of: The fold of each study; empty outside the train split.
        notes: More entries of the metadata.
        geometry: The geometry of the crops.
    """
    counts = _write_tables(cohort, processed, caption, fold_of)
    remove_stale_studies(processed, {folder.study_id for folder in cohort.folders})
    crops = (read_crops(parts_folder(processed), folder.study_id) for folder in cohort.folders)
    crops_fingerprint = write_crops(processed, crops, counts.tiles, geometry)
    metadata = {
        "split": cohort.split,
        "counts": counts.to_metadata(),
        "sources": dict(counts.sources),
        **notes,
        "decoders": needed_decoders(counts.faults),
        "sizes": output_sizes(processed, OUTPUTS),
        "study_ids": list(cohort.study_ids),
    }
    if counts.twins:
        metadata["twins"] = [list(pair) for pair in counts.twins]
    if cohort.folder_names:
        metadata["folder_names"] = {str(study_id): name for study_id, name in cohort.folder_names.items()}
    pairs = (pair for _, pairs in _parts(cohort, processed, caption, fold_of) for pair in pairs)
    write_dataset(processed, metadata, pairs, crops_fingerprint)
    return summary_of(metadata["counts"])


def write_faults(cohort: Cohort, processed: Path) -> None:
    """Write ``faults.csv`` alone, for a conversion without any readable image."""
    with _table(processed / "faults.csv", FAULT_COLUMNS) as table:
        table.writerows(map(_fault_row, cohort.faults))
        for folder in cohort.folders:
            table.writerows(map(_fault_row, read_record(parts_folder(processed), folder.study_id).faults))


def summary_of(counts: Mapping[str, Any], up_to_date: bool = False) -> Summary:
    """Return a summary from the counts in the metadata of ``dataset.json``."""
    return Summary(counts["studies"], counts["slices"], counts["pairs"], counts["faults"], up_to_date)


def _write_tables(cohort: Cohort, processed: Path, caption: Caption, fold_of: Mapping[int, int]) -> _Counts:
    """Write the tables and the dataset card, remove stale images of the studies, and return the counts."""
    counts = _Counts(faults=Counter(fault.kind.value for fault in cohort.faults))
    first_pairs: list[Pair] = []
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
            first_pairs = first_pairs or pairs
        twins = find_twins(counts.digests, fold_of)
        counts.twins = list(twins)
        of_several = [*split_study_faults(cohort.split, counts.identities), *twin_faults(twins, fold_of)]
        faults.writerows(map(_fault_row, of_several))
        counts.faults.update(fault.kind.value for fault in of_several)
    write_dataset_card(processed, cohort.split, first_pairs)
    return counts


def _parts(
    cohort: Cohort, processed: Path, caption: Caption, fold_of: Mapping[int, int]
) -> Iterator[tuple[StudyRecord, list[Pair]]]:
    """Yield each study's record and pairs; crops are numbered consecutively over the studies."""
    crop = 0
    for folder in cohort.folders:
        record = read_record(parts_folder(processed), folder.study_id)
        study, fold = folder.study_id, fold_of.get(folder.study_id)
        pairs = list(region_pairs(study, record.regions, caption, folder.severities, fold, first_crop=crop))
        crop += sum(found.tiles for found in record.regions)
        yield record, pairs


def region_pairs(
    study: int,
    regions: Iterable[Region],
    caption: Caption,
    severities: Mapping[Site, Severity],
    fold: int | None,
    first_crop: int,
) -> Iterator[Pair]:
    """Yield the pairs of a study's regions, whose tiles are consecutive rows of ``crops.npy`` from `first_crop` on."""
    for found in regions:
        severity = severities.get(found.site)
        pair = Pair(
            study_id=study,
            site=found.site,
            view=found.view,
            series_id=found.series_id,
            instance_number=found.instance_number,
            instance_numbers=found.instance_numbers,
            image=png_path(study, found.series_id, found.instance_number),
            box=found.box,
            text=caption(found.site, severity),
            severity=severity,
            source=found.source,
            fold=fold,
            crop=first_crop,
        )
        yield replace(pair, crop=first_crop - pair.offsets[0]) if found.tiles > 1 else pair
        first_crop += found.tiles


def _fault_row(fault: Fault) -> list[Any]:
    return [getattr(fault, name) for name in FAULT_COLUMNS]


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """Open a CSV writer on a new table, which is written by rename."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8", errors=ESCAPED) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        yield table
