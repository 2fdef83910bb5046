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

from data_prep.sites import SITES, Severity, Site, Source, View
from vl_model.data.site_rows import SiteRow
from vl_model.data.site_table import Ints, SiteTable, row_keys, site_table
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Embeddings:
    """image_ND: float32, L2-normalised, one row a `SiteRow`; fingerprint: of the checkpoint and the data set."""

    rows: tuple[SiteRow, ...]
    image_ND: NDArray[np.float32]
    fingerprint: dict[str, str]

    def __post_init__(self) -> None:
        if not np.isfinite(self.image_ND).all():
            raise ValueError("an embedding is not finite: the model's weights are damaged, or it diverged in training")

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
        if path.suffix in (".safetensors", ".json", ".txt", ".model"):  # the last two: tokenizers' files
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
        card = read_object(folder / "embeddings.json", "eval_vl.py", SCHEMA_VERSION)
        found, shape = dict(card["fingerprint"]), card["shape"]
        rows = tuple(_from_json(row) for row in json.loads((folder / "rows.json").read_text(encoding="utf-8")))
        embeddings = Embeddings(rows, np.load(folder / "image.npy", allow_pickle=False), found)
    except (OSError, EOFError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder}: embeddings that cannot be read ({error}); run eval_vl.py again") from None
    if shape != list(embeddings.image_ND.shape) or len(rows) != shape[0]:
        raise ValueError(f"{folder}: embeddings of another shape than their card says; run eval_vl.py again")
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(f"{folder}: embeddings of another {name}; run eval_vl.py again")
    return embeddings


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
        card = read_object(folder / "text.json", "eval_vl.py", SCHEMA_VERSION)
        text_SCD = np.load(folder / "text.npy", allow_pickle=False)
        if card["fingerprint"] != expected:
            raise ValueError("of another model, or of other prompts")
        if text_SCD.shape[:2] != (len(SITES), len(Severity)) or text_SCD.ndim != 3:
            raise ValueError(f"of shape {text_SCD.shape}")
        if not np.isfinite(text_SCD).all():
            raise ValueError("not finite")
        return TextEmbeddings(text_SCD, float(card["logit_scale"]), card["fingerprint"])
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: text embeddings cannot be used ({error}); run eval_vl.py again") from None


def _to_json(row: SiteRow) -> dict[str, Any]:
    return {
        "study_id": row.study_id,
        **row.site.columns,
        "severity": Severity.to_column(row.severity),
        "fold": row.fold,
        "source": row.source.value,
        "crops": list(row.crops),
        "views": [view.value for view in row.views],
    }


def _from_json(row: dict[str, Any]) -> SiteRow:
    return SiteRow(
        study_id=row["study_id"],
        site=Site.from_columns(row),
        severity=Severity.from_column(row["severity"]),
        fold=row["fold"],
        source=Source(row["source"]),
        crops=tuple(row["crops"]),
        views=tuple(View(view) for view in row["views"]),
    )


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array.astype(np.float32), allow_pickle=False)


def _write_json(path: Path, content: dict[str, Any] | Sequence[Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
