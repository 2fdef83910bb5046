"""The query index on the disk: one folder of arrays per segment, which are memory-mapped when it is read.

``studies.npy``, ``graded.npy``, ``sets.npy``, ``answers.npy``, ``typicality.npy``, ``vectors.npy``, ``labels.npy``,
``evidence.npy`` and, written last, ``index.json`` with the fingerprints of the data, the model, the heads and the
embeddings. A segment with other fingerprints, or with arrays that cannot be right (`index_checks`), is refused. Nothing
here imports more than numpy.

Legend: as in `vl_model.queries.segment`.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion.pairs import Pair, png_path
from data_prep.sites import SITES, Severity, Site
from vl_model.calibration.prediction_sets import ALL_GRADES
from vl_model.calibration.study_answers import QUESTIONS
from vl_model.data.site_table import SITE_INDEX, UNLABELLED, Floats
from vl_model.queries.index_checks import check_arrays
from vl_model.queries.segment import (
    EVIDENCE,
    NONE,
    SOURCES,
    VIEWS,
    Evidence,
    IndexRefused,
    Segment,
    image_path,
)
from workspace.json_files import read_object
from workspace.whole_files import replacing
from workspace.whole_folders import whole_folder

__all__ = [
    "Evidence",
    "IndexRefused",
    "Segment",
    "build_segment",
    "image_path",
    "load_segment",
    "read_manifest",
    "save_segment",
    "write_files",
]

SCHEMA_VERSION = 6
STUDIES = np.dtype([("study_id", np.int64), ("seen", np.bool_)])


def build_segment(
    name: str,
    study_ids: Iterable[int],
    keys: Sequence[tuple[int, Site]],
    image_ND: NDArray[np.float32],
    prob_N3: Floats,
    pairs: Iterable[Pair],
    seen_studies: Iterable[int],
    fingerprint: Mapping[str, str],
    weight_NV: NDArray[np.float32] | None = None,
    set_N: NDArray[np.uint8] | None = None,
    answers_of: Mapping[int, Sequence[float]] | None = None,
    typicality_of: Mapping[int, float] | None = None,
) -> Segment:
    """Return a segment in memory.

    Args:
        name: train, test, or the name of a kept set.
        study_ids: all its studies, in any order.
        keys: (study id, site) of the N sites that images show, in any order.
        image_ND: their L2-normalised embeddings.
        prob_N3: their calibrated probabilities.
        pairs: the pairs of the data set: evidence and labels.
        seen_studies: the studies that the adapters and heads were trained on.
        fingerprint: of the data, the model, the heads and the embeddings.
        weight_NV: what the model's pooling gave to each view of the N sites, in the order of `VIEWS`; None if it is not
            known.
        set_N: the 90 % prediction sets of the N sites, as bits; None if nothing is known of them.
        answers_of: study -> the probability of each question about it; None if nothing is known of them.
        typicality_of: study -> the typicality of its images, where it is known.

    Raises:
        ValueError: a site has an embedding but no pair, or a pair but no embedding; a study of `keys` is not among
            `study_ids`; the image of a pair is not the one that its ids name; or a value cannot be right.
    """
    study_S = np.unique(np.fromiter(study_ids, dtype=np.int64))
    shape_SX = (len(study_S), len(SITES))
    graded_SX3 = np.full((*shape_SX, len(Severity)), np.nan, dtype=np.float32)
    vector_XSD = np.zeros((*shape_SX[::-1], image_ND.shape[1]), dtype=np.float32)
    key_N2 = np.array([(study, SITE_INDEX[site]) for study, site in keys], dtype=np.int64).reshape(-1, 2)
    site_N, row_N = key_N2[:, 1], np.searchsorted(study_S, key_N2[:, 0])
    if not np.isin(key_N2[:, 0], study_S).all():
        raise ValueError(f"segment {name!r}: a study has an embedding, but is not in dataset.json")
    graded_SX3[row_N, site_N] = prob_N3
    vector_XSD[site_N, row_N] = image_ND
    sets_SX = np.full(shape_SX, ALL_GRADES, dtype=np.uint8)
    if set_N is not None:
        sets_SX[row_N, site_N] = np.where(set_N == 0, ALL_GRADES, set_N)
    answers_SQ = np.full((len(study_S), len(QUESTIONS)), np.nan)
    if answers_of is not None:
        answers_SQ[:] = [answers_of[study] for study in study_S.tolist()]
    label_SX, evidence_SX2 = _labels_and_evidence(study_S, pairs)
    if weight_NV is not None:
        view_N2 = evidence_SX2["view"][row_N, site_N]
        weight_N2 = np.take_along_axis(weight_NV, view_N2.astype(np.int64) % len(VIEWS), axis=1)
        evidence_SX2["weight"][row_N, site_N] = np.where(view_N2 == NONE, 0, weight_N2)
    segment = Segment(
        name=name,
        study_S=study_S,
        seen_S=np.isin(study_S, np.fromiter(seen_studies, dtype=np.int64)),
        graded_SX3=graded_SX3,
        sets_SX=sets_SX,
        answers_SQ=answers_SQ,
        typicality_S=np.array([(typicality_of or {}).get(study, np.nan) for study in study_S.tolist()], np.float64),
        vector_XSD=vector_XSD,
        label_SX=label_SX,
        evidence_SX2=evidence_SX2,
        fingerprint=dict(fingerprint),
    )
    _check_evidence_of_all(segment)
    check_arrays(segment, f"segment {name!r}")
    return segment


def _labels_and_evidence(
    study_S: NDArray[np.int64], pairs: Iterable[Pair]
) -> tuple[NDArray[np.int8], NDArray[np.void]]:
    row_of = {study: row for row, study in enumerate(study_S.tolist())}
    label_SX = np.full((len(study_S), len(SITES)), UNLABELLED, dtype=np.int8)
    evidence_SX2 = np.zeros((*label_SX.shape, 2), dtype=EVIDENCE)
    evidence_SX2["view"] = evidence_SX2["source"] = NONE
    for pair in pairs:
        expected = png_path(pair.study_id, pair.series_id, pair.instance_number)
        if pair.image != expected:
            raise ValueError(
                f"dataset.json: the image of study {pair.study_id}, {pair.site.words}, is {pair.image!r}, but its ids "
                f"say {expected!r}; run prepare_data.py again"
            )
        place = row_of[pair.study_id], SITE_INDEX[pair.site]
        if pair.severity is not None:
            label_SX[place] = pair.severity
        kinds = VIEWS.index(pair.view), SOURCES.index(pair.source)
        record = (pair.series_id, pair.instance_number, pair.box, np.nan, *kinds)
        evidence_SX2[(*place, pair.site.views.index(pair.view))] = record
    return label_SX, evidence_SX2


def _check_evidence_of_all(segment: Segment) -> None:
    """Raise ValueError unless exactly the sites with an embedding have a pair."""
    has_pair_SX = (segment.evidence_SX2["view"] != NONE).any(axis=2)
    for row, site in np.argwhere(has_pair_SX != segment.imaged_SX).tolist()[:1]:
        found, lacking = ("a pair in dataset.json", "embedding")
        if not has_pair_SX[row, site]:
            found, lacking = ("an embedding", "pair in dataset.json")
        raise ValueError(f"study {segment.study_S[row]}, {SITES[site].words}: has {found}, but no {lacking}")


def save_segment(segment: Segment, folder: Path, files: Mapping[str, Any] | None = None) -> None:
    """Write the segment beside `folder`, and rename it to `folder` when it is complete.

    files: what `vl_model.queries.fingerprints` keeps beside the fingerprint.
    """
    studies_S = np.zeros(len(segment), dtype=STUDIES)
    studies_S["study_id"], studies_S["seen"] = segment.study_S, segment.seen_S
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": segment.name,
        "studies": len(segment),
        "dimensions": segment.vector_XSD.shape[2],
        "fingerprint": dict(segment.fingerprint),
        "files": dict(files or {}),
    }
    with whole_folder(folder, is_shared=True) as partial:
        np.save(partial / "studies.npy", studies_S)
        np.save(partial / "graded.npy", segment.graded_SX3)
        np.save(partial / "sets.npy", segment.sets_SX)
        np.save(partial / "answers.npy", segment.answers_SQ)
        np.save(partial / "typicality.npy", segment.typicality_S)
        np.save(partial / "vectors.npy", segment.vector_XSD)
        np.save(partial / "labels.npy", segment.label_SX)
        np.save(partial / "evidence.npy", segment.evidence_SX2)
        (partial / "index.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def write_files(folder: Path, files: Mapping[str, Any]) -> None:
    """Replace what is kept beside the fingerprint. Raises OSError if that is not possible."""
    manifest = read_manifest(folder) | {"files": dict(files)}
    with replacing(folder / "index.json") as partial:
        partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``index.json``. Raises IndexRefused if there is none, or if it is damaged or of another version."""
    try:
        manifest = read_object(folder / "index.json", "query_vl.py", SCHEMA_VERSION)
    except ValueError as error:
        # Whoever opens the index makes it again, so that nobody has to run anything.
        raise IndexRefused(folder, str(error).replace(f"{folder}/", "").partition("; run query_vl.py")[0]) from None
    if not isinstance(manifest.get("fingerprint"), dict):
        raise IndexRefused(folder, "index.json has no fingerprint")
    return manifest


