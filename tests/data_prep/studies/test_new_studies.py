"""Tests of new_studies.py and image_tree.py: which images are one study, in every layout that people have."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.dicom.identity import Identity, read_identity
from data_prep.faults import FaultKind
from data_prep.sites import View
from data_prep.studies.cohorts import Cohort, folder_cohort
from data_prep.studies.studies import read_study
from tests.dicom_files import deflated, frame, functional_group, write_enhanced, write_slice

PIXELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def write_images(
    folder: Path,
    study: str | None,
    series: str | None = None,
    count: int = 3,
    patient: str | None = None,
    name: Callable[[int], str] = "{}.dcm".format,
) -> None:
    """Write the images of one series, at different places, with these identifiers."""
    elements: dict[str, Any] = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "PatientID": patient}
    for number in range(1, count + 1):
        given = {key: value for key, value in elements.items() if value is not None}
        path = folder / name(number)
        write_slice(path, PIXELS, frame((4.0 * number, 0, 0)), InstanceNumber=str(number), **given)


def arranged(cohort: Cohort) -> dict[str, list[int]]:
    """Return the folder of each study -> the number of files of its series, sorted."""
    counts = {study_id: [] for study_id in cohort.study_ids}
    for folder in cohort.folders:
        counts[folder.study_id] = sorted(len(folder.files[series]) for series in folder.series)
    return {cohort.folder_names[study_id]: count for study_id, count in counts.items()}


def kinds(cohort: Cohort) -> set[FaultKind]:
    return {fault.kind for fault in cohort.faults} - {FaultKind.ID_ASSIGNED}


def test_a_disc_export_is_read_by_its_identifiers(tmp_path: Path) -> None:
    """Two patients, three examinations, names without endings, a viewer, reports, a series of another patient."""
    images = tmp_path / "DISC"
    plain = "IM{:06d}".format
    for place, study in {"PA0/ST0": "1.1", "PA0/ST1": "1.2", "PA1/ST0": "2.1"}.items():
        for number in range(3):
            write_images(images / "DICOM" / place / f"SE{number}", study, f"{study}.{number}", 3, study[0], plain)
    write_images(images / "DICOM/PA1/ST0/SE9", "1.1", "1.1.9", 2, "1", plain)
    (images / "VIEWER" / "bin").mkdir(parents=True)
    for name in ("DICOMDIR", "AUTORUN.INF", "VIEWER/run.exe", "VIEWER/bin/a.dll", "report.pdf"):
        (images / name).write_bytes(b"%PDF-1.4 something")
    write_images(images / "THUMBS", None)
    for path in (images / "THUMBS").iterdir():
        path.rename(path.with_suffix(".jpg")).write_bytes(b"\xff\xd8\xff")
    cohort = folder_cohort(images, None)
    assert cohort.layout == "3 studies, by StudyInstanceUID"
    assert arranged(cohort) == {
        "DICOM/PA0/ST0; DICOM/PA1/ST0/SE9": [2, 3, 3, 3],
        "DICOM/PA0/ST1": [3, 3, 3],
        "DICOM/PA1/ST0": [3, 3, 3],
    }
    assert kinds(cohort) == {FaultKind.NOT_DICOM, FaultKind.FOREIGN_IMAGE}
    rubbish = [fault.path for fault in cohort.faults if fault.kind is FaultKind.NOT_DICOM]
    assert sorted(rubbish) == [".", "DICOMDIR", "THUMBS", "VIEWER", "VIEWER/bin"]


@pytest.mark.parametrize("flat", ["", "all", "a/b"])
def test_a_flat_folder_is_divided_by_its_identifiers(tmp_path: Path, flat: str) -> None:
    for study in ("1.1", "1.2"):
        for series, count in (("1", 3), ("2", 4), ("3", 1)):
            name = f"{study}-{series}-{{}}.dcm".format
            write_images(tmp_path / "images" / flat, study, f"{study}.{series}", count, name=name)
    cohort = folder_cohort(tmp_path / "images", None)
    assert cohort.layout == "2 studies, by StudyInstanceUID"
    assert [sorted(len(folder.files[series]) for series in folder.series) for folder in cohort.folders] == [
        [1, 3, 4]
    ] * 2
    assert {number > 10**10 for folder in cohort.folders for number in (folder.study_id, *folder.series)} == {True}
    for folder in cohort.folders:
        study, _ = read_study(folder)
        assert sorted(len(series.slices) for series in study.series) == [1, 3, 4]


def test_enhanced_files_in_one_folder_are_a_series_each(tmp_path: Path) -> None:
    for number in range(3):
        groups = [functional_group(frame((4.0 * index, 0, 0))) for index in range(5)]
        path = tmp_path / "images" / "p" / f"IM{number}"
        uids = {"StudyInstanceUID": "1.1", "SeriesInstanceUID": f"1.1.{number}"}
        write_enhanced(path, np.stack([PIXELS] * 5), groups, **uids)
    assert read_identity(path) == Identity("", "1.1", "1.1.2", 5)
    (folder,) = folder_cohort(tmp_path / "images" / "p", None).folders
    assert [len(series.slices) for series in read_study(folder)[0].series] == [5, 5, 5]


def test_a_patient_with_all_files_in_one_folder_beside_series_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "anna", "1.1", "1.1.1", name="a{}".format)
    write_images(tmp_path / "anna", "1.1", "1.1.2", name="b{}".format)
    write_images(tmp_path / "7" / "70", "1.2", "1.2.1")
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"anna": [3, 3], "7": [3]} and not kinds(cohort)


def test_one_study_in_two_folders_is_one_study(tmp_path: Path) -> None:
    for place, uid, patient in (("5/1", "1.1", "A"), ("6/1", "1.1", "a"), ("6/2", "1.1", "A"), ("9/1", "1.2", "A")):
        write_images(tmp_path / place, uid, f"{uid}.{place}".replace("/", "."), patient=patient)
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"6; 5": [3, 3, 3], "9": [3]} and cohort.study_ids == (6, 9)
    (fault,) = (fault for fault in cohort.faults if fault.kind is FaultKind.SPLIT_STUDY)
    assert (fault.path, fault.action) == ("5", "repaired")

    # Without PatientIDs the identifier may be a constant of some patients: nothing is joined, and it is said.
    for place, uid in (("5/1", "1.1"), ("6/1", "1.1"), ("6/2", "1.1")):
        write_images(tmp_path / place, uid, f"{uid}.{place}".replace("/", "."))
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"5": [3], "6": [3, 3], "9": [3]}
    split = [(fault.path, fault.action) for fault in cohort.faults if fault.kind is FaultKind.SPLIT_STUDY]
    assert split == [("5", "guessed"), ("6", "guessed")]


@pytest.mark.parametrize("study", ["1.1", "", None])
def test_a_constant_or_missing_identifier_leaves_the_folders(tmp_path: Path, study: str | None) -> None:
    for name in ("anna", "bert", "8"):
        for series in ("1", "2"):
            write_images(tmp_path / name / series, study)
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"8": [3, 3], "anna": [3, 3], "bert": [3, 3]}
    assert cohort.layout.startswith("3 studies, by folder: ")
    assert kinds(cohort) == ({FaultKind.IDENTITY_IGNORED} if study else set())


def test_an_identifier_that_some_patients_share_is_a_constant(tmp_path: Path) -> None:
    for name, patient, study in (("a", "P1", "1.1"), ("b", "P2", "1.1"), ("c", "P3", "1.3")):
        write_images(tmp_path / name / "1", study, patient=patient)
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"a": [3], "b": [3], "c": [3]} and cohort.layout.startswith("3 studies, by StudyInst")


@pytest.mark.parametrize("study", ["1.1", None])
@pytest.mark.parametrize("where", ["A {}", "{} A", "one folder"])
def test_two_patients_are_never_one_study(tmp_path: Path, study: str | None, where: str) -> None:
    """Patients as series of a folder, in a flat folder, and in a study's folder, with and without one identifier."""
    for patient in ("A", "B", "C"):
        place = {"A {}": f"7/{patient}", "{} A": patient, "one folder": "all"}[where]
        write_images(tmp_path / "images" / place, study, patient=patient, name=f"{patient}{{}}.dcm".format)
    last = "all" if where == "one folder" else "7/x"
    write_images(tmp_path / "images" / last, "9.9", "9.9.1", patient="D", name="D{}.dcm".format)
    cohort = folder_cohort(tmp_path / "images", None)
    assert len(cohort.study_ids) == 4 and [len(folder.series) for folder in cohort.folders] == [1] * 4
    for folder in cohort.folders:
        (files,) = folder.files.values()
        assert len({read_identity(path).patient for path in files}) == 1  # type: ignore[union-attr]
    if where != "{} A":
        assert FaultKind.IDENTITY_IGNORED in kinds(cohort) and "PatientID" in cohort.layout


