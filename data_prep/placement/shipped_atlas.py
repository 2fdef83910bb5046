"""The atlas for data that nobody marked: learned from synthetic spines, and kept beside this file.

`data_prep.conversion.ship_atlas` makes it. Its proportions and its place within a volume are a textbook's, its pictures
a phantom's: better than nothing, and to be replaced by a few dozen marked studies (`data_prep.placement.atlas`).
"""

from pathlib import Path

from data_prep.placement.atlas import Atlas, load_atlas

SHIPPED = Path(__file__).with_suffix(".json")
#: What is said where it is used.
NOTICE = "no marked study to learn an atlas from: unmarked sites are placed by the one of synthetic spines that ships"


def shipped_atlas() -> Atlas:
    return load_atlas(SHIPPED)
