"""Grade new DICOM studies with a run.

    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions
    python predict_vl.py --root DATA --run first --images /data/new_studies --out predictions \\
        --series_descriptions descriptions.csv --workers 8

`--images` holds ``<study>/<series>/*.dcm``, or is one such study. No table is needed: without series descriptions the
images' orientation and header tell their view. Writes ``probabilities.csv`` (calibrated, with the slice that speaks for
each) and ``submission.csv`` (metric-optimal) into `--out`, 25 rows for every study, whatever is wrong with its images;
what was wrong is in ``faults.csv``. Research use only: not a medical device.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command heeds it: the imports take their time

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from workspace.cli import SettingsParser, run_command, usable_cores
from workspace.layout import DataRoot, data_root

if TYPE_CHECKING:
    from data_prep.conversion.pairs import Dataset
    from data_prep.placement.placer import Placer
    from vl_model.data.site_table import SiteTable
    from vl_model.evaluation.embeddings import Embeddings
    from vl_model.evaluation.grader import Grader

PROG = "predict_vl.py"
#: Columns of probabilities.csv after the probabilities: empty for a site that no image shows.
EVIDENCE = ("source", "view", "series_id", "instance_number", "x0", "y0", "x1", "y1")


def settings_parser() -> SettingsParser:
    parser = SettingsParser(PROG, __doc__)
    add = parser.add_argument
    add("--root", type=str | None, help="the data root; else $LUMBAR_ROOT, else data/lumbarspine")
    add("--run", type=str, default="default", help="the run's name")
    add("--images", type=str, required=True, help="folder of DICOM studies: <study>/<series>/*.dcm")
    add("--out", type=str, required=True, help="folder for probabilities.csv, submission.csv and faults.csv")
    add("--series_descriptions", type=str | None, help="a CSV with study_id, series_id, series_description")
    add("--locator", type=str | None, help="a locator's run, or none; else the one that the run carries")
    add("--workers", type=PositiveInt, default=usable_cores(), help="processes that read DICOM files")
    add("--batch_size", type=PositiveInt, default=64, help="sites embedded at a time")
    return parser


def main() -> None:
    settings = settings_parser().parse_args()
    root = data_root(settings.root)
    images, out = Path(settings.images), Path(settings.out)
    descriptions = Path(settings.series_descriptions) if settings.series_descriptions else None
    check_inputs(images, out, descriptions)

    from locator.carried import placer_for_run

    grader = read_run_grader(root, settings.run)
    placer = placer_for_run(root, root.run(settings.run), settings.locator)

    with working_folder(out) as folder:
        processed = folder / "processed_data"
        dataset = convert(images, processed, descriptions, placer, settings.workers)
        embeddings = embed(root, settings.run, dataset, processed, settings.batch_size)
        shutil.move(processed / "faults.csv", out / "faults.csv")
        write_probabilities(out / "probabilities.csv", dataset, embeddings, grader)
        submit(out / "submission.csv", dataset, embeddings, grader)

    shown = len({row.study_id for row in embeddings.rows})
    print(f"{len(dataset.study_ids)} studies, {shown} with images of graded sites, {grader.best.replace('_', ' ')}")
    for name in ("probabilities.csv", "submission.csv", "faults.csv"):
        print(out / name)


def check_inputs(images: Path, out: Path, descriptions: Path | None) -> None:
    """Raises ValueError for folders and tables that are not there, or an output that would land among the images."""
    if not images.is_dir():
        raise ValueError(f"--images {str(images)!r}: no such folder; it should hold <study>/<series>/*.dcm")
    if descriptions is not None and not descriptions.is_file():
        raise ValueError(f"--series_descriptions {str(descriptions)!r}: no such file")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {str(out)!r}: is a file; it should be a folder")
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"--out {str(out)!r}: lies within --images; choose a folder outside it")


def read_run_grader(root: DataRoot, run: str) -> "Grader":
    """The run's heads. Raises ValueError where the run is missing, unfinished, or not evaluated yet."""
    from runs.run_record import read_run_record

    folder = root.run(run)
    read_run_record(folder)

    from vl_model.evaluation.embeddings import fingerprint
    from vl_model.evaluation.grader import read_grader

    return read_grader(folder / "heads", fingerprint(folder / "final", "")["checkpoint"])


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """A passing folder within `out`: on its disk, because slices of many studies may not fit into /tmp.

    Where `out` was not there before and nothing came of it, it is removed again.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".predicting-", dir=out) as folder:
            yield Path(folder)
    finally:
        if not any(out.iterdir()):
            out.rmdir()


def convert(images: Path, processed: Path, descriptions: Path | None, placer: "Placer", workers: int) -> "Dataset":
    """DICOM files to tiles, sites placed by `placer`: nobody marked them."""
    from data_prep.conversion.convert import convert_folder
    from data_prep.conversion.pairs import read_dataset
    from prompts.render import caption

    convert_folder(images, processed, descriptions=descriptions, placer=placer, caption=caption, workers=workers)
    return read_dataset(processed)


def embed(root: DataRoot, run: str, dataset: "Dataset", processed: Path, batch_size: int) -> "Embeddings":
    import torch

    from data_prep.conversion.crops import open_crops
    from runs.launch import threads_per_process
    from vl_model.data.site_rows import group_sites
    from vl_model.evaluation.embed import embed_rows
    from vl_model.evaluation.embeddings import Embeddings
    from vl_model.model.site_model import load_site_model

    torch.set_num_threads(threads_per_process())
    model = load_site_model(root.run(run) / "final").to("cuda" if torch.cuda.is_available() else "cpu")
    rows = group_sites(dataset.pairs)
    return Embeddings(rows, embed_rows(model, rows, open_crops(processed), batch_size), {})


def write_probabilities(path: Path, dataset: "Dataset", embeddings: "Embeddings", grader: "Grader") -> None:
    """Calibrated probabilities, a row a site, with the slice and box that speak for it."""
    import pandas as pd

    from vl_model.data.site_table import full_table, site_table
    from vl_model.evaluation.predictions import GRADES, site_columns
    from workspace.whole_files import replacing

    table = full_table(dataset.study_ids, site_table([]))
    prob_N3 = grader.predict_proba(table, embeddings, "calibrated")
    rows = site_columns(table).assign(**{grade: prob_N3[:, place] for place, grade in enumerate(GRADES)})
    evidence = pd.DataFrame(evidence_rows(dataset, table), columns=list(EVIDENCE))
    evidence = evidence.astype({"series_id": "Int64", "instance_number": "Int64"})
    with replacing(path) as partial:
        pd.concat([rows, evidence], axis=1).to_csv(partial, index=False, float_format="%.9g", lineterminator="\n")


def evidence_rows(dataset: "Dataset", table: "SiteTable") -> list[dict[str, Any]]:
    """For each row of `table` the slice, and the box in its pixels, of the view that the site is marked in first."""
    from data_prep.sites import SITES
    from vl_model.data.site_rows import evidence_of

    best = evidence_of(dataset.pairs)
    shown = [best.get((study, SITES[site])) for study, site in zip(table.study_N.tolist(), table.site_N, strict=True)]
    return [
        {}
        if pair is None
        else {
            "source": pair.source.value,
            "view": pair.view.value,
            "series_id": pair.series_id,
            "instance_number": pair.instance_number,
            **dict(zip(("x0", "y0", "x1", "y1"), pair.box, strict=True)),
        }
        for pair in shown
    ]


def submit(path: Path, dataset: "Dataset", embeddings: "Embeddings", grader: "Grader") -> None:
    from data_prep.sites import SITES
    from vl_model.data.site_table import full_table, site_table
    from vl_model.evaluation.submission import write_submission

    table = full_table(dataset.study_ids, site_table([]))
    prob_SX3 = grader.predict_proba(table, embeddings, "metric_optimal").reshape(-1, len(SITES), 3)
    write_submission(path, dataset.study_ids, prob_SX3)


if __name__ == "__main__":
    run_command(PROG, main)
