"""The query index: every site of a run with its probabilities, its embedding, and its evidence (slice and box).

On disk there is one folder per split: ``columns.npz`` (all but the embeddings), ``image.npy`` (N, D) and, written
last, ``index.json`` with the fingerprints of the data, the model and the heads. An index with other fingerprints is
refused. Ranking requires numpy alone; only words that the parser does not understand require the text tower.

Legend: N sites (of studies), D dimensions, 3 severities.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion.pairs import Pair
from data_prep.sites import SITES, Severity, Site, Source, View
from prompts.parse import Query
from vl_model.data.site_rows import evidence_of
from vl_model.data.site_table import SITE_INDEX
from workspace.json_files import read_object
from workspace.whole_folders import whole_folder

SCHEMA_VERSION = 1
#: If a text has words that are not understood, sites whose probabilities lie in one band of this width are ordered by
#: their similarity to these words.
BAND = 0.05
#: The severities of a text without one: "foraminal stenosis" means moderate or severe.
DISEASED = frozenset({Severity.MODERATE, Severity.SEVERE})

_MIRROR_OF_SITE = np.array([SITE_INDEX[site.mirrored] for site in SITES])


class IndexRefused(ValueError):
    """The index does not exist, is damaged, or has other fingerprints."""


@dataclass(frozen=True)
class Index:
    """N sites as columns of one length.

    split_N: train or test.
    site_N: index in `data_prep.sites.SITES`.
    seen_N: whether the adapters and heads were trained on that study, so that its probabilities are optimistic.
    probability_N3: calibrated.
    series_N .. source_N: the slice and the box (x0, y0, x1, y1; pixels of that slice) in the site's first view.
        image_N is relative to the split's processed_data.
    image_ND: L2-normalised embeddings.
    """

    split_N: NDArray[np.str_]
    study_N: NDArray[np.int64]
    site_N: NDArray[np.int64]
    seen_N: NDArray[np.bool_]
    probability_N3: NDArray[np.float64]
    series_N: NDArray[np.int64]
    instance_N: NDArray[np.int64]
    image_N: NDArray[np.str_]
    box_N4: NDArray[np.float64]
    view_N: NDArray[np.str_]
    source_N: NDArray[np.str_]
    image_ND: NDArray[np.float32]
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in (*_COLUMNS, "image_ND")}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of the index have different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.study_N)

    @property
    def studies(self) -> int:
        """The number of studies; the same id in two splits counts twice."""
        return len(set(zip(self.split_N.tolist(), self.study_N.tolist(), strict=True)))


_COLUMNS = tuple(f.name for f in fields(Index) if f.name not in ("image_ND", "fingerprint"))


@dataclass(frozen=True)
class Answer:
    """A study with the site that matches the query best.

    in_training: whether the adapters and heads were trained on the study.
    score: the probability of the requested severities. If both sides are requested, `site` is the side with the lower
        one. None if the text names nothing that is graded, so that likeness alone ranks.
    likeness: the cosine similarity of the site's embedding and the words that were not understood; None if there are
        none.
    """

    rank: int
    split: str
    study_id: int
    in_training: bool
    site: Site
    probabilities: tuple[float, float, float]
    score: float | None
    likeness: float | None
    series_id: int
    instance_number: int
    image: str
    box: tuple[float, float, float, float]
    view: View
    source: Source


def build_index(
    split: str,
    keys: Sequence[tuple[int, Site]],
    image_ND: NDArray[np.float32],
    probability_N3: NDArray[np.float64],
    pairs: Iterable[Pair],
    training_studies: Iterable[int],
    fingerprint: dict[str, Any],
) -> Index:
    """Return the index of one split.

    Args:
        split: train or test.
        keys: (study id, site) of the N rows.
        image_ND: their L2-normalised embeddings.
        probability_N3: their calibrated probabilities.
        pairs: the pairs of the data set, from which each site's evidence is chosen.
        training_studies: the studies that the adapters and heads were trained on.
        fingerprint: of the data, the model and the heads.

    Raises:
        ValueError: a site has no pair, and so no evidence.
    """
    evidence = evidence_of(pairs)
    if missing := [key for key in keys if key not in evidence]:
        study_id, site = missing[0]
        raise ValueError(f"study {study_id}, {site.words}: has an embedding, but no pair in dataset.json")
    shown = [evidence[key] for key in keys]
    return Index(
        split_N=np.full(len(keys), split),
        study_N=np.array([study_id for study_id, _ in keys], dtype=np.int64),
        site_N=np.array([SITE_INDEX[site] for _, site in keys], dtype=np.int64),
        seen_N=np.isin([study_id for study_id, _ in keys], np.array(sorted(training_studies), dtype=np.int64)),
        probability_N3=np.asarray(probability_N3, dtype=np.float64),
        series_N=np.array([pair.series_id for pair in shown], dtype=np.int64),
        instance_N=np.array([pair.instance_number for pair in shown], dtype=np.int64),
        image_N=np.array([pair.image for pair in shown], dtype=np.str_),
        box_N4=np.array([pair.box for pair in shown], dtype=np.float64).reshape(-1, 4),
        view_N=np.array([pair.view.value for pair in shown], dtype=np.str_),
        source_N=np.array([pair.source.value for pair in shown], dtype=np.str_),
        image_ND=np.asarray(image_ND, dtype=np.float32),
        fingerprint=fingerprint,
    )


def join(indexes: Sequence[Index]) -> Index:
    """Join the indexes of several splits."""
    if len(indexes) == 1:
        return indexes[0]
    names = (*_COLUMNS, "image_ND")
    columns: dict[str, Any] = {name: np.concatenate([getattr(index, name) for index in indexes]) for name in names}
    return Index(**columns)


def save_index(index: Index, folder: Path) -> None:
    """Write the index beside `folder`, and rename it to `folder` when it is complete."""
    with whole_folder(folder, is_shared=True) as partial:
        np.savez(partial / "columns.npz", **{name: getattr(index, name) for name in _COLUMNS})
        np.save(partial / "image.npy", index.image_ND)
        manifest = {"schema_version": SCHEMA_VERSION, "sites": len(index), "fingerprint": index.fingerprint}
        (partial / "index.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def load_index(folder: Path, fingerprint: dict[str, Any]) -> Index:
    """Read the index. Raises IndexRefused if there is none, or if it has another fingerprint."""
    try:
        manifest = read_object(folder / "index.json", "query_vl.py", SCHEMA_VERSION)
    except ValueError as error:
        raise IndexRefused(f"no query index ({error})") from None
    found = manifest.get("fingerprint")
    if not isinstance(found, dict) or "sites" not in manifest:
        raise IndexRefused(f"{folder}: index.json has no fingerprint")
    if other := [name for name in sorted({*found, *fingerprint}) if found.get(name) != fingerprint.get(name)]:
        raise IndexRefused(f"{folder}: was made from other {' and '.join(other)}")
    try:
        with np.load(folder / "columns.npz", allow_pickle=False) as columns:
            index = Index(
                **{name: columns[name] for name in _COLUMNS},
                image_ND=np.load(folder / "image.npy", mmap_mode="r", allow_pickle=False),
                fingerprint=found,
            )
    except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile, zlib.error) as error:
        raise IndexRefused(f"{folder}: cannot be read ({error})") from None
    if len(index) != manifest["sites"]:
        raise IndexRefused(f"{folder}: has {len(index)} sites, but index.json states {manifest['sites']}")
    return index


def requested_severities(query: Query) -> frozenset[Severity]:
    """Return the severities that rank; empty if the text names no severity and no condition, so that likeness ranks."""
    if query.severities:
        return query.severities
    return DISEASED if query.conditions or not query.rest else frozenset()


def rank(index: Index, query: Query, text_D: NDArray[np.float32] | None, top: int) -> list[Answer]:
    """Return the `top` studies that match the query best, each once, with its best site.

    The sites that the query names are ordered by the probability of the requested severities. If the text has words
    that are not understood, the sites are ordered by that probability in bands of `BAND`, and within a band by their
    cosine similarity to these words.

    Args:
        index: the sites.
        query: the parsed text.
        text_D: the L2-normalised embedding (D,) of `query.rest`; None if and only if that is empty.
        top: the number of studies, at least 1.
    """
    if bool(query.rest) != (text_D is not None):
        raise ValueError(f"rest {query.rest!r}: text_D must be its embedding, or None if it is empty")
    requested = requested_severities(query)
    score_N = _score(index, requested)
    allowed_N = np.isin(index.site_N, [SITE_INDEX[site] for site in query.sites])
    if query.both_sides:
        allowed_N &= _is_weaker_side(index, score_N)
    row_M = np.flatnonzero(allowed_N)
    likeness_M = None if text_D is None else np.asarray(index.image_ND[row_M] @ text_D, dtype=np.float64)
    order = _order(index, row_M, score_N[row_M], likeness_M)
    best = _first_of_each_study(index, row_M[order], top)
    likeness = {} if likeness_M is None else dict(zip(row_M.tolist(), likeness_M.tolist(), strict=True))
    return [
        _answer(index, position, row, float(score_N[row]) if requested else None, likeness.get(row))
        for position, row in enumerate(best, start=1)
    ]


def _score(index: Index, requested: frozenset[Severity]) -> NDArray[np.float64]:
    return index.probability_N3[:, sorted(int(severity) for severity in requested)].sum(axis=1)


def _order(
    index: Index, row_M: NDArray[np.int64], score_M: NDArray[np.float64], likeness_M: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Return the order of rows, best first; ties are ordered by study id and site, so that answers are reproducible."""
    study_M, site_M = index.study_N[row_M], index.site_N[row_M]
    if likeness_M is None:
        return np.lexsort((site_M, study_M, -score_M))
    return np.lexsort((site_M, study_M, -likeness_M, -np.floor(score_M / BAND)))


