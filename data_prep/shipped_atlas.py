"""The atlas for data that nobody marked: learned from synthetic spines, and kept beside this file.

    python -m data_prep.shipped_atlas --studies 60 --seed 7

makes it again, to the same bytes. Its proportions and its place within a volume are a textbook's, its pictures a
phantom's: better than nothing, and to be replaced by a few dozen marked studies (`data_prep.atlas`).
"""

import tempfile
from pathlib import Path

from data_prep.atlas import Atlas, load_atlas
from data_prep.commands import SettingsParser, run_command

PROG = "-m data_prep.shipped_atlas"
SHIPPED = Path(__file__).with_suffix(".json")
#: What is said where it is used.
NOTICE = "no marked study to learn an atlas from: unmarked sites are placed by the one of synthetic spines that ships"


def shipped_atlas() -> Atlas:
    return load_atlas(SHIPPED)


def main() -> None:
    parser = SettingsParser(PROG, __doc__)
    parser.add_argument("--studies", type=int, default=60, help="synthetic studies to learn from")
    parser.add_argument("--seed", type=int, default=7, help="of the synthetic cohort")
    settings = parser.parse_args()

    from data_prep.cohorts import split_cohort
    from data_prep.convert import learn_from
    from data_prep.layout import DataRoot
    from data_prep.phantom import Scanners, write_cohort

    with tempfile.TemporaryDirectory() as folder:
        root = write_cohort(Path(folder), settings.studies, 0, settings.seed, Scanners.MIXED, progress=True)
        atlas = learn_from(split_cohort(DataRoot(root), "train"))
    if atlas is None:
        raise ValueError(f"--studies {settings.studies}: too few to learn an atlas from")
    atlas.save(SHIPPED)
    print(f"{SHIPPED}: the mean of {atlas.studies} synthetic spines")


if __name__ == "__main__":
    run_command(PROG, main)
