"""Site embeddings of a run, on disk once: ``image.npy`` (N, D) float32, ``rows.json``, and ``embeddings.json`` last.

That holds the fingerprints of the model and of the data set. Embeddings of another model or other data are
refused: they look exactly like the right ones.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import Condition, Level, Severity, Side, Site, Source, View
from vl_model.rows import SiteRow
from vl_model.site_table import Ints, SiteTable, row_keys, site_table
from vl_model.whole_files import whole_file

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Embeddings:
    """image_ND: float32, L2-normalised, one row a `SiteRow`; fingerprint: of the checkpoint and the data set."""

    rows: tuple[SiteRow, ...]
    image_ND: NDArray[np.float32]
    fingerprint: dict[str, str]

    @property
    def table(self) -> SiteTable:
        return site_table((row.study_id, row.site, row.severity) for row in self.rows)

    def places_of(self, table: SiteTable) -> Ints:
        """The row here of each row of `table`; -1 for a site that no image shows."""
        place = {key: row for row, key in enumerate(row_keys(self.table))}
        return np.array([place.get(key, -1) for key in row_keys(table)], dtype=np.int64)


@dataclass(frozen=True)
class TextEmbeddings:
    """text_SCD: (25, 3, D), each site's and severity's prompt ensemble; logit_scale: the model's inverse temperature.

    On disk ``text.npy`` and, written last, ``text.json``; fingerprint: of the checkpoint and the prompts.
    """

    text_SCD: NDArray[np.float32]
    logit_scale: float
    fingerprint: dict[str, str]


def fingerprint(final: Path, dataset_fingerprint: str) -> dict[str, str]:
    """What embeddings depend on: sha256 over the files of a run's ``final/``, and the data set's fingerprint."""
    digest = hashlib.sha256()
    for path in sorted(final.iterdir()):
        if path.suffix in (".safetensors", ".json"):
            digest.update(path.name.encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {"checkpoint": digest.hexdigest(), "dataset": dataset_fingerprint}


def write_embeddings(folder: Path, embeddings: Embeddings) -> None:
    """Write the three files by rename, ``embeddings.json`` last."""
    (folder / "embeddings.json").unlink(missing_ok=True)
    _write_array(folder / "image.npy", embeddings.image_ND)
    _write_json(folder / "rows.json", [_to_json(row) for row in embeddings.rows])
    shape = list(embeddings.image_ND.shape)
    card = {"schema_version": SCHEMA_VERSION, "shape": shape, "fingerprint": embeddings.fingerprint}
    _write_json(folder / "embeddings.json", card)


def read_embeddings(folder: Path, expected: dict[str, str]) -> Embeddings:
    """Read them. Raises ValueError where they are missing, damaged, or of another model or data set than `expected`."""
    try:
        card = json.loads((folder / "embeddings.json").read_text(encoding="utf-8"))
        rows = tuple(_from_json(row) for row in json.loads((folder / "rows.json").read_text(encoding="utf-8")))
        image_ND = np.load(folder / "image.npy", allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: no such file; eval_vl.py writes it") from None
    except (EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: embeddings that cannot be read ({error}); run eval_vl.py again") from None
    if card.get("schema_version") != SCHEMA_VERSION or card.get("shape") != list(image_ND.shape):
        raise ValueError(f"{folder}: embeddings of another version or shape; run eval_vl.py again")
    for name, value in expected.items():
        if card["fingerprint"].get(name) != value:
            raise ValueError(f"{folder}: embeddings of another {name}; run eval_vl.py again")
    return Embeddings(rows, image_ND, card["fingerprint"])


def prompts_fingerprint(prompts: Sequence[Sequence[Sequence[str]]]) -> str:
    """sha256 of the zero-shot prompts, sites by severities by sentences."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def write_text_embeddings(folder: Path, texts: TextEmbeddings) -> None:
    """Write both files by rename, ``text.json`` last."""
    (folder / "text.json").unlink(missing_ok=True)
    _write_array(folder / "text.npy", texts.text_SCD)
    card = {"schema_version": SCHEMA_VERSION, "logit_scale": texts.logit_scale, "fingerprint": texts.fingerprint}
    _write_json(folder / "text.json", card)


def read_text_embeddings(folder: Path, expected: dict[str, str]) -> TextEmbeddings:
    """Read them. Raises ValueError where they are missing, damaged, or not what `expected` says."""
    try:
        card = json.loads((folder / "text.json").read_text(encoding="utf-8"))
        text_SCD = np.load(folder / "text.npy", allow_pickle=False)
        if card["schema_version"] != SCHEMA_VERSION or card["fingerprint"] != expected:
            raise ValueError("of another model, version or other prompts")
        return TextEmbeddings(text_SCD, float(card["logit_scale"]), card["fingerprint"])
    except (EOFError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: text embeddings cannot be used ({error}); run eval_vl.py again") from None


def _to_json(row: SiteRow) -> dict[str, Any]:
    return {
        "study_id": row.study_id,
        "condition": row.site.condition.value,
        "side": None if row.site.side is None else row.site.side.value,
        "level": row.site.level.value,
        "severity": None if row.severity is None else row.severity.key,
        "fold": row.fold,
        "source": row.source.value,
        "crops": list(row.crops),
        "views": [view.value for view in row.views],
    }


def _from_json(row: dict[str, Any]) -> SiteRow:
    side, severity = row["side"], row["severity"]
    return SiteRow(
        study_id=row["study_id"],
        site=Site(Condition(row["condition"]), None if side is None else Side(side), Level(row["level"])),
        severity=None if severity is None else Severity[severity.upper()],
        fold=row["fold"],
        source=Source(row["source"]),
        crops=tuple(row["crops"]),
        views=tuple(View(view) for view in row["views"]),
    )


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.save(file, array.astype(np.float32), allow_pickle=False)


def _write_json(path: Path, content: dict[str, Any] | Sequence[Any]) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
