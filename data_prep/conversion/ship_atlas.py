"""Make the shipped atlas from synthetic spines. The same settings give the same bytes.

python -m data_prep.conversion.ship_atlas --studies 60 --seed 7
"""

import tempfile
from pathlib import Path

from data_prep.conversion.convert import learn_from
from data_prep.phantom import Scanners, write_cohort
from data_prep.placement.shipped_atlas import SHIPPED
from data_prep.studies.cohorts import split_cohort
from workspace.cli import SettingsParser, run_command
from workspace.layout import DataRoot

PROG = "-m data_prep.conversion.ship_atlas"


def main() -> None:
    parser = SettingsParser(PROG, __doc__)
    parser.add_argument("--studies", type=int, default=60, help="number of synthetic studies to learn from")
    parser.add_argument("--seed", type=int, default=7, help="seed of the synthetic cohort")
    settings = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root = write_cohort(Path(folder), settings.studies, 0, settings.seed, Scanners.MIXED, progress=True)
        atlas = learn_from(split_cohort(DataRoot(root), "train"))
    if atlas is None:
        raise ValueError(f"studies {settings.studies}: too few to learn an atlas from; try 10 or more")
    atlas.save(SHIPPED)
    print(f"{SHIPPED}: learned from {atlas.studies} synthetic spines")


if __name__ == "__main__":
    run_command(PROG, main)