def test_the_number_of_a_folder_is_that_of_the_study_that_it_mainly_holds(tmp_path: Path) -> None:
    for series in ("1", "2"):
        write_images(tmp_path / "7" / series, "1.1")
    write_images(tmp_path / "7" / "3", "1.2", count=9)  # more images, but fewer series
    write_images(tmp_path / "8" / "1", "8", count=2)
    for series in ("2", "3"):
        write_images(tmp_path / "8" / series, "1.3")
    cohort = folder_cohort(tmp_path, None)
    own = {folder.study_id: sorted(map(len, folder.files.values())) for folder in cohort.folders}
    assert own[7] == [3, 3] and own[8] == [2]


def test_screenshots_do_not_hide_the_series_of_a_flat_folder(tmp_path: Path) -> None:
    for series in ("1", "2"):
        write_images(tmp_path / "p", "1.1", series, count=5, name=f"{series}-{{}}.dcm".format)
    for number in range(9):
        write_images(tmp_path / "p", "1.1", f"9.{number}", count=1, name=f"shot{number}{{}}.dcm".format)
    write_images(tmp_path / "q" / "1", "1.2")
    assert arranged(folder_cohort(tmp_path, None)) == {"p": [5, 5, 9], "q": [3]}


@pytest.mark.parametrize("study", ["1.1", "", None])
def test_patients_without_identifiers_of_their_studies_are_not_mixed(tmp_path: Path, study: str | None) -> None:
    """One folder per patient, series of two patients in one folder, and a single folder of two patients."""
    for patient in ("P1", "P2", "P3"):
        write_images(tmp_path / "a" / patient.lower(), study, f"1.{patient[1]}.1", patient=patient)
        write_images(tmp_path / "a" / patient.lower(), study, f"1.{patient[1]}.2", patient=patient, name="b{}".format)
    cohort = folder_cohort(tmp_path / "a", None)
    assert arranged(cohort) == {"p1": [3, 3], "p2": [3, 3], "p3": [3, 3]}
    assert cohort.layout.startswith("3 studies, by ") and cohort.layout.endswith(" and PatientID")
    assert kinds(cohort) == {FaultKind.IDENTITY_IGNORED}

    for series, patient in enumerate(("P1", "p 1", "00P1", "P2", ""), start=1):
        write_images(tmp_path / "b" / "7" / str(series), study, f"1.{series}", count=series, patient=patient)
    write_images(tmp_path / "b" / "8" / "1", study, "2.1", patient="P3")
    cohort = folder_cohort(tmp_path / "b", None)
    assert arranged(cohort) == {"7": [1, 2, 3], "7/4": [4], "8": [3]}
    skipped = [fault for fault in cohort.faults if fault.action == "skipped"]
    assert {(fault.kind, fault.path.split("/")[1]) for fault in skipped} == {(FaultKind.FOREIGN_IMAGE, "5")}

    for patient in ("P1", "P2"):
        name = f"{patient}-{{}}".format
        write_images(tmp_path / "c", study, f"1.{patient[1]}.1", count=len(patient), patient=patient, name=name)
    assert [len(folder.series) for folder in folder_cohort(tmp_path / "c", None).folders] == [1, 1]


