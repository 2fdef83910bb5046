"""Free words against a null: whether a model tells a text from texts that have nothing to do with it.

Every text has some highest cosine with the images, also a text that means nothing to the model. The highest cosines of
`neutral_texts` are the null: a text that does not exceed all of them is one that the model cannot tell from nonsense.
(Their 95th percentile lets one nonsense text in twenty pass, as it must: 7 of 40 on the phantom, 5 of 40 on real
pictures; the largest none.) Legend: as in `vl_model.queries.segment`; N texts.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Site
from vl_model.data.site_table import SITE_INDEX
from vl_model.queries.nearest import LENGTH_TOLERANCE, Similar, check_cosines, check_dimensions, nearest_sites
from vl_model.queries.segment import Segment
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
#: Studies that are multiplied together with all texts.
BLOCK = 2048

#: Makes the L2-normalised embeddings (N, D) of N texts.
EmbedTexts = Callable[[Sequence[str]], NDArray[np.float32]]


@cache
def neutral_texts() -> tuple[str, ...]:
    """Return the neutral texts: everyday things, one per line of ``neutral_texts.txt``."""
    lines = Path(__file__).with_name("neutral_texts.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def best_sites(
    segments: Sequence[Segment],
    text_D: NDArray[np.float32],
    sites: Iterable[Site] | None,
    top: int,
    seen: bool = True,
) -> list[Similar]:
    """Return the `top` studies with the site that is most like a text, each once, best first.

    Args:
        segments: where to look.
        text_D: the text's L2-normalised embedding.
        sites: the sites that may be answers; None for all.
        top: at least 1.
        seen: whether studies that the model was trained on may be answers.

    Raises:
        ValueError: the embedding has another length than the segments'.
        IndexRefused: a vector of a segment is damaged.
    """
    indices = range(len(SITES)) if sites is None else [SITE_INDEX[site] for site in sites]
    return nearest_sites(segments, indices, text_D, top, seen=seen)


def highest_cosines(segments: Sequence[Segment], text_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the highest cosine (N,) of each text over all sites that an image shows; -1 if there are none.

    Raises ValueError if the embeddings have another length than the segments', and IndexRefused if a vector is damaged.
    """
    text_DN = np.ascontiguousarray(text_ND.T)
    highest_N = np.full(len(text_ND), -1, dtype=np.float32)
    for segment in segments:
        check_dimensions(segment, text_ND.shape[1])
        for site, vector_SD in enumerate(segment.vector_XSD):
            imaged_S = ~np.isnan(segment.graded_SX3[:, site, 0])
            for start in range(0, len(segment), BLOCK):
                block = slice(start, start + BLOCK)
                with np.errstate(invalid="ignore"):  # infinities, which `check_cosines` refuses
                    cosine_BN = np.asarray(vector_SD[block]) @ text_DN
                cosine_BN[~imaged_S[block]] = -1
                check_cosines(segment, cosine_BN.max())
                np.maximum(highest_N, cosine_BN.max(axis=0), out=highest_N)
    return highest_N


def null_of(segment: Segment, folder: Path, embed: EmbedTexts) -> NDArray[np.float32]:
    """Return the highest cosine (200,) of each neutral text over a segment.

    It is kept in the segment's folder with the segment's fingerprint, and computed again for another one. `embed` is
    called only then.
    """
    expected = {"fingerprint": dict(segment.fingerprint), "texts": _texts_sha256()}
    with suppress(OSError, EOFError, ValueError):
        return _read_null(folder, expected)
    null_N = highest_cosines([segment], embed(neutral_texts()))
    with suppress(OSError):  # a read-only run, or a full disk: it is computed again next time
        _write_null(folder, null_N, expected)
    return null_N


def needed_cosine(nulls: Sequence[NDArray[np.float32]]) -> float:
    """Return what a text's highest cosine over some segments must exceed: the largest of their nulls (`null_of`)."""
    return float(np.max(np.stack(nulls)))


def _texts_sha256() -> str:
    return hashlib.sha256("\n".join(neutral_texts()).encode()).hexdigest()


def _read_null(folder: Path, expected: Mapping[str, object]) -> NDArray[np.float32]:
    """Read the null. Raises OSError, EOFError or ValueError if there is none, or if it is damaged or another one."""
    card = read_object(folder / "likeness.json", "query_vl.py", SCHEMA_VERSION)
    null_N: NDArray[np.float32] = np.load(folder / "likeness.npy", allow_pickle=False)
    if {name: card.get(name) for name in expected} != expected:
        raise ValueError("another model, data set or list of texts")
    if null_N.dtype != np.float32 or null_N.shape != (len(neutral_texts()),):
        raise ValueError(f"{null_N.dtype} {null_N.shape}")
    if not np.abs(null_N).max() <= 1 + LENGTH_TOLERANCE:
        raise ValueError("no cosines")
    return null_N


def _write_null(folder: Path, null_N: NDArray[np.float32], expected: Mapping[str, object]) -> None:
    """Write both files, each by rename, ``likeness.json`` last."""
    (folder / "likeness.json").unlink(missing_ok=True)
    with replacing(folder / "likeness.npy") as partial, partial.open("wb") as file:
        np.save(file, null_N)
    with replacing(folder / "likeness.json") as partial:
        partial.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **expected}) + "\n", encoding="utf-8")
