"""Studies whose pixels are another's, in another fold, are named."""

import csv
from pathlib import Path

import numpy as np

from data_prep.conversion.convert import convert_cohort, folds_of
from data_prep.conversion.dry_run import check_cohort
from data_prep.conversion.pairs import read_dataset
from data_prep.conversion.twin_studies import find_twins, pixel_digest
from data_prep.sites import SITES, Severity, Site
from data_prep.studies.cohorts import split_cohort
from tests.dicom_files import frame, write_slice
from workspace.layout import DataRoot


def test_digests_tell_pixels_and_shapes_apart_and_ignore_empty_images() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert pixel_digest(image) == pixel_digest(np.asfortranarray(image)) and len(pixel_digest(image)) == 16
    assert len({pixel_digest(image), pixel_digest(image.reshape(4, 3)), pixel_digest(image + 1)}) == 3
    assert pixel_digest(np.full((3, 4), 7, dtype=np.uint8)) == ""


def test_twins_share_several_images_and_are_in_different_folds() -> None:
    fold_of = {1: 0, 2: 1, 3: 0, 4: 1, 5: 2}
    digests = {1: "abcdef", 2: "xabcy", 3: "abc", 4: "fgh", 5: "z"}
    found = find_twins({study: list(letters) for study, letters in digests.items()}, fold_of)
    assert found == {(1, 2): 3, (2, 3): 3}  # 1 and 3 share a fold, 1 and 4 one image
    # A study of a single image is a twin by that image; empty images say nothing.
    assert find_twins({1: ["a"], 2: ["a", "b", "c"]}, fold_of) == {(1, 2): 1}
    assert find_twins({1: ["", "", ""], 2: ["", "", ""]}, fold_of) == {}
    # What the scanner writes into every study makes no twins.
    many = {study: ["p", "q", "r", str(study)] for study in range(30)}
    assert find_twins(many, {study: study % 5 for study in many}) == {}


def caption(site: Site, severity: Severity | None) -> str:
    return site.words if severity is None else f"{site.words}: {severity.key}"


def test_a_study_under_two_numbers_is_named(tmp_path: Path) -> None:
    """The copy has other series and instance numbers; another study repeats one image and has an empty one."""
    rng = np.random.default_rng(0)
    images, table = tmp_path / "dataset" / "train_images", ["study_id,series_id,series_description"]

    def write(study: int, series: int, first: int, pixels: list[np.ndarray]) -> None:
        table.append(f"{study},{series},Axial T2")
        for number, image in enumerate(pixels):
            place = frame((0, 0, 4.0 * number), shape=(32, 32))
            write_slice(images / f"{study}/{series}/{first + number}.dcm", image, place, StudyInstanceUID=f"1.{study}")

    original = [rng.integers(0, 900, (32, 32), dtype=np.uint16) for _ in range(4)]
    write(7, 1, 1, original)
    write(8, 2, 11, original)
    for study in (9, 10):
        own = [rng.integers(0, 900, (32, 32), dtype=np.uint16) for _ in range(3)]
        write(study, study, 1, [np.full((32, 32), 5, dtype=np.uint16), *original[:1], *own])
    (tmp_path / "dataset" / "train_series_descriptions.csv").write_text("\n".join(table))
    grades = [",".join(["study_id", *(site.key for site in SITES)]), *(f"{study}{',' * 25}" for study in (7, 8, 9, 10))]
    (tmp_path / "dataset" / "train.csv").write_text("\n".join(grades))
    cohort = split_cohort(DataRoot(tmp_path), "train")
    convert_cohort(cohort, tmp_path / "out", atlas=None, caption=caption, folds=4)
    dataset = read_dataset(tmp_path / "out")
    assert len(set(dataset.fold_of.values())) == 4 and dataset.twins == ((7, 8),)
    with (tmp_path / "out" / "faults.csv").open(newline="") as file:
        twins = {row["study_id"]: row["message"] for row in csv.DictReader(file) if row["kind"] == "twin_study"}
    folds = {study: dataset.fold_of[study] for study in (7, 8)}
    said = "4 of its images are, pixel by pixel, also those of study 7, which is in fold"
    assert twins.keys() == {"7", "8"} and twins["8"] == f"{said} {folds[7]} (this one is in fold {folds[8]})"
    assert dataset.metadata["counts"]["faults"]["twin_study"] == 2
    found = check_cohort(cohort, max_pixels=10_000, fold_of=folds_of(cohort, 4, 0, [])).faults
    assert {fault.study_id: fault.message for fault in found if fault.kind == "twin_study"} == {
        int(study): message for study, message in twins.items()
    }
    assert not [fault for fault in check_cohort(cohort, max_pixels=10_000).faults if fault.kind == "twin_study"]
