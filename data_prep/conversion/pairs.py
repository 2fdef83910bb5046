"""Image-text pairs: writing, reading and checking ``dataset.json``, and the rows of ``train_dataset.csv``.

``dataset.json`` is the interface between preparation and all later stages. It contains `metadata`, whose
schema version is checked when it is read, and `pairs`, one for each (study, site, view) that is imaged.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.conversion.crop_geometry import CROP_SLICES
from data_prep.sites import SITE_COLUMNS, Severity, Side, Site, Source, View
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
#: The text between metadata and pairs in ``dataset.json``, and the text at its end.
PAIRS_BEGIN, PAIRS_END = '"pairs": [\n', "\n]}\n"

TRAIN_COLUMNS = (
    "image_path",
    "study_id",
    "series_id",
    "instance_number",
    *SITE_COLUMNS,
    "severity",
    "text",
    "view",
    "fold",
    "image_file_name",
)
"""Columns of ``train_dataset.csv``. The last repeats the first: `datasets` makes images of a column of that name."""


@dataclass(frozen=True)
class Pair:
    """One site in one view, with its image and its caption.

    Attributes:
        study_id: The study.
        site: The site.
        view: The view.
        series_id: The series of the slices.
        instance_number: The middle slice.
        instance_numbers: The slices of its tiles, three each, in stack order (`placement.regions.Region`).
        image: PNG of the middle slice, relative to ``processed_data``.
        box: The region, (x0, y0, x1, y1) in (column, row) pixels of that PNG.
        text: The caption.
        severity: The grade; None if unlabelled.
        source: The source of the site's position.
        fold: The study's fold; None outside the train split.
        crop: Row in ``crops.npy`` of the tile at the site; those of its other tiles lie around it (`crops`).
    """

    study_id: int
    site: Site
    view: View
    series_id: int
    instance_number: int
    instance_numbers: tuple[int, ...]
    image: str
    box: tuple[float, float, float, float]
    text: str
    severity: Severity | None
    source: Source
    fold: int | None
    crop: int

    @property
    def offsets(self) -> tuple[int, ...]:
        """The place of each tile in the mirrored stack, in tiles from the one at the site, which has 0."""
        middles = self.instance_numbers[1::CROP_SLICES]
        if len(middles) == 1:
            return (0,)
        before, after = middles.index(self.instance_number), len(middles) - 1 - middles.index(self.instance_number)
        if self.site.side is Side.RIGHT and self.view.is_sagittal:  # crops.py mirrors them
            before, after = after, before
        return tuple(range(-before, after + 1))

    @property
    def crops(self) -> tuple[int, ...]:
        """The rows of all its tiles in ``crops.npy``, in the order of `offsets`."""
        return tuple(self.crop + offset for offset in self.offsets)


@dataclass(frozen=True)
class Dataset:
    """The content of ``dataset.json``."""

    metadata: dict[str, Any]
    pairs: tuple[Pair, ...]

    @property
    def fingerprint(self) -> str:
        """A sha256 of pairs and crops, which identifies the data of a run."""
        return str(self.metadata["fingerprint"])

    @property
    def study_ids(self) -> tuple[int, ...]:
        """All studies of the tables, in their order, including those without a usable image."""
        return tuple(self.metadata["study_ids"])

    @property
    def folder_names(self) -> dict[int, str]:
        """The folder of each new study, as a path within the folder of all; empty for a split of a data root."""
        return {int(study_id): name for study_id, name in self.metadata.get("folder_names", {}).items()}

    @property
    def twins(self) -> tuple[tuple[int, int], ...]:
        """Pairs of studies in different folds whose images are the same (`data_prep.conversion.twin_studies`)."""
        return twins_of(self.metadata)

    @property
    def fold_of(self) -> dict[int, int]:
        """The fold of every converted study, including those without pairs; empty outside the train split."""
        return folds_of(self.metadata)


def png_path(study_id: int, series_id: int, instance_number: int) -> str:
    """Return the path of a slice's PNG within ``processed_data``."""
    return f"images/{study_id}/{series_id}/{instance_number}.png"


def read_dataset(processed: Path) -> Dataset:
    """Read ``dataset.json``. Raises ValueError if it does not exist, is damaged, or has another version."""
    path = processed / "dataset.json"
    content = read_object(path, "prepare_data.py")
    metadata = content.get("metadata")
    version = metadata.get("schema_version") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {version}, expected {SCHEMA_VERSION}; run prepare_data.py again")
    try:
        dataset = Dataset(metadata, tuple(_from_json(entry) for entry in content["pairs"]))
        _ = dataset.fingerprint, dataset.study_ids, dataset.fold_of, dataset.twins
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: an entry is missing or invalid ({error!r}); run prepare_data.py again") from None
    return dataset


