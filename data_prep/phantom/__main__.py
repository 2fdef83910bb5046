"""Write a synthetic cohort of DICOM files in the layout of the competition, together with its ground truth.

python -m data_prep.phantom --root data/phantom --train 60 --test 10 --seed 1
python -m data_prep.phantom --root data/other --train 60 --test 10 --seed 2 --scanners second --workers 2
"""

from typing import Literal

from data_prep.phantom import write_cohort
from workspace.cli import SettingsParser, run_command
from workspace.layout import home_expanded

PROG = "-m data_prep.phantom"


def main() -> None:
    parser = SettingsParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--root", type=str, required=True, help="data root in which dataset/ and phantom_truth/ are written"
    )
    parser.add_argument("--train", type=int, default=60, help="number of studies in the train split, with labels")
    parser.add_argument("--test", type=int, default=10, help="number of studies in the test split, without labels")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random choices; equal settings give identical files"
    )
    parser.add_argument(
        "--scanners",
        type=Literal["first", "second", "mixed"],
        default="first",
        help="family of scanners that image the studies; mixed draws one of the two for each study",
    )
    parser.add_argument(
        "--size",
        type=Literal["small", "full"],
        default="small",
        help="size of the images; full images are as large as those of the competition",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="number of processes; the files do not depend on this number"
    )
    settings = parser.parse_args()
    root = write_cohort(
        home_expanded(settings.root, "--root"),
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
