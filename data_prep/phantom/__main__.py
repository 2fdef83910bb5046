"""Write a synthetic cohort of DICOM files in the layout of the competition, together with its ground truth.

python -m data_prep.phantom --root data/phantom --train 60 --test 10 --seed 1
python -m data_prep.phantom --root data/other --train 60 --test 10 --seed 2 --scanners second --workers 2
"""

from dataclasses import dataclass
from typing import Literal

from data_prep.phantom import write_cohort
from workspace.cli import run_command
from workspace.layout import home_expanded
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings

PROG = "-m data_prep.phantom"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the synthetic cohort."""

    root: str
    """The data root in which dataset/ and phantom_truth/ are written."""
    train: NonNegativeInteger = 60
    """The number of studies in the train split, with labels."""
    test: NonNegativeInteger = 10
    """The number of studies in the test split, without labels."""
    seed: NonNegativeInteger = 0
    """The seed of all random choices. Equal settings give identical files."""
    scanners: Literal["first", "second", "mixed", "varied"] = "first"
    """The family of scanners that image the studies. mixed: one of the two is drawn for each study. varied: patients,
    fields of view and contrasts of a wider range, with the whole sacrum."""
    size: Literal["small", "full"] = "small"
    """The size of the images. full: as large as those of the competition."""
    workers: PositiveInteger = 1
    """The number of processes. The files do not depend on it."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = write_cohort(
        home_expanded(settings.root, "root"),
        train=settings.train,
        test=settings.test,
        seed=settings.seed,
        scanners=settings.scanners,
        size=settings.size,
        workers=settings.workers,
        progress=True,
    )
    print(
        f"{settings.train} train and {settings.test} test studies are in {root / 'dataset'}, "
        f"their ground truth is in {root / 'phantom_truth'}"
    )


if __name__ == "__main__":
    run_command(PROG, main)
