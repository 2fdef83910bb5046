"""What the prediction sets of its sites tell of a study: a question matches, cannot be told, or does not match.

A study matches if each grade that its sites may have makes the tree true, and does not if none does. Each set has the
true grade in the stated share of the sites of a grade; a study with many sites that are asked about is told less surely
than that. Studies that the model was trained on have sets that are too small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompts.tree import Tree
from vl_model.queries.segment import Segment
from vl_model.queries.tree_probability import tree_truth

#: The level of the prediction sets in the index, in percent.
SET_LEVEL = 90


@dataclass(frozen=True)
class Buckets:
    """How many of the studies that were searched match, cannot be told, and do not match, by their prediction sets."""

    matches: int
    cannot_tell: int
    does_not: int

    @property
    def studies(self) -> int:
        return self.matches + self.cannot_tell + self.does_not


def told_by_sets(tree: Tree, segments: Sequence[Segment]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each study of the segments (N,), (N,) certainly matches, and whether it may match."""
    certain, may = zip(*(tree_truth(tree, np.asarray(segment.sets_SX)) for segment in segments), strict=True)
    return np.concatenate(certain), np.concatenate(may)


def count_buckets(certain_N: NDArray[np.bool_], may_N: NDArray[np.bool_]) -> Buckets:
    """Return the number of studies in each bucket."""
    return Buckets(int(certain_N.sum()), int((may_N & ~certain_N).sum()), int((~may_N).sum()))


def bucket_of(certain: bool, may: bool) -> bool | None:
    """Return whether a study matches by its sets; None if they leave it open."""
    return bool(certain) if certain == may else None
