"""Embeddings of a run's sites and prompts, and their files.

The files are ``image.npy`` (N, D) and ``weights.npy`` (N, 3 views), both float32, ``rows.json`` and, written last,
``embeddings.json`` with the fingerprints of the checkpoint and of the data set. Embeddings of another checkpoint or
data set are refused, because nothing else distinguishes them from the right ones.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Severity, Site, Source, View
from runs.run_record import final_sha256
from vl_model.data.site_rows import SiteRow
from vl_model.data.site_table import Ints, SiteTable, row_keys, site_table
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 2
TEXT_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of sites.

    rows: the sites. image_ND: float32, L2-normalised, one row per site. fingerprint: of the checkpoint and data set.
    weight_NV: the weight that the pooling gave to each view of a site, in the order of `View`; NaN, or None for all,
    if it is not known.
    """

    rows: tuple[SiteRow, ...]
    image_ND: NDArray[np.float32]
    fingerprint: dict[str, str]
    weight_NV: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.image_ND).all():
            raise ValueError("an embedding is not finite: the model's weights are damaged, or its training diverged")
        if self.weight_NV is not None and self.weight_NV.shape != (len(self.rows), len(View)):
            raise ValueError(f"the shape of the weights is {self.weight_NV.shape}, with {len(self.rows)} sites")

    @cached_property
    def table(self) -> SiteTable:
        return site_table((row.study_id, row.site, row.severity) for row in self.rows)

    def shown(self, table: SiteTable) -> tuple[SiteTable, NDArray[np.float32]]:
        """Return the rows of `table` that an image shows, and their embeddings."""
        row_N = self.rows_of(table)
        return table.take(row_N >= 0), self.image_ND[row_N[row_N >= 0]]

    def rows_of(self, table: SiteTable) -> Ints:
        """Return the index of each row of `table` among `rows`; -1 for a site that no image shows."""
        return np.array([self._row_of.get(key, -1) for key in row_keys(table)], dtype=np.int64)

    @cached_property
    def _row_of(self) -> dict[tuple[int, int], int]:
        return {key: row for row, key in enumerate(row_keys(self.table))}


@dataclass(frozen=True)
class TextEmbeddings:
    """Embeddings of the prompts, with the files ``text.npy``, ``wordings.npy`` and, written last, ``text.json``.

    text_SCD: (25, 3, D), one prompt ensemble per site and severity. logit_scale: the factor that the cosine
    similarities are multiplied by. fingerprint: of the checkpoint and the prompts. wording_WSCD: (W, 25, 3, D), each
    sentence of the ensembles by itself; those of the same number word all severities alike.
    """

    text_SCD: NDArray[np.float32]
    logit_scale: float
    fingerprint: dict[str, str]
    wording_WSCD: NDArray[np.float32]


def fingerprint(final: Path, dataset_fingerprint: str) -> dict[str, str]:
    """Return the fingerprint of embeddings: sha256 over the files of a run's ``final/``, and that of the data set."""
    return {"checkpoint": final_sha256(final), "dataset": dataset_fingerprint}


def write_embeddings(folder: Path, embeddings: Embeddings) -> None:
    """Write the four files, each by rename, ``embeddings.json`` last."""
    (folder / "embeddings.json").unlink(missing_ok=True)
    _write_array(folder / "image.npy", embeddings.image_ND)
    unknown_NV = np.full((len(embeddings.rows), len(View)), np.nan, dtype=np.float32)
    _write_array(folder / "weights.npy", unknown_NV if embeddings.weight_NV is None else embeddings.weight_NV)
    _write_json(folder / "rows.json", [_to_json(row) for row in embeddings.rows])
    shape = list(embeddings.image_ND.shape)
    card = {"schema_version": SCHEMA_VERSION, "shape": shape, "fingerprint": embeddings.fingerprint}
    _write_json(folder / "embeddings.json", card)


def read_embeddings(folder: Path, expected: dict[str, str]) -> Embeddings:
    """Read embeddings. Raises ValueError if they are missing, damaged, or have another fingerprint than `expected`."""
    try:
        card = read_object(folder / "embeddings.json", "eval_vl.py", SCHEMA_VERSION)
        found, shape = dict(card["fingerprint"]), card["shape"]
        rows = tuple(_from_json(row) for row in json.loads((folder / "rows.json").read_text(encoding="utf-8")))
        image_ND = np.load(folder / "image.npy", allow_pickle=False)
        embeddings = Embeddings(rows, image_ND, found, np.load(folder / "weights.npy", allow_pickle=False))
    except (OSError, EOFError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder}: the embeddings cannot be read ({error}); run eval_vl.py again") from None
    if shape != list(embeddings.image_ND.shape) or len(rows) != shape[0]:
        raise ValueError(f"{folder}: the shape of the embeddings is not that in embeddings.json; run eval_vl.py again")
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(f"{folder}: embeddings of another {name}; run eval_vl.py again")
    return embeddings


def prompts_fingerprint(prompts: Sequence[Sequence[Sequence[str]]]) -> str:
    """Return the sha256 of the zero-shot prompts (sites by severities by sentences)."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def write_text_embeddings(folder: Path, texts: TextEmbeddings) -> None:
    """Write the files, each by rename, ``text.json`` last."""
    (folder / "text.json").unlink(missing_ok=True)
    _write_array(folder / "text.npy", texts.text_SCD)
    _write_array(folder / "wordings.npy", texts.wording_WSCD)
    card = {"schema_version": TEXT_SCHEMA_VERSION, "logit_scale": texts.logit_scale, "fingerprint": texts.fingerprint}
    _write_json(folder / "text.json", card)


def read_text_embeddings(folder: Path, expected: dict[str, str]) -> TextEmbeddings:
    """Read embeddings of prompts. Raises ValueError if they are missing, damaged, or not those of `expected`."""
    try:
        card = read_object(folder / "text.json", "eval_vl.py", TEXT_SCHEMA_VERSION)
        text_SCD = np.load(folder / "text.npy", allow_pickle=False)
        wording_WSCD = np.load(folder / "wordings.npy", allow_pickle=False)
        if card["fingerprint"] != expected:
            raise ValueError("they belong to another model or to other prompts")
        if text_SCD.shape[:2] != (len(SITES), len(Severity)) or text_SCD.ndim != 3:
            raise ValueError(f"their shape is {text_SCD.shape}")
        if wording_WSCD.shape[1:] != text_SCD.shape:
            raise ValueError(f"the shape of single wordings is {wording_WSCD.shape}")
        if not (np.isfinite(text_SCD).all() and np.isfinite(wording_WSCD).all()):
            raise ValueError("they are not finite")
        return TextEmbeddings(text_SCD, float(card["logit_scale"]), card["fingerprint"], wording_WSCD)
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: the text embeddings cannot be used ({error}); run eval_vl.py again") from None


def _to_json(row: SiteRow) -> dict[str, Any]:
    return {
        "study_id": row.study_id,
        **row.site.columns,
        "severity": Severity.to_column(row.severity),
        "fold": row.fold,
        "source": row.source.value,
        "crops": list(row.crops),
        "views": [view.value for view in row.views],
        **({"offsets": list(row.offsets)} if row.offsets else {}),
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
        offsets=tuple(row.get("offsets", ())),
    )


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array.astype(np.float32), allow_pickle=False)


def _write_json(path: Path, content: dict[str, Any] | Sequence[Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
