"""Image-text pairs: ``dataset.json`` and the rows of ``train_dataset.csv``, written, read and checked.

``dataset.json`` is the contract between preparation and everything after it: `metadata`, whose
schema version is checked at the door, and `pairs`, one for each (study, site, view) that is imaged.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.sites import SITE_COLUMNS, Severity, Site, Source, View
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
#: What parts metadata and pairs in ``dataset.json``, and what ends it.
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
"""Columns of ``train_dataset.csv``. The last one repeats the first: by its name `datasets` makes an image of it."""


@dataclass(frozen=True)
class Pair:
    """One site in one view, and what is to be said of it.

    image: the middle slice's PNG, relative to ``processed_data/``; box: the site's field in its pixels.
    instance_numbers: the tile's three slices; crop: the tile's row in ``crops.npy``.
    severity: None where nobody graded it; fold: None outside the train split.
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


@dataclass(frozen=True)
class Dataset:
    """``dataset.json`` as read."""

    metadata: dict[str, Any]
    pairs: tuple[Pair, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 over pairs and crops: what a run records of the data it saw."""
        return str(self.metadata["fingerprint"])

    @property
    def study_ids(self) -> tuple[int, ...]:
        """All studies that the tables name, in their order, also those without any usable image."""
        return tuple(self.metadata["study_ids"])

    @property
    def fold_of(self) -> dict[int, int]:
        """The fold of every training study on the disk, also of those without any pair; empty in other splits."""
        return {int(study_id): fold for study_id, fold in self.metadata["folds"]["of_study"].items()}


def read_dataset(processed: Path) -> Dataset:
    """Read ``dataset.json``. Raises ValueError with one line where it is missing, malformed or of another version."""
    path = processed / "dataset.json"
    content = read_object(path, "prepare_data.py")
    metadata = content.get("metadata")
    version = metadata.get("schema_version") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema version {version}, expected {SCHEMA_VERSION}; run prepare_data.py again")
    try:
        dataset = Dataset(metadata, tuple(_from_json(entry) for entry in content["pairs"]))
        _ = dataset.fingerprint, dataset.study_ids, dataset.fold_of
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a part is missing or is none ({error!r}); run prepare_data.py again") from None
    return dataset


def read_metadata(processed: Path) -> dict[str, Any]:
    """The metadata of ``dataset.json`` alone, whatever the number of pairs.

    Raises ValueError where the file is missing, of another version, or not laid out as `write_dataset` does.
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
                raise ValueError("its end is missing")
        metadata = json.loads("".join(lines).rstrip().removesuffix(",") + "}")["metadata"]
        if metadata["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {metadata['schema_version']}, expected {SCHEMA_VERSION}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); run prepare_data.py again") from None
    return dict(metadata)


def write_dataset(processed: Path, metadata: dict[str, Any], pairs: Iterable[Pair], crops_fingerprint: str) -> None:
    """Write ``dataset.json``, one pair a line, by rename; its fingerprint and schema version are put into `metadata`.

    Everything it speaks of must be there already: its presence says that a conversion is complete. Pairs are
    written as they come; the fingerprint, which stands before them, is filled in when they are all known.
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
        file.seek(head.rindex(blank))  # characters are bytes here: json.dumps writes ASCII
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
    """condition -> level -> severity (or ``unlabelled``) -> number of graded sites, each counted once."""
    sites = {(pair.study_id, pair.site): pair.severity for pair in pairs}
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (_, site), severity in sites.items():
        cell = counts.setdefault(site.condition_key, {}).setdefault(site.level.value, {})
        name = Severity.to_column(severity) or "unlabelled"
        cell[name] = cell.get(name, 0) + 1
    return counts