def _is_weaker_side(index: Index, score_N: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows have another side whose score is not lower: the score of both sides is theirs.

    The other side of the canal is the canal itself.
    """
    row_of = {key: row for row, key in enumerate(_keys(index, index.site_N))}
    mirror_N = np.array([row_of.get(key, -1) for key in _keys(index, _MIRROR_OF_SITE[index.site_N])], dtype=np.int64)
    weaker_N: NDArray[np.bool_] = (mirror_N >= 0) & (score_N <= score_N[mirror_N])
    return weaker_N


def _keys(index: Index, site_N: NDArray[np.int64]) -> Iterable[tuple[str, int, int]]:
    return zip(index.split_N.tolist(), index.study_N.tolist(), site_N.tolist(), strict=True)


def _first_of_each_study(index: Index, row_M: NDArray[np.int64], top: int) -> list[int]:
    best: dict[tuple[str, int], int] = {}
    for row in row_M.tolist():
        best.setdefault((str(index.split_N[row]), int(index.study_N[row])), row)
        if len(best) == top:
            break
    return list(best.values())


def _answer(index: Index, position: int, row: int, score: float | None, likeness: float | None) -> Answer:
    normal_mild, moderate, severe = (float(p) for p in index.probability_N3[row])
    x0, y0, x1, y1 = (float(x) for x in index.box_N4[row])
    return Answer(
        rank=position,
        split=str(index.split_N[row]),
        study_id=int(index.study_N[row]),
        in_training=bool(index.seen_N[row]),
        site=SITES[int(index.site_N[row])],
        probabilities=(normal_mild, moderate, severe),
        score=score,
        likeness=likeness,
        series_id=int(index.series_N[row]),
        instance_number=int(index.instance_N[row]),
        image=str(index.image_N[row]),
        box=(x0, y0, x1, y1),
        view=View(str(index.view_N[row])),
        source=Source(str(index.source_N[row])),
    )
