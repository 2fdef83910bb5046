"""Studies of one patient have one fold."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.convert import convert_cohort
from data_prep.conversion.folds import assign_folds
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Severity, Site
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.patients import MOST_EXAMINATIONS, studies_of_one_patient
from tests.dicom_files import frame, write_slice
from workspace.layout import DataRoot


def write_cohort(root: Path, elements_of: dict[int, dict[str, str]]) -> DataRoot:
    """Write one series of two images per study, with these elements in the headers, and the tables without labels."""
    random = np.random.default_rng(0)
    table = ["study_id,series_id,series_description"]
    for study, elements in elements_of.items():
        table.append(f"{study},1{study},Axial T2")
        for number in (1, 2):
            pixels = random.integers(0, 900, (16, 16), dtype=np.uint16)
            path = root / "dataset" / "train_images" / str(study) / f"1{study}" / f"{number}.dcm"
            write_slice(path, pixels, frame((0, 0, 4.0 * number), shape=(16, 16)), **elements)
    (root / "dataset" / "train_series_descriptions.csv").write_text("\n".join(table))
    grades = [",".join(["study_id", *(site.key for site in SITES)]), *(f"{study}{',' * 25}" for study in elements_of)]
    (root / "dataset" / "train.csv").write_text("\n".join(grades))
    return DataRoot(root)


def groups(tmp_path: Path, elements_of: dict[int, dict[str, str]]) -> list[tuple[int, ...]]:
    return studies_of_one_patient(split_cohort(write_cohort(tmp_path, elements_of), "train").folders)


def test_studies_are_joined_by_patient_and_by_examination(tmp_path: Path) -> None:
    """A PatientID may be written in several ways; 5 is joined with 3 through 4."""
    patient_of = {1: "AB-007", 2: "ab 007", 3: "8", 4: "0008", 5: "9", 6: "", 7: "", 8: "P8", 9: "P9", 10: "P10"}
    uid_of = {4: "1.2.4", 5: "1.2.4"}
    elements_of = {
        study: {"PatientID": patient, "StudyInstanceUID": uid_of.get(study, f"1.9.{study}")}
        for study, patient in patient_of.items()
    }
    assert groups(tmp_path, elements_of) == [(1, 2), (3, 4, 5)]


def test_odd_first_files_and_series_hide_no_patient(tmp_path: Path) -> None:
    """The first file of 1 is damaged, that of 3 names nobody, and the first series of 5 is of another patient."""
    names = {1: "A", 2: "A", 3: "B", 4: "B", 5: "X", 6: "C", 7: "P7", 8: "P8", 9: "P9"}
    root = write_cohort(tmp_path, {study: {"PatientID": name} for study, name in names.items()})
    images = tmp_path / "dataset" / "train_images"
    (images / "1" / "11" / "1.dcm").write_bytes(b"damaged")
    pixels = np.zeros((16, 16), dtype=np.uint16)
    write_slice(
        images / "3" / "13" / "1.dcm", pixels, frame((0, 0, 0), shape=(16, 16)), PatientID="", StudyInstanceUID=""
    )
    write_slice(images / "5" / "99" / "1.dcm", pixels, frame((0, 0, 0), shape=(16, 16)), PatientID="C")
    with (tmp_path / "dataset" / "train_series_descriptions.csv").open("a") as table:
        table.write("\n5,99,Axial T2")
    found = studies_of_one_patient(split_cohort(root, "train").folders)
    assert found == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize(
    ("shared", "alone", "are_joined"),
    [(2, 0, True), (3, 0, False), (3, 3, True), (4, 3, False), (MOST_EXAMINATIONS, 30, True), (11, 30, False)],
)
def test_constants_join_nothing(tmp_path: Path, shared: int, alone: int, are_joined: bool) -> None:
    patient_of = {study: "ANONYMOUS" if study <= shared else f"P{study}" for study in range(1, shared + alone + 1)}
    found = groups(tmp_path, {study: {"PatientID": patient} for study, patient in patient_of.items()})
    assert found == ([tuple(range(1, shared + 1))] if are_joined else [])


def test_a_patients_studies_are_never_divided_and_folds_stay_balanced() -> None:
    random = np.random.default_rng(0)
    severities: dict[int, dict[Site, Severity]] = {}
    for study in range(300):
        burden = random.normal()  # labels are correlated, as in the real data set
        severities[study] = {site: Severity(int(np.digitize(burden + random.normal(), [1.2, 2.2]))) for site in SITES}
    together = [tuple(range(first, first + 3)) for first in range(0, 60, 3)]
    fold_of = assign_folds(severities, 5, 0, together)
    assert list(fold_of) == sorted(severities)
    assert all(len({fold_of[study] for study in group}) == 1 for group in together)
    sizes = Counter(fold_of.values())
    assert len(sizes) == 5 and max(sizes.values()) - min(sizes.values()) <= 6

    def imbalance(folds: dict[int, int]) -> float:
        """Return the root mean square difference of a fold's count of a label from a fifth."""
        counts = np.zeros((5, 25, 3))
        for study, grades in severities.items():
            for site, grade in grades.items():
                counts[folds[study], SITES.index(site), grade] += 1
        return float(np.sqrt(np.mean((counts - counts.mean(axis=0)) ** 2)))

    alone = assign_folds(severities, 5, 0)
    shuffled = {study: int(fold) for study, fold in zip(severities, random.permutation(300) % 5, strict=True)}
    assert imbalance(alone) < imbalance(fold_of) < 0.8 * imbalance(shuffled)
    # Groups of one study change nothing.
    assert assign_folds(severities, 5, 0, [(study,) for study in severities]) == alone


def test_a_conversion_keeps_a_patient_in_one_fold_and_writes_no_identifier(tmp_path: Path) -> None:
    names = {study: "Jane-Doe-1970" if study in (2, 3, 5) else f"P{study}" for study in range(1, 9)}
    root = write_cohort(tmp_path, {study: {"PatientID": name} for study, name in names.items()})
    convert_cohort(
        split_cohort(root, "train"), tmp_path / "out", atlas=None, caption=lambda site, _: site.words, folds=4
    )
    dataset = read_dataset(tmp_path / "out")
    assert len({dataset.fold_of[study] for study in (2, 3, 5)}) == 1 and len(set(dataset.fold_of.values())) == 4
    assert dataset.metadata["folds"]["of_one_patient"] == [[2, 3, 5]]
    written = [path.read_bytes().lower() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"jane" in content or b"doe-1970" in content for content in written)
