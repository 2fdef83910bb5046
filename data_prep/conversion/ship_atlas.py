"""Make the shipped atlas from synthetic spines. The same settings give the same bytes.

python -m data_prep.conversion.ship_atlas --studies 60 --seed 7
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from data_prep.conversion.convert import learn_from
from data_prep.phantom import Scanners, write_cohort
from data_prep.placement.shipped_atlas import SHIPPED
from data_prep.studies.cohorts import split_cohort
from workspace.cli import run_command
from workspace.layout import DataRoot
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings

PROG = "-m data_prep.conversion.ship_atlas"


@dataclass(frozen=True)
class Settings:
    """Settings of the shipped atlas."""

    studies: PositiveInteger = 60
    """The number of synthetic studies to learn from."""
    seed: NonNegativeInteger = 7
    """The seed of the synthetic cohort."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    with tempfile.TemporaryDirectory() as folder:
        root = write_cohort(Path(folder), settings.studies, 0, settings.seed, Scanners.MIXED, progress=True)
        atlas = learn_from(split_cohort(DataRoot(root), "train"))
    if atlas is None:
        raise SettingError("studies", f"{settings.studies}: too few to learn an atlas from; try 10 or more")
    atlas.save(SHIPPED)
    print(f"{SHIPPED}: learned from {atlas.studies} synthetic spines")


if __name__ == "__main__":
    run_command(PROG, main)