def test_an_image_without_identifier_joins_no_other_patient(tmp_path: Path) -> None:
    write_images(tmp_path / "7" / "1", None, patient="P1")
    write_images(tmp_path / "7" / "2", "1.2", patient="P2")
    write_images(tmp_path / "7" / "3", None, count=1)
    write_images(tmp_path / "8" / "1", "1.3", patient="P1")
    write_images(tmp_path / "9" / "1", None, patient="P4")
    write_images(tmp_path / "9" / "2", None, patient="P5", count=2)
    assert arranged(folder_cohort(tmp_path, None)) == {"7/1": [3], "7": [1, 3], "8": [3], "9": [3], "9/2": [2]}


@pytest.mark.parametrize("study", ["1.1", None])
def test_a_folder_within_a_series_folder_is_a_series_of_the_same_study(tmp_path: Path, study: str | None) -> None:
    write_images(tmp_path / "7" / "1", study)
    write_images(tmp_path / "7" / "1" / "derived", study, count=2)
    write_images(tmp_path / "7" / "1" / "derived" / "more", study, count=4)
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"7": [2, 3, 4]}


@pytest.mark.parametrize("name", ["$RECYCLE.BIN", "System Volume Information", "RECYCLER", "@Recycle", "#snapshot"])
def test_what_a_share_keeps_of_deleted_files_is_no_study(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "7" / "1", "1.1")
    write_images(tmp_path / name / "7" / "1", "1.2")
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"7": [3]} and kinds(cohort) == {FaultKind.NOT_DICOM}


