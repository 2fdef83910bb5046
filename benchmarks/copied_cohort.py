"""A large cohort of real-size studies, made quickly: a few studies of the phantom, copied under new identifiers.

Drawing a study of full-size slices takes some ten seconds, copying it a tenth of a second. A copy has identifiers of
its own, because images whose headers name another study are set aside.
"""

import csv
from pathlib import Path

from pydicom import dcmread

from data_prep.phantom import write_cohort
from workspace.layout import DataRoot

#: Tables whose rows name a study.
TABLES = ("train", "train_series_descriptions", "train_label_coordinates")


def write_copied_cohort(root: Path, drawn: Path, studies: int, originals: int, seed: int = 5) -> int:
    """Write `studies` train studies to `root`, copies of `originals` studies in turn; return their number of slices.

    drawn: the data root of the originals, which are drawn there if they do not exist.
    """
    write_cohort(drawn, train=originals, test=0, seed=seed, scanners="mixed", size="full", workers=2)
    source, target = DataRoot(drawn), DataRoot(root)
    ids = sorted(int(folder.name) for folder in source.images("train").iterdir())
    target.dataset.mkdir(parents=True)
    for name in TABLES:
        _copy_table(source.dataset / f"{name}.csv", target.dataset / f"{name}.csv", ids, studies)
    slices = 0
    for number in range(studies):
        study_id = ids[number % len(ids)]
        new = _new_id(study_id, number)
        for path in sorted((source.images("train") / str(study_id)).rglob("*.dcm")):
            copy_study_file(path, target.images("train") / str(new) / path.parent.name / path.name, study_id, new)
            slices += 1
    return slices


def _new_id(study_id: int, number: int) -> int:
    return study_id + 10**10 * (number + 1)


def copy_study_file(path: Path, copy: Path, study_id: int, new: int) -> None:
    """Copy a file of the phantom, with the identifiers of another study."""
    image = dcmread(path)
    image.PatientID = image.StudyInstanceUID = str(new)
    image.SeriesInstanceUID = image.SeriesInstanceUID.replace(f"{study_id}.", f"{new}.", 1)
    copy.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(copy, enforce_file_format=False)


def _copy_table(path: Path, copy: Path, ids: list[int], studies: int) -> None:
    """Write the rows of each original once for each of its copies; the first column is the study."""
    with path.open(newline="", encoding="utf-8") as file:
        heading, *rows = csv.reader(file)
    with copy.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(heading)
        for number in range(studies):
            study_id = ids[number % len(ids)]
            table.writerows([_new_id(study_id, number), *row[1:]] for row in rows if row[0] == str(study_id))
