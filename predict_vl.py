"""Grade new DICOM studies with a run.

    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions
    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions \\
        --series_descriptions descriptions.csv --workers 8

`--images` contains ``<study>/<series>/*.dcm``, or is the folder of one such study. No table is needed: without series
descriptions the view of each series is read from the orientation and the headers of its images. The folder `--out`
receives ``probabilities.csv`` (calibrated, with the slice and the box that show each site) and ``submission.csv``
(metric-optimal), 25 rows for every study, whatever is wrong with its images; ``faults.csv`` lists what was wrong.
Research use only: not a medical device. In Python: ``vl_model.load_run(root, run).grade(images)``.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

from pathlib import Path

from jsonargparse.typing import PositiveInt

from vl_model import load_run
from workspace.cli import SettingsParser, run_command, usable_cores

PROG = "predict_vl.py"


def settings_parser() -> SettingsParser:
    parser = SettingsParser(PROG, __doc__)
    add = parser.add_argument
    add("--root", type=str | None, help="the data root; by default $LUMBAR_ROOT, else data/lumbarspine")
    add("--run", type=str, default="default", help="the name of the run")
    add("--images", type=str, required=True, help="the folder of the DICOM studies: <study>/<series>/*.dcm")
    add("--out", type=str, required=True, help="the folder for probabilities.csv, submission.csv and faults.csv")
    add(
        "--series_descriptions",
        type=str | None,
        help="a CSV file with the columns study_id, series_id and series_description",
    )
    add(
        "--locator",
        type=str | None,
        help="the name of a locator's run, or none for the atlas alone; by default the locator saved with the run",
    )
    add("--workers", type=PositiveInt, default=usable_cores(), help="processes that read DICOM files")
    add("--batch_size", type=PositiveInt, default=64, help="sites per forward pass")
    return parser


def main() -> None:
    settings = settings_parser().parse_args()
    run = load_run(settings.root, settings.run)
    table = run.grade(
        settings.images,
        series_descriptions=settings.series_descriptions or None,
        locator=settings.locator,
        workers=settings.workers,
        batch_size=settings.batch_size,
        out=settings.out,
    )
    studies, imaged = table["study_id"].nunique(), table.loc[table["source"].notna(), "study_id"].nunique()
    print(f"{studies} studies, {imaged} with images of graded sites, {run.grader().best.replace('_', ' ')}")
    for name in ("probabilities.csv", "submission.csv", "faults.csv"):
        print(Path(settings.out) / name)


if __name__ == "__main__":
    run_command(PROG, main)