def test_identifiers_that_differ_from_file_to_file_say_nothing(tmp_path: Path) -> None:
    for name in ("1", "2"):
        for number in range(5):
            uid, file_name = f"1.{name}.{number}", f"{number}.dcm{{}}".format
            write_images(tmp_path / name / "1", uid, count=1, name=file_name)
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"1": [5], "2": [5]} and "say nothing" in cohort.layout
    assert kinds(cohort) == {FaultKind.IDENTITY_IGNORED}


def test_short_series_do_not_tell_what_identifiers_of_each_file_do_not(tmp_path: Path) -> None:
    for home in ("1", "2"):
        for series, count in (("1", 3), ("2", 1), ("3", 2), ("4", 1)):
            for number in range(1, count + 1):
                path = tmp_path / home / series / f"{number}.dcm"
                uid = f"1.{home}.{series}.{number}"
                write_slice(path, PIXELS, frame((4.0 * number, 0, 0)), StudyInstanceUID=uid)
    write_images(tmp_path / "3" / "1", "1.9")
    assert arranged(folder_cohort(tmp_path, None)) == {"1": [1, 1, 2, 3], "2": [1, 1, 2, 3], "3": [3]}


@pytest.mark.parametrize("place", ["{}", "{}/1", "all/{}"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "PatientID"])
def test_one_enhanced_file_each_of_several_patients(tmp_path: Path, place: str, keyword: str) -> None:
    for number in range(1, 5):
        groups = [functional_group(frame((4.0 * index, 0, 0))) for index in range(5)]
        path = tmp_path / place.format(f"p{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_enhanced(path, np.stack([PIXELS] * 5), groups, **{keyword: f"1.{number}"})
    assert len(folder_cohort(tmp_path, None).study_ids) == 4


def test_images_without_an_identifier_belong_to_the_only_study_of_their_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "7" / "1", "1.1")
    write_images(tmp_path / "7" / "2", None)
    write_images(tmp_path / "8" / "1", "1.2")
    write_images(tmp_path / "9" / "1", None)
    assert arranged(folder_cohort(tmp_path, None)) == {"7": [3, 3], "8": [3], "9": [3]}

    write_images(tmp_path / "7" / "3", "1.3", count=2)
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"7": [3], "7/3": [2], "8": [3], "9": [3]}
    lost = [fault.path for fault in cohort.faults if fault.action == "skipped"]
    assert lost == ["7/2"]


def test_a_series_of_another_examination_leaves_the_study_its_number(tmp_path: Path) -> None:
    for series in ("1", "2", "3"):
        write_images(tmp_path / "7" / series, "1.1")
    write_images(tmp_path / "7" / "4", "2.2")
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"7": [3, 3, 3], "7/4": [3]} and cohort.study_ids[0] == 7
    assert kinds(cohort) == {FaultKind.FOREIGN_IMAGE}


def test_patients_with_their_images_directly_in_their_folders(tmp_path: Path) -> None:
    for name in ("7", "anna", "bert"):
        write_images(tmp_path / name, f"1.{len(name)}.{ord(name[0])}", "2")
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"7": [3], "anna": [3], "bert": [3]} and 7 in cohort.study_ids
    assert not kinds(cohort)


def test_one_identifier_per_slice_is_one_series(tmp_path: Path) -> None:
    for number in range(5):
        write_images(tmp_path / "7" / "1", "1.1", f"1.1.{number}", count=1, name=f"{number}.dcm{{}}".format)
    write_images(tmp_path / "7" / "2", "1.1", "1.1.9")
    assert arranged(folder_cohort(tmp_path, None)) == {"7": [3, 5]}


def test_numbers_depend_on_nothing_but_the_study(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "anna" / "SE0", "1.1", "1.1.1")
    (number,) = folder_cohort(tmp_path / "a", None).study_ids
    assert folder_cohort(tmp_path / "a" / "anna", None).study_ids == (number,)
    series = folder_cohort(tmp_path / "a", None).folders[0].series.keys()
    for name, study in {"adam": "1.2", "zoe": "1.3", "anna2": "1.1"}.items():
        shutil.copytree(tmp_path / "a" / "anna", tmp_path / "a" / name)
        shutil.rmtree(tmp_path / "a" / name)
        write_images(tmp_path / "a" / name / "SE0", study, f"{study}.1")
        found = folder_cohort(tmp_path / "a", None)
        if name != "anna2":
            assert number in found.study_ids
            assert next(folder for folder in found.folders if folder.study_id == number).series.keys() == series
    shutil.move(tmp_path / "a" / "anna", tmp_path / "b" / "other" / "anna")
    assert folder_cohort(tmp_path / "b" / "other", None).study_ids == (number,)


