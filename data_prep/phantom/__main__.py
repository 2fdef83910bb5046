"""Write a synthetic cohort in the competition's layout, with its truth beside it.

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
    parser.add_argument("--root", type=str, required=True, help="the data root to write dataset/ and phantom_truth/ in")
    parser.add_argument("--train", type=int, default=60, help="studies with labels")
    parser.add_argument("--test", type=int, default=10, help="studies without")
    parser.add_argument("--seed", type=int, default=0, help="the same settings give the same bytes")
    parser.add_argument(
        "--scanners",
        type=Literal["first", "second", "mixed"],
        default="first",
        help="family of scanners: first|second|mixed",
    )
    parser.add_argument(
        "--size", type=Literal["small", "full"], default="small", help="small|full (as large as the real set's images)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes; the bytes do not depend on them")
    settings = parser.parse_args()
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
        f"{settings.train} training and {settings.test} test studies in {root / 'dataset'}, "
        f"their truth in {root / 'phantom_truth'}"
    )


if __name__ == "__main__":
    run_command(PROG, main)