def load_segment(folder: Path, fingerprint: Mapping[str, str]) -> Segment:
    """Read a segment, whose arrays stay on the disk until they are used.

    Raises IndexRefused if there is none, if it has another fingerprint, or if an array is damaged.
    """
    manifest = read_manifest(folder)
    found = manifest["fingerprint"]
    if other := [part for part in {**fingerprint, **found} if found.get(part) != fingerprint.get(part)]:
        raise IndexRefused(folder, f"was made from other {' and '.join(other)}")
    try:
        studies, dimensions = int(manifest["studies"]), int(manifest["dimensions"])
        shape_SX = (studies, len(SITES))
        study_S = _mapped(folder / "studies.npy", STUDIES, (studies,))
        segment = Segment(
            name=str(manifest["name"]),
            study_S=np.ascontiguousarray(study_S["study_id"]),
            seen_S=np.ascontiguousarray(study_S["seen"]),
            graded_SX3=_mapped(folder / "graded.npy", np.float32, (*shape_SX, len(Severity))),
            sets_SX=_mapped(folder / "sets.npy", np.uint8, shape_SX),
            answers_SQ=_mapped(folder / "answers.npy", np.float64, (studies, len(QUESTIONS))),
            typicality_S=_mapped(folder / "typicality.npy", np.float64, (studies,)),
            vector_XSD=_mapped(folder / "vectors.npy", np.float32, (*shape_SX[::-1], dimensions)),
            label_SX=_mapped(folder / "labels.npy", np.int8, shape_SX),
            evidence_SX2=_mapped(folder / "evidence.npy", EVIDENCE, (*shape_SX, 2)),
            fingerprint=found,
        )
    except (OSError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise IndexRefused(folder, f"cannot be read ({error})") from None
    check_arrays(segment, folder)
    return segment


def _mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map an array into memory. Raises ValueError unless the file is what `np.save` writes for such an array."""
    header, size = _header(np.dtype(dtype), shape), np.dtype(dtype).itemsize * math.prod(shape)
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path.name} is not an array of the shape {shape} and of its type")
    if path.stat().st_size != len(header) + size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {len(header) + size}")
    return np.memmap(path, dtype=dtype, mode="r", offset=len(header), shape=shape)


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of an array's file. It is compared, not parsed: numpy's parser has many ways to fail."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()
