"""Grade new DICOM studies with a run.

    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions
    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions \\
        --series_descriptions descriptions.csv --workers 8
    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions --keep ward-3
    python predict_vl.py --root DATA --run first --images test_images --out predictions \\
        --sample_submission sample_submission.csv --time_budget 28800
    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions --prevalence ours.csv

`--images` is a folder of DICOM files in any layout, as ``<study>/<series>/*.dcm``, a hospital's disc or a single study:
the headers tell the studies apart. No table is needed: without series descriptions the view of each series is read from
the orientation and the headers of its images. The folder `--out` receives ``probabilities.csv`` (calibrated, with the
prediction sets of 90 and 95 %, the slice and the box that show each site, and the study's folder) and
``submission.csv`` (metric-optimal), 25 rows for every study, whatever is wrong with its images. ``studies.csv`` has the
probabilities of any severe canal stenosis and of any severe finding, and how typical the images are of those that the
run was measured on; ``faults.csv`` lists what was wrong, and
``fallbacks.csv`` the sites that were not graded from all their views. ``submission.csv`` is there before the first
image is read, filled with constants, and is replaced whole, a few studies at a time: whatever ends the command, a valid
file is left.
`--keep NAME` keeps the studies in the run's folder, so that ``query_vl.py --split NAME`` searches them.
`--run lora` may also name the runs lora-0, lora-1, ... of all folds, after ``eval_vl.py --run lora --folds all``: their
models grade together.
Research use only: not a medical device. In Python: ``vl_model.load_run(root, run).grade(images)``.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

from dataclasses import dataclass, field
from pathlib import Path

from vl_model import load_folds, load_run
from vl_model.calibration.prediction_sets import SET_LEVELS
from vl_model.loaded_run import is_joined
from vl_model.report.report_text import HEAD_WORDS, always_words
from workspace.cli import run_command, usable_cores
from workspace.layout import data_root
from workspace.root_settings import FinishedRunSettings
from workspace.setting_types import PositiveInteger, PositiveNumber
from workspace.settings_parser import read_settings

PROG = "predict_vl.py"


@dataclass(frozen=True, kw_only=True)
class Settings(FinishedRunSettings):
    """Settings of predict_vl.py."""

    images: str
    """The folder of the DICOM studies, in any layout."""
    out: str
    """The folder into which probabilities.csv, studies.csv, submission.csv, fallbacks.csv and faults.csv are
    written."""
    series_descriptions: str | None = None
    """A CSV file with the columns study_id, series_id (numbers, UIDs or folders' names) and series_description."""
    locator: str | None = None
    """The name of a locator's run, or none for the atlas alone. By default the locator that was saved with the run."""
    workers: PositiveInteger = field(default_factory=usable_cores)
    """The number of processes that read DICOM files. By default one per core."""
    batch_size: PositiveInteger = 64
    """The number of sites per forward pass."""
    sample_submission: str | None = None
    """A CSV file with a column row_id: submission.csv has its order, and rows for all studies that it names."""
    prevalence: str | None = None
    """A CSV file with the columns condition, severity and prevalence, of another hospital: all probabilities are
    shifted to it from the prevalences in the studies that the calibrators learned from."""
    time_budget: PositiveNumber | None = None
    """Seconds after which no further studies are read: these have constants. Those being read are finished."""
    studies_per_batch: PositiveInteger = 8
    """The number of studies after which submission.csv is written again."""
    share: str | None = None
    """K/N: grade the K-th of N shares of the folders directly within --images."""
    keep: str | None = None
    """The name under which the studies' slices and embeddings are kept in the run's folder, for query_vl.py --split."""
    overwrite: bool = False
    """Replace the studies that are kept under this name already."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = data_root(settings.root)
    load = load_folds if is_joined(root, settings.run) else load_run
    run = load(root, settings.run, settings.base)
    from vl_model.new_studies import fallback_line  # imports pandas, which --help and a refusal need not wait for

    table = run.grade(
        settings.images,
        series_descriptions=settings.series_descriptions,
        locator=settings.locator,
        workers=settings.workers,
        batch_size=settings.batch_size,
        out=settings.out,
        keep=settings.keep,
        overwrite=settings.overwrite,
        sample_submission=settings.sample_submission,
        prevalence=settings.prevalence,
        time_budget=settings.time_budget,
        studies_per_batch=settings.studies_per_batch,
        share=settings.share,
    )
    studies, imaged = table["study_id"].nunique(), table.loc[table["source"].notna(), "study_id"].nunique()
    grader = run.grader()
    print(f"{studies} studies, {imaged} with images of graded sites, {HEAD_WORDS[grader.best]}")
    print(fallback_line(table))
    for level in SET_LEVELS:
        if sentence := always_words(level, grader.sets.always_in(level)):
            print(sentence)
    for name in ("probabilities.csv", "studies.csv", "submission.csv", "fallbacks.csv", "faults.csv"):
        print(Path(settings.out) / name)
    if settings.keep is not None:
        print(f"kept as {settings.keep!r}: query_vl.py --run {settings.run} --split {settings.keep} searches them")


if __name__ == "__main__":
    run_command(PROG, main)