def folds_of(metadata: Mapping[str, Any]) -> dict[int, int]:
    """Return the fold of every converted study from the metadata of ``dataset.json``."""
    return {int(study_id): int(fold) for study_id, fold in metadata["folds"]["of_study"].items()}


def twins_of(metadata: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of studies in different folds whose images are the same, from the metadata."""
    return tuple((int(one), int(other)) for one, other in metadata.get("twins", ()))


def read_metadata(processed: Path) -> dict[str, Any]:
    """Read the metadata of ``dataset.json`` alone, in a time that does not depend on the number of pairs.

    Raises ValueError if the file does not exist, has another version, or does not have the layout of `write_dataset`.
    """
    path = processed / "dataset.json"
    lines = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line == PAIRS_BEGIN:
                    break
                lines.append(line)
        with path.open("rb") as file:
            file.seek(-min(len(PAIRS_END), path.stat().st_size), os.SEEK_END)
            if file.read() != PAIRS_END.encode():
                raise ValueError("the end of the file is missing")
        metadata = json.loads("".join(lines).rstrip().removesuffix(",") + "}")["metadata"]
        if metadata["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {metadata['schema_version']}, expected {SCHEMA_VERSION}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); run prepare_data.py again") from None
    return dict(metadata)


def write_dataset(processed: Path, metadata: dict[str, Any], pairs: Iterable[Pair], crops_fingerprint: str) -> None:
    """Write ``dataset.json`` by rename, one pair per line; add the schema version and the fingerprint to the metadata.

    All files that it refers to must exist already, because its existence means that the conversion is complete. Pairs
    are written as they come; the fingerprint, which precedes them in the file, is filled in at the end.
    """
    digest = hashlib.sha256(crops_fingerprint.encode())
    blank = "0" * len(digest.hexdigest())
    metadata = {"schema_version": SCHEMA_VERSION, **metadata, "fingerprint": blank}
    head = '{"metadata": ' + json.dumps(metadata, indent=1) + ",\n"
    with replacing(processed / "dataset.json") as partial, partial.open("w", encoding="utf-8") as file:
        file.write(head + PAIRS_BEGIN)
        for number, pair in enumerate(pairs):
            line = json.dumps(_to_json(pair))
            digest.update(line.encode())
            file.write(",\n" + line if number else line)
        file.write(PAIRS_END)
        file.seek(head.rindex(blank))  # characters are bytes, because json.dumps writes ASCII
        file.write(digest.hexdigest())


def _to_json(pair: Pair) -> dict[str, Any]:
    return {
        "study_id": pair.study_id,
        "series_id": pair.series_id,
        "instance_number": pair.instance_number,
        "image": pair.image,
        "text": pair.text,
        **pair.site.columns,
        "severity": Severity.to_column(pair.severity),
        "view": pair.view.value,
        "box": list(pair.box),
        "source": pair.source.value,
        "fold": pair.fold,
        "instance_numbers": list(pair.instance_numbers),
        "crop": pair.crop,
    }


def _from_json(entry: dict[str, Any]) -> Pair:
    x0, y0, x1, y1 = entry["box"]
    return Pair(
        study_id=int(entry["study_id"]),
        site=Site.from_columns(entry),
        view=View(entry["view"]),
        series_id=int(entry["series_id"]),
        instance_number=int(entry["instance_number"]),
        instance_numbers=tuple(entry["instance_numbers"]),
        image=entry["image"],
        box=(x0, y0, x1, y1),
        text=entry["text"],
        severity=Severity.from_column(entry["severity"]),
        source=Source(entry["source"]),
        fold=entry["fold"],
        crop=int(entry["crop"]),
    )


def train_row(pair: Pair) -> tuple[Any, ...]:
    """Return a row of ``train_dataset.csv``; side, severity and fold are empty texts if there is none."""
    cells = (
        pair.image,
        pair.study_id,
        pair.series_id,
        pair.instance_number,
        *pair.site.columns.values(),
        Severity.to_column(pair.severity),
        pair.text,
        pair.view.value,
        pair.fold,
        pair.image,
    )
    return tuple("" if cell is None else cell for cell in cells)


def count_sites(pairs: Iterable[Pair]) -> dict[str, dict[str, dict[str, int]]]:
    """Count the sites by condition, level and severity (or ``unlabelled``); each site of a study is counted once."""
    sites = {(pair.study_id, pair.site): pair.severity for pair in pairs}
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (_, site), severity in sites.items():
        cell = counts.setdefault(site.condition_key, {}).setdefault(site.level.value, {})
        name = Severity.to_column(severity) or "unlabelled"
        cell[name] = cell.get(name, 0) + 1
    return counts
