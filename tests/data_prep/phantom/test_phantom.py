"""Tests of the synthetic cohort: its files, its tables, and that its images show the ground truth."""

import _thread
import csv
import hashlib
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from scipy.stats import spearmanr

from data_prep.geometry import Frame, nearest
from data_prep.phantom import Scanners, Size, write_cohort
from data_prep.phantom.anatomy import Patient, draw_body
from data_prep.phantom.cohort import CohortSettings, _mapped, draw_study
from data_prep.phantom.files import SeriesIdentity, write_series
from data_prep.phantom.grades import LABEL_PERCENT, draw_grades, forced_grades, grade_within, read_label, severity_of
from data_prep.phantom.protocols import Compression, SeriesPlan
from data_prep.phantom.render import render
from data_prep.phantom.sheet import read_training_truth
from data_prep.phantom.tissues import Tissue, Weighting, standard_palette
from data_prep.sites import (
    SITES,
    SUBMISSION_SITES,
    Condition,
    Level,
    Severity,
    Side,
    Site,
    View,
    parse_condition,
    parse_level,
    parse_view,
)
from workspace.layout import DataRoot

T1, T2 = standard_palette(Weighting.T1), standard_palette(Weighting.T2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("phantom"), train=3, test=1, seed=11)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def frame_of(dataset: pydicom.Dataset) -> Frame:
    orientation = tuple(float(value) for value in dataset.ImageOrientationPatient)
    return Frame(
        tuple(float(value) for value in dataset.ImagePositionPatient),
        orientation[:3],
        orientation[3:],
        tuple(float(value) for value in dataset.PixelSpacing),
        dataset.pixel_array.shape,
    )


def patient_with(grades: dict[Site, float] | None = None, seed: int = 4) -> Patient:
    """Return a patient without disease except the given grades."""
    everything = forced_grades({}, np.random.default_rng(seed)) | (grades or {})
    return Patient(draw_body(np.random.default_rng(seed)), everything)


