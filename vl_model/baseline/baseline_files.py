"""The plain baseline's predictions beside a run's heads: it is fitted again only if its inputs have changed.

The files are ``baseline.npz`` (study, site and the logarithms of the probabilities of each held-out site that an image
shows) and, written last, ``baseline.json`` with the fingerprints of the data set, of the split into training and
held-out sites with the training severities, and of the baseline's settings.
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vl_model.baseline.crop_descriptors import CropDescriptors
from vl_model.baseline.plain_baseline import SETTINGS, PlainBaseline
from vl_model.data.site_rows import SiteRow
from vl_model.data.site_table import Floats, SiteTable
from vl_model.evaluation.cross_fitting import StudySplit
from vl_model.evaluation.embeddings import Embeddings
from workspace.json_files import read_object
from workspace.tidying import keeping
from workspace.whole_files import replacing

#: Increased if the same settings give other predictions than before.
SCHEMA_VERSION = 2


def baseline_log_probabilities(
    folder: Path, split: StudySplit, embeddings: Embeddings, crops: CropDescriptors
) -> Floats:
    """Return the baseline's log probabilities (M, 3) of the held-out sites that an image shows, in their order.

    They are read from `folder` if they are current, and else computed and written there. The baseline is fitted on the
    training sites that an image shows, the sites that the linear probe learns from. Of `embeddings`, only the sites
    and the numbers of their crops are used.

    Raises ValueError if no training site is both graded and shown.
    """
    train, held_out = (table.take(embeddings.rows_of(table) >= 0) for table in (split.train, split.held_out))
    expected = _fingerprint(train, held_out, embeddings.fingerprint["dataset"])
    try:
        return _read(folder, held_out, expected)
    except ValueError:
        baseline = PlainBaseline().fit(train, _rows(embeddings, train), crops)
        log_prob_M3 = baseline.predict_log_proba(held_out, _rows(embeddings, held_out), crops)
    with keeping(folder):
        _write(folder, held_out, log_prob_M3, expected)
    return log_prob_M3


def _rows(embeddings: Embeddings, table: SiteTable) -> list[SiteRow]:
    return [embeddings.rows[row] for row in embeddings.rows_of(table)]


def _fingerprint(train: SiteTable, held_out: SiteTable, dataset: str) -> dict[str, Any]:
    """Return what the predictions depend on. The severities of the held-out sites are not among it."""
    columns = (train.study_N, train.site_N, train.severity_N, held_out.study_N, held_out.site_N)
    digest = hashlib.sha256()
    for column in columns:
        digest.update(len(column).to_bytes(8, "big") + column.tobytes())
    return {"dataset": dataset, "split": digest.hexdigest(), "settings": SETTINGS}


def _read(folder: Path, held_out: SiteTable, expected: dict[str, Any]) -> Floats:
    """Raise ValueError if the predictions are missing, damaged, or those of other inputs."""
    card = read_object(folder / "baseline.json", "eval_vl.py", SCHEMA_VERSION)
    try:
        with np.load(folder / "baseline.npz", allow_pickle=False) as arrays:
            study_M, site_M, log_prob_M3 = (arrays[name] for name in ("study", "site", "log_prob"))
    except (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{folder}: the plain baseline cannot be read ({error})") from None
    same_sites = np.array_equal(study_M, held_out.study_N) and np.array_equal(site_M, held_out.site_N)
    whole = log_prob_M3.shape == (len(held_out), 3) and log_prob_M3.dtype == np.float64
    if card.get("fingerprint") != expected or not same_sites or not whole or not np.isfinite(log_prob_M3).all():
        raise ValueError(f"{folder}: a plain baseline of other inputs")
    return np.asarray(log_prob_M3)


def _write(folder: Path, held_out: SiteTable, log_prob_M3: Floats, fingerprint: dict[str, Any]) -> None:
    """Write both files, each by rename, ``baseline.json`` last."""
    (folder / "baseline.json").unlink(missing_ok=True)
    with replacing(folder / "baseline.npz") as partial, partial.open("wb") as file:
        np.savez(file, study=held_out.study_N, site=held_out.site_N, log_prob=log_prob_M3)
    with replacing(folder / "baseline.json") as partial:
        partial.write_text(json.dumps({"schema_version": SCHEMA_VERSION, "fingerprint": fingerprint}, indent=1) + "\n")
