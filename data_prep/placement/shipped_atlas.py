"""The shipped atlas, for data without marks: it was learned from synthetic spines, and its file lies in this folder.

`data_prep.conversion.ship_atlas` makes it. Its proportions and its position within a volume come from a textbook, its
templates from a phantom. It is a fallback: an atlas learned from a few dozen marked studies is better.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

from data_prep.placement.atlas import Atlas, load_atlas

SHIPPED = Path(__file__).with_suffix(".json")
#: Printed if the shipped atlas is used.
NOTICE = (
    "no study with marks at two levels to learn an atlas from; the shipped atlas, of synthetic spines, places "
    "unannotated sites"
)


#: It found the right levels in 42 of 60 real T1 studies.
SHIPPED_LEVEL_ACCURACY = 0.7


@cache
def shipped_atlas() -> Atlas:
    """Read the shipped atlas."""
    return replace(load_atlas(SHIPPED), level_accuracy=SHIPPED_LEVEL_ACCURACY)