def plane_through(point: np.ndarray, view: View, spacing: float = 0.7, size: int = 160) -> Frame:
    """Return a plane parallel to the axes, with the point in its middle pixel."""
    half = spacing * (size // 2)
    x, y, z = point
    if view is View.AXIAL_T2:
        return Frame((x - half, y - half, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (spacing, spacing), (size, size))
    return Frame((x, y - half, z + half), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (spacing, spacing), (size, size))


def files_of(root: Path) -> Iterator[tuple[Path, pydicom.Dataset]]:
    for path in sorted((root / "dataset").rglob("*.dcm")):
        yield path, pydicom.dcmread(path)


def test_tables_have_the_competitions_columns_and_order(cohort: Path) -> None:
    dataset = cohort / "dataset"
    train = rows_of(dataset / "train.csv")
    assert list(train[0]) == ["study_id", *(site.key for site in SITES)]
    assert {value for row in train for key, value in row.items() if key != "study_id"} <= {
        "Normal/Mild", "Moderate", "Severe", ""
    }  # fmt: skip
    test_ids = {row["study_id"] for row in rows_of(dataset / "test_series_descriptions.csv")}
    submission = [row["row_id"] for row in rows_of(dataset / "sample_submission.csv")]
    assert submission == [f"{study_id}_{site.key}" for study_id in sorted(test_ids) for site in SUBMISSION_SITES]
    for split, ids in (("train", {row["study_id"] for row in train}), ("test", test_ids)):
        folders = {path.name for path in (dataset / f"{split}_images").iterdir()}
        described = rows_of(dataset / f"{split}_series_descriptions.csv")
        assert folders == ids == {row["study_id"] for row in described}
        for row in described:
            assert any((dataset / f"{split}_images" / row["study_id"] / row["series_id"]).glob("*.dcm"))
    assert not list(dataset.rglob("*truth*"))


def test_marks_project_onto_the_true_positions(cohort: Path) -> None:
    """By the written headers, marks lie within a click's scatter in the plane, on the slice that shows the site."""
    truth = read_training_truth(DataRoot(cohort))
    views = {row["series_id"]: parse_view(row["series_description"]) for row in rows_of(
        cohort / "dataset" / "train_series_descriptions.csv")}  # fmt: skip
    marks = rows_of(cohort / "dataset" / "train_label_coordinates.csv")
    assert len(marks) > 50
    in_plane, across = [], []
    for mark in marks:
        condition, side = parse_condition(mark["condition"])
        site = Site(condition, side, parse_level(mark["level"]))
        path = cohort / "dataset" / "train_images" / mark["study_id"] / mark["series_id"]
        frame = frame_of(pydicom.dcmread(path / f"{mark['instance_number']}.dcm"))
        _, position = truth[int(mark["study_id"]), site]
        assert views[mark["series_id"]] is site.views[0]
        across.append(abs(frame.distance_mm(position)))
        clicked = frame.to_patient((float(mark["x"]), float(mark["y"])))
        in_plane.append(np.linalg.norm(clicked - position - frame.normal * ((clicked - position) @ frame.normal)))
    assert max(in_plane) < 4.0 and np.median(in_plane) < 1.3
    assert max(across) <= 5.0


def test_left_is_positive_x(cohort: Path) -> None:
    truth = read_training_truth(DataRoot(cohort))
    gaps = [
        position[0] - truth[study, site.mirrored][1][0]
        for (study, site), (_, position) in truth.items()
        if site.side is Side.LEFT and site.condition is Condition.NEURAL_FORAMINAL_NARROWING
    ]
    assert min(gaps) > 25 and max(gaps) < 45


def test_every_view_shows_the_same_anatomy() -> None:
    """Two planes that cross show the same tissue along the line they share."""
    patient = patient_with()
    point = patient.position_mm(Site(Condition.SPINAL_CANAL_STENOSIS, None, Level.L3_L4))
    sagittal = render(patient, plane_through(point, View.SAGITTAL_T1), T2)
    axial = render(patient, plane_through(point, View.AXIAL_T2), T2)
    along_sagittal, along_axial = sagittal[80, :], axial[:, 80]
    assert np.abs(along_sagittal - along_axial).mean() < 0.02
    assert along_sagittal.std() > 0.1
    # Fluid is bright on T2 and dark on T1.
    t1 = render(patient, plane_through(point, View.SAGITTAL_T1), T1)
    assert sagittal[80, 80] > 0.8 * T2.signal[Tissue.FLUID] and t1[80, 80] < 0.25


@pytest.mark.parametrize("condition", list(Condition))
def test_a_grade_changes_its_own_site_and_no_other(condition: Condition) -> None:
    site = Site(condition, None if condition is Condition.SPINAL_CANAL_STENOSIS else Side.LEFT, Level.L3_L4)
    healthy = patient_with({site: 0.0})
    position = healthy.position_mm(site)
    radius = 24.0
    for view in site.views:
        frame = plane_through(position, view, size=220)
        normal = render(healthy, frame, T1 if view is View.SAGITTAL_T1 else T2)
        changed = []
        for grade in (0.5, 1.5, 2.9):
            ill = render(patient_with({site: grade}), frame, T1 if view is View.SAGITTAL_T1 else T2)
            rows, columns = np.nonzero(np.abs(ill - normal) > 0.02)
            distance = np.hypot(rows - 110, columns - 110) * 0.7
            assert distance.max() < radius, f"{view} at {grade}"
            changed.append(float(np.abs(ill - normal).sum()))
        if view is site.views[0]:
            assert changed[0] < changed[1] < changed[2]
    # Slices through the neighbouring level and, for one-sided sites, the mirrored position do not change.
    others = [Site(site.condition, site.side, Level.L4_L5)] + ([site.mirrored] if site.side else [])
    ill = patient_with({site: 2.9})
    for other in others:
        frame = plane_through(healthy.position_mm(other), other.views[0], size=30)
        np.testing.assert_allclose(render(ill, frame, T2), render(healthy, frame, T2), atol=0.02)


def test_severe_on_the_left_changes_positive_x_only() -> None:
    left = {site: 2.9 for site in SITES if site.side is Side.LEFT}
    healthy, ill = patient_with(), patient_with(left)
    for level in Level:
        point = healthy.level_position_mm(level, v=20.0)
        frame = plane_through(point, View.AXIAL_T2)
        change = np.abs(render(ill, frame, T2) - render(healthy, frame, T2))
        midline = 80
        assert change[:, midline + 2 :].sum() > 50 * max(change[:, : midline - 2].sum(), 0.1)


@pytest.mark.parametrize("condition", list(Condition))
def test_the_space_shrinks_with_the_grade(condition: Condition) -> None:
    """The share of bright pixels (fluid or fat) around the site decreases with the grade, for random bodies."""
    site = Site(condition, None if condition is Condition.SPINAL_CANAL_STENOSIS else Side.LEFT, Level.L4_L5)
    palette = T1 if condition is Condition.NEURAL_FORAMINAL_NARROWING else T2
    rows, columns = {Condition.SPINAL_CANAL_STENOSIS: (6, 18), Condition.NEURAL_FORAMINAL_NARROWING: (10, 10)}.get(
        condition, (5, 5)
    )
    bright = []
    for grade in (0.3, 1.5, 2.5):
        shares = []
        for seed in range(6):
            patient = patient_with({site: grade}, seed)
            image = render(patient, plane_through(patient.position_mm(site), site.views[0], 0.5, 100), palette)
            about = image[50 - rows : 50 + rows, 50 - columns : 50 + columns]
            shares.append(float((about > 0.5).mean()))
        bright.append(shares)
    normal, moderate, severe = (np.array(shares) for shares in bright)
    assert normal.min() > moderate.max() > severe.max()


def test_label_frequencies_and_correlations_are_those_of_the_real_set() -> None:
    generator = np.random.default_rng(5)
    drawn = [draw_grades(generator) for _ in range(2000)]
    truth = np.array([[severity_of(grades[site]) for site in SITES] for grades in drawn])
    labels = np.array([[read_label(grades[site], generator) for site in SITES] for grades in drawn])
    for column, site in enumerate(SITES):
        percent = np.array(LABEL_PERCENT[site.condition][list(Level).index(site.level)])
        expected = percent / percent.sum()
        found = np.bincount(truth[:, column], minlength=3) / len(truth)
        np.testing.assert_allclose(found, expected, atol=0.03, err_msg=site.key)
    assert 0.015 < (labels != truth).mean() < 0.045
    assert np.abs(labels.astype(int) - truth).max() == 1
    rank = spearmanr(truth).statistic
    columns = {site: column for column, site in enumerate(SITES)}

    def mean_rank(pairs: list[tuple[Site, Site]]) -> float:
        return float(np.mean([rank[columns[a], columns[b]] for a, b in pairs]))

    def sites(condition: Condition, side: Side | None) -> list[Site]:
        return [Site(condition, side, level) for level in Level]

    canal, left = sites(Condition.SPINAL_CANAL_STENOSIS, None), sites(Condition.SUBARTICULAR_STENOSIS, Side.LEFT)
    foramen = sites(Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT)
    assert 0.40 < mean_rank(list(zip(canal[:4], left[:4], strict=True))) < 0.62
    assert 0.38 < mean_rank([(site, site.mirrored) for site in left]) < 0.58
    assert 0.22 < mean_rank([(site, site.mirrored) for site in foramen]) < 0.40
    for column in (canal, left, foramen):
        assert 0.28 < mean_rank(list(pairwise(column))) < 0.5
    any_severe = (truth[:, :5] == Severity.SEVERE).any(axis=1).mean()
    assert 0.14 < any_severe < 0.23


def test_grades_of_a_severity_have_that_severity() -> None:
    for severity in Severity:
        assert all(severity_of(grade_within(severity, rank)) is severity for rank in (0.0, 0.5, 1.0))


def test_files_have_the_elements_and_peculiarities_of_the_real_ones(cohort: Path) -> None:
    by_series: dict[str, list[pydicom.Dataset]] = {}
    for path, dataset in files_of(cohort):
        study_id, series_id = path.parts[-3:-1]
        by_series.setdefault(f"{study_id}/{series_id}", []).append(dataset)
        assert len(dataset) in (26, 27)  # SpacingBetweenSlices may be missing
        assert not {"Modality", "SOPClassUID", "RescaleSlope", "BodyPartExamined", "PatientName"} & set(dataset.dir())
        assert (0x0002, 0x0000) not in dataset.file_meta
        assert dataset.file_meta.MediaStorageSOPClassUID.name.startswith("Enhanced MR")
        assert dataset.StudyInstanceUID == study_id == dataset.PatientID
        assert dataset.SeriesInstanceUID == f"{study_id}.{series_id}"
        assert dataset.SeriesDescription in ("T1", "T2") and int(path.stem) == dataset.InstanceNumber
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 12, 11)
        assert dataset.pixel_array.max() <= 4095
    for datasets in by_series.values():
        assert len({dataset.FrameOfReferenceUID for dataset in datasets}) == 1
        assert len({float(dataset.WindowWidth) for dataset in datasets}) > 1
    assert len({datasets[0].FrameOfReferenceUID for datasets in by_series.values()}) == len(by_series)
    instance_uids = [dataset.SOPInstanceUID for datasets in by_series.values() for dataset in datasets]
    assert len(set(instance_uids)) < len(instance_uids)
    syntaxes = [datasets[0].file_meta.TransferSyntaxUID for datasets in by_series.values()]
    assert syntaxes.count(RLELossless) > len(syntaxes) / 2


@pytest.mark.parametrize(
    ("compression", "syntax"),
    [
        (Compression.RLE, RLELossless),
        (Compression.NONE, ExplicitVRLittleEndian),
        (Compression.JPEG_2000, JPEG2000Lossless),
    ],
)
def test_every_transfer_syntax_keeps_the_pixels(tmp_path: Path, compression: Compression, syntax: str) -> None:
    settings = CohortSettings(seed=1, scanners=Scanners.FIRST, size=Size.SMALL)
    _, plans = draw_study(settings, "train", 0)
    plan = plans[0]
    pixels = np.random.default_rng(0).integers(0, 4096, plan.frames[0].shape).astype(np.uint16)
    single = SeriesPlan(
        plan.view, plan.frames[:1], plan.instance_numbers[:1], plan.look, compression, plan.thickness_mm, None
    )
    write_series(tmp_path / "5", SeriesIdentity(4, 5, 6, "20220101"), single, [pixels])
    dataset = pydicom.dcmread(tmp_path / "5" / f"{plan.instance_numbers[0]}.dcm")
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert "SpacingBetweenSlices" not in dataset
    np.testing.assert_array_equal(dataset.pixel_array, pixels)


def test_scanners_vary() -> None:
    """Many drawn studies include both slice orders, blocks and stacks, gaps, and missing series."""
    settings = CohortSettings(seed=3, scanners=Scanners.MIXED, size=Size.SMALL)
    studies = [draw_study(settings, "train", index)[1] for index in range(150)]
    sagittal = [plan for plans in studies for plan in plans if plan.view.is_sagittal]
    growing = np.mean([plan.frames[-1].centre_mm[0] > plan.frames[0].centre_mm[0] for plan in sagittal])
    assert 0.55 < growing < 0.73
    axial = [plan for plans in studies for plan in plans if plan.view is View.AXIAL_T2]
    tilted = [len({frame.row_direction + frame.column_direction for frame in plan.frames}) > 1 for plan in axial]
    assert 0.4 < np.mean(tilted) < 0.85
    assert 0.05 < np.mean([sum(plan.view is View.AXIAL_T2 for plan in plans) > 1 for plans in studies]) < 0.3
    everything = [plan for plans in studies for plan in plans]
    assert any(plan.instance_numbers[0] != 1 for plan in everything)
    assert any(np.diff(plan.instance_numbers).max() > 1 for plan in everything)
    assert any(plan.spacing_between_slices_mm is None for plan in everything)
    assert {plan.look.palette.weighting for plan in everything} == set(Weighting)
    assert {plan.compression for plan in everything} == set(Compression)
    assert any(len({plan.view for plan in plans}) < 3 for plans in studies)


def test_files_depend_only_on_the_settings(tmp_path: Path) -> None:
    """The files do not depend on the number of processes, on other studies or on the order of writing."""
    alone = write_cohort(tmp_path / "a", train=1, test=1, seed=21, workers=1)
    together = write_cohort(tmp_path / "b", train=1, test=1, seed=21, workers=2)
    assert digests(alone) == digests(together)
    fewer = digests(write_cohort(tmp_path / "c", train=0, test=1, seed=21))
    images = {path: digest for path, digest in fewer.items() if path.endswith(".dcm")}
    assert images and images.items() <= digests(alone).items()


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_forced_severities_are_the_labels(tmp_path: Path) -> None:
    requested = {site: Severity.SEVERE for site in SITES if site.side is Side.RIGHT}
    root = write_cohort(tmp_path, train=1, test=0, seed=2, severities=requested)
    (row,) = rows_of(root / "dataset" / "train.csv")
    assert all(row[site.key] == ("Severe" if site in requested else "Normal/Mild") for site in SITES)
    assert len(rows_of(root / "dataset" / "train_label_coordinates.csv")) == 25
    for (_, site), (severity, position) in read_training_truth(DataRoot(root)).items():
        assert severity is requested.get(site, Severity.NORMAL_MILD)
        assert np.isfinite(position).all()


def test_a_cohort_is_written_once_and_never_replaces_another(tmp_path: Path) -> None:
    write_cohort(tmp_path, train=0, test=1, seed=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_cohort(tmp_path, train=0, test=1, seed=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(ValueError, match="already holds"):
        write_cohort(tmp_path, train=0, test=1, seed=2)
    with pytest.raises(ValueError, match="at least one study"):
        write_cohort(tmp_path / "none", train=0, test=0, seed=1)
    with pytest.raises(ValueError, match="seed -1"):
        write_cohort(tmp_path / "none", train=1, test=0, seed=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "phantom_truth"]


def test_spine_coordinates_invert_the_curve() -> None:
    """`to_spine`, which uses a table, is compared with `to_anatomy`, the definition."""
    curve = patient_with().curve
    generator = np.random.default_rng(0)
    points = np.stack(
        [generator.uniform(-40, 40, 200), generator.uniform(-40, 55, 200), generator.uniform(-100, 120, 200)]
    )
    anatomy = np.array([curve.to_anatomy(*point) for point in points.T]).T
    u, v, s = curve.to_spine(*anatomy)
    np.testing.assert_allclose(np.stack([u, v, s]), points, atol=0.1)


def test_nearest_slice_is_the_one_marked() -> None:
    settings = CohortSettings(seed=8, scanners=Scanners.FIRST, size=Size.SMALL, severities={})
    patient, plans = draw_study(settings, "train", 0)
    site = Site(Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT, Level.L4_L5)
    (plan,) = [plan for plan in plans if plan.view is View.SAGITTAL_T1]
    position = patient.position_mm(site)
    distances = [abs(frame.distance_mm(position)) for frame in plan.frames]
    assert nearest(plan.frames, position) == int(np.argmin(distances)) and min(distances) < 2.5


def test_varied_scanners_show_every_site_and_more_of_the_spine() -> None:
    settings = CohortSettings(seed=5, scanners=Scanners.VARIED, size=Size.SMALL)
    fields, scales, slopes = [], [], []
    for index in range(40):
        patient, plans = draw_study(settings, "train", index)
        shown = {view: [frame for plan in plans if plan.view is view for frame in plan.frames] for view in View}
        canals = [patient.position_mm(Site(Condition.SPINAL_CANAL_STENOSIS, None, level)) for level in Level]
        frames = shown[View.SAGITTAL_T2_STIR]
        assert all(any(frame.contains(canal) for frame in frames) for canal in canals)
        assert patient.sacrum_end < patient.disc_arc[patient.first_graded + 4] - 60
        fields.append(frames[0].shape[0] * frames[0].spacing_mm[0])
        scales.append(patient.body.scale)
        slopes.append(patient.body.tilt_degrees[patient.first_graded + 5])
    assert min(fields) < 230 and max(fields) > 330
    assert np.ptp(scales) > 0.2 and np.ptp(slopes) > 30


def test_a_varied_patient_s_foramina_and_sacrum_are_drawn() -> None:
    """Marks lie at the roots, in fat that is bright on T1; beyond the end of the sacrum there is no bone."""
    for seed in (9, 10, 11):
        body = draw_body(np.random.default_rng(seed), varied=True)
        assert body.habitus is not None
        body = replace(body, habitus=replace(body.habitus, organs=()))
        patient = Patient(body, forced_grades({}, np.random.default_rng(seed)))
        for side, level in product(Side, Level):
            point = patient.position_mm(Site(Condition.NEURAL_FORAMINAL_NARROWING, side, level))
            image = render(patient, plane_through(point, View.SAGITTAL_T1, spacing=1.0, size=40), T1)
            middle = image.shape[0] // 2
            assert abs(image[middle, middle] - T1.signal[Tissue.ROOT]) < 0.1, (seed, side, level)
            if level is Level.L3_L4:
                assert np.mean(image[middle - 8 : middle + 9, middle - 6 : middle + 7] > 0.7) > 0.05
        inside = patient.to_patient(patient.curve.to_anatomy(0.0, 0.0, float(patient.body_arc[-2])))
        marrow = render(patient, plane_through(inside, View.SAGITTAL_T1, spacing=1.0, size=8), T1)
        assert abs(float(np.median(marrow)) - T1.signal[Tissue.MARROW]) < 0.1
        for u in (-15.0, 0.0, 15.0):
            end = patient.to_patient(patient.curve.to_anatomy(u, 8.0, patient.sacrum_end - 12))
            below = render(patient, plane_through(end, View.SAGITTAL_T1, spacing=1.0, size=8), T1)
            assert float(np.median(below)) > T1.signal[Tissue.MARROW] + 0.2


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    """The limit on the size of files stands in for the disk: the first image of a worker is larger."""
    command = [sys.executable, "-m", "data_prep.phantom", "--root", str(tmp_path / "root"), "--workers", "2"]
    done = subprocess.run(
        [*command, "--train", "6", "--test", "0", "--seed", "1"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"error: {tmp_path / 'root'}: " in done.stderr and "File too large" in done.stderr
    assert not any((tmp_path / "root").iterdir())


def _wait(job: tuple[str, int]) -> int:
    time.sleep(0 if job[1] == 0 else 30)
    return job[1]


def test_the_threads_of_a_broken_off_pool_end_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    records = _mapped(_wait, [("train", index) for index in range(12)], workers=2)
    assert next(records) == 0
    threading.Timer(0.5, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        next(records)  # which waits for a worker
    assert said == []