def test_equal_names_on_one_disc_are_different_studies(tmp_path: Path) -> None:
    for patient in ("PA0", "PA1"):
        write_images(tmp_path / patient / "ST0" / "SE0", None)
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"PA0/ST0": [3], "PA1/ST0": [3]}


def test_damaged_studies_are_studies_and_rubbish_is_none(tmp_path: Path) -> None:
    write_images(tmp_path / "7" / "1", "1.1")
    (tmp_path / "8" / "1").mkdir(parents=True)
    (tmp_path / "8" / "1" / "1.dcm").write_bytes(b"")
    (tmp_path / "9" / "1").mkdir(parents=True)
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "report.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "notes.txt").write_bytes(b"a note")
    (tmp_path / "@eaDir" / "7").mkdir(parents=True)
    (tmp_path / "@eaDir" / "7" / "1.dcm").write_bytes(b"thumbnail")
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"7": [3], "8": [1], "9": []}


def test_a_report_in_a_dicom_file_is_no_image(tmp_path: Path) -> None:
    write_images(tmp_path / "7" / "1", "1.1")
    report = write_slice(tmp_path / "7" / "SR" / "1.dcm", PIXELS, Rows=None, Columns=None, PixelData=None)
    assert read_identity(report) is None
    cohort = folder_cohort(tmp_path, None)
    assert arranged(cohort) == {"7": [3]} and kinds(cohort) == {FaultKind.NOT_DICOM}


@pytest.mark.filterwarnings("ignore:The value for the data element")
def test_identities_are_read_from_every_encoding(tmp_path: Path) -> None:
    uids = {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.2", "PatientID": "P"}
    path = write_slice(tmp_path / "a.dcm", PIXELS, **uids)
    expected = Identity("P", "1.1", "1.2")
    assert read_identity(path) == expected and "P" not in repr(expected)
    assert read_identity(deflated(path)) == expected
    one = write_slice(tmp_path / "c.dcm", PIXELS, PatientID="anna").read_bytes()
    for name, text in (("c.dcm", "аня ".encode("cp1251")), ("d.dcm", "оля ".encode("cp1251"))):
        (tmp_path / name).write_bytes(one.replace(b"anna", text))
    assert read_identity(tmp_path / "c.dcm") != read_identity(tmp_path / "d.dcm")
    lines = "\\".join(["x" * 60] * 1500)
    long = write_slice(tmp_path / "b.dcm", PIXELS, OtherPatientNames=lines, **uids)
    assert long.stat().st_size > 90_000 and read_identity(long) == expected
    assert read_identity(tmp_path / "none.dcm") == Identity()


def test_links_lead_to_no_study_twice_and_to_none_outside(tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images / "7" / "1", "1.1")
    write_images(tmp_path / "outside" / "1", "1.2")
    (images / "8").symlink_to("7")
    (images / "9").symlink_to(tmp_path / "outside")
    (images / "7" / "loop").symlink_to(images)
    cohort = folder_cohort(images, None)
    assert arranged(cohort) == {"7": [3]}
    assert kinds(cohort) == {FaultKind.SECOND_NAME, FaultKind.LINK_OUTSIDE}


def test_a_table_may_speak_of_identifiers_and_folders(tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images / "anna" / "SE0", "1.1", "1.1.1")
    write_images(images / "anna" / "SE1", "1.1", "1.1.2")
    write_images(images / "7" / "70", "1.2", "1.2.1")
    table = tmp_path / "table.csv"

    def views(*rows: str) -> list[list[View]]:
        table.write_text("study_id,series_id,series_description\n" + "\n".join(rows) + "\n")
        cohort = folder_cohort(images, table)
        assert kinds(cohort) <= {
            FaultKind.BAD_ID,
            FaultKind.NOT_IN_TABLE,
            FaultKind.MISSING_SERIES,
            FaultKind.MISSING_STUDY,
        }
        faults = [fault.message for fault in cohort.faults if fault.kind is FaultKind.BAD_ID]
        assert len(faults) == sum("?" in row for row in rows), faults
        return [list((folder.views or {}).values()) for folder in cohort.folders]

    expected = [[View.AXIAL_T2], [View.SAGITTAL_T1, View.SAGITTAL_T2_STIR]]
    uids = ("1.1,1.1.1,Sagittal T1", "1.1,1.1.2,Sagittal T2/STIR", "1.2,1.2.1,Axial T2", "3.4,3.4.5,Axial T2")
    assert views(*uids) == expected
    assert views("anna,SE0,Sagittal T1", "anna,anna/SE1,Sagittal T2/STIR", "7,70,Axial T2", "8,80,Axial T2") == expected
    assert views(*uids[:2], "1.2,?,Axial T2", "??,70,Axial T2") == [[], expected[1]]
