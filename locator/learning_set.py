"""The training data of a locator: the marked studies of a data set, divided by fold.

Nothing here imports torch, so that wrong data is refused before that import, which takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.conversion.pairs import folds_of, read_metadata, twins_of
from data_prep.conversion.twin_studies import check_twins
from data_prep.geometry import Array
from data_prep.placement.atlas import Atlas, load_atlas
from locator.files import LOCATOR, SCHEMA_VERSION, SHIPPED
from locator.marked_studies import MarkedStudy, read_marked_studies
from locator.spine_prior import SpinePrior, learn_prior, read_prior
from locator.suspects import MARKS
from workspace.json_files import read_object
from workspace.setting_error import SettingError


@dataclass(frozen=True)
class LearningSet:
    """The marked studies of a data set.

    prior: learned from the training studies. atlas: that of the whole data set, a mean over all its marked studies,
    which the locator falls back on. fingerprint, marks_sha256: of the data set, and of its table of marks.
    """

    processed: Path
    training: tuple[MarkedStudy, ...]
    held_out: tuple[MarkedStudy, ...]
    atlas: Atlas
    prior: SpinePrior
    fingerprint: str
    marks_sha256: str


def read_learning_set(processed: Path, held_out_folds: Sequence[int]) -> LearningSet:
    """Read the marked studies of ``processed_data``, and learn the spine prior from those that are not held out.

    Raises ValueError if there is nothing to learn from, and SettingError for a fold that the data set does not have, or
    if a held-out study has the pixels of one to learn from.
    """
    metadata = read_metadata(processed)
    fold_of = folds_of(metadata)
    studies = read_marked_studies(processed, fold_of)
    if unknown := set(held_out_folds) - set(fold_of.values()):
        raise SettingError(
            "held_out_folds",
            f"{sorted(unknown)}: the data set has no such folds; it has {sorted(set(fold_of.values()))}",
        )
    marked = {study.study_id: study.fold for study in studies}
    check_twins(twins_of(metadata), marked, held_out_folds, "held_out_folds", str(sorted(held_out_folds)))
    training = tuple(study for study in studies if study.fold not in held_out_folds)
    held_out = tuple(study for study in studies if study.fold in held_out_folds)
    if not training:
        raise ValueError(
            f"{processed}: no marked study outside held_out_folds {list(held_out_folds)}; without marks "
            "(train_label_coordinates.csv) a locator cannot be trained, and prepare_data.py places sites by an atlas"
        )
    atlas = load_atlas(processed / "atlas.json")
    positions = [study.position_N3 for study in training]
    prior = learn_prior(atlas.shape_N3, positions, _prior_of_unmarked(positions))
    hashes = metadata["hashes"]
    return LearningSet(processed, training, held_out, atlas, prior, hashes["input"], hashes[MARKS])


def _prior_of_unmarked(positions: Sequence[Array]) -> SpinePrior | None:
    """Return the shipped locator's prior if some sites are marked in no study; None if all are marked in one."""
    if np.isfinite(positions).all(axis=2).any(axis=0).all():
        return None
    return read_prior(read_object(SHIPPED / LOCATOR, "locator.ship_locator", SCHEMA_VERSION)["prior"])
