"""Find studies whose pixels are another's: one examination that is in a data set under two numbers.

If the two are in different folds, a model that is trained on one knows the other, however they are numbered.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from data_prep.faults import Fault, FaultKind
from workspace.setting_error import SettingError

#: So many images must be the same: a single one may be a page of text that the scanner writes into every study.
SHARED_IMAGES = 3
#: An image that is in more studies than this is such a page.
_MOST_STUDIES = 20
#: An error names so many pairs.
_NAMED = 3


def pixel_digest(grey: npt.NDArray[np.uint8]) -> str:
    """Return a digest of an image (rows, columns) and its shape; an empty text if all pixels have one value."""
    if grey.min() == grey.max():
        return ""
    return hashlib.sha256(repr(grey.shape).encode() + np.ascontiguousarray(grey).data).hexdigest()[:16]


def find_twins(digests: Mapping[int, Sequence[str]], fold_of: Mapping[int, int]) -> dict[tuple[int, int], int]:
    """Return the pairs of studies in different folds that share images, with the number of these images.

    Args:
        digests: study id -> the digests of its images (`pixel_digest`).
        fold_of: the fold of each study.

    Two studies with fewer than `SHARED_IMAGES` images share all images of one of them.
    """
    studies_of = defaultdict(set)
    for study_id, found in digests.items():
        for digest in found:
            studies_of[digest].add(study_id)
    shared = Counter[tuple[int, int]]()
    for digest, studies in studies_of.items():
        if digest and 1 < len(studies) <= _MOST_STUDIES:
            shared.update(combinations(sorted(studies), 2))
    images = {study_id: len(set(found) - {""}) for study_id, found in digests.items()}
    return {
        (one, other): count
        for (one, other), count in sorted(shared.items())
        if count >= min(SHARED_IMAGES, images[one], images[other]) and fold_of.get(one) != fold_of.get(other)
    }


def twin_faults(twins: Mapping[tuple[int, int], int], fold_of: Mapping[int, int]) -> list[Fault]:
    """Return two faults for each pair of `find_twins`, one for each of its studies."""
    faults = []
    for (one, other), count in twins.items():
        for study_id, twin in ((one, other), (other, one)):
            message = (
                f"{count} of its images are, pixel by pixel, also those of study {twin}, which is in fold "
                f"{fold_of[twin]} (this one is in fold {fold_of[study_id]})"
            )
            faults.append(Fault(study_id, None, str(study_id), FaultKind.TWIN_STUDY, "kept", message))
    return faults


def check_twins(
    twins: Collection[tuple[int, int]],
    fold_of: Mapping[int, int],
    held_out_folds: Collection[int],
    setting: str,
    value: str,
) -> None:
    """Raise SettingError, for this setting and its value, if a held-out study has the pixels of a study to train on."""
    divided = [
        sorted(pair, key=lambda study: fold_of[study] not in held_out_folds)
        for pair in twins
        if all(study in fold_of for study in pair) and len({fold_of[study] in held_out_folds for study in pair}) > 1
    ]
    if divided:
        pairs = ", ".join(f"{held_out} those of {trained}" for held_out, trained in divided[:_NAMED])
        more = ", ..." if len(divided) > _NAMED else ""
        raise SettingError(
            setting,
            f"{value}: {len(divided)} held-out stud{'ies have' if len(divided) > 1 else 'y has'} the pixels of a study "
            f"to train on (study {pairs}{more}; twin_study in faults.csv); remove one of the two from the tables and "
            "the images and prepare again, or hold out the folds of both",
        )
