"""A cohort that shows and marks one orientation only: its locator, and what that locator places."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import prepare_data
import train_locator
from data_prep.phantom import write_cohort
from data_prep.sites import SITES, Condition, View
from locator.knowledge import EVERYTHING, read_knowledge
from locator.learning_set import read_learning_set
from locator.saved_locator import load_locator
from tests.locator.lite0_base import write_base
from tests.locator.test_locator import SHORT, SMALL, run_script
from workspace.layout import DataRoot

TABLES = {"marks": "train_label_coordinates.csv", "series": "train_series_descriptions.csv"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"), train=4, test=0, seed=6)


def thinned(cohort: Path, out: Path, views: set[str], condition: str) -> DataRoot:
    """Copy a cohort with the series of some views, and the marks of one condition."""
    shutil.copytree(cohort / "dataset", out / "dataset")
    dataset = out / "dataset"
    kept = _keep_rows(dataset / TABLES["series"], lambda row: row["series_description"] in views)
    series = {row["series_id"] for row in kept}
    for folder in (dataset / "train_images").glob("*/*"):
        if folder.name not in series:
            shutil.rmtree(folder)
    marks = _keep_rows(
        dataset / TABLES["marks"], lambda row: row["series_id"] in series and condition in row["condition"].lower()
    )
    assert len(marks) > 20
    return DataRoot(out)


def _keep_rows(path: Path, keep) -> list[dict[str, str]]:  # type: ignore[no-untyped-def]
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if keep(row)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.mark.parametrize(
    ("views", "condition", "orientation"),
    [
        ({View.SAGITTAL_T1.words}, Condition.NEURAL_FORAMINAL_NARROWING, "sagittal"),
        ({View.AXIAL_T2.words}, Condition.SUBARTICULAR_STENOSIS, "axial"),
    ],
)
def test_a_locator_learns_from_marks_of_one_orientation(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    views: set[str],
    condition: Condition,
    orientation: str,
) -> None:
    root = thinned(cohort, tmp_path, views, condition.words)
    run_script(monkeypatch, prepare_data, "--root", str(root.path), "--workers", "1")
    assert run_script(monkeypatch, train_locator, "--root", str(root.path), *SHORT, *SMALL) == 0
    printed = capsys.readouterr()
    sentence = f"It knows in {orientation} images {condition.words}."
    assert sentence in printed.out and "no marks to compare with" in printed.out, printed
    report = json.loads((root.logs("locator") / "locator_report.json").read_text())
    assert list(report["knows"]) == [orientation]
    measured = {row["condition"]: row["n"] for row in report["conditions"]}
    assert {name for name, sites in measured.items() if sites} == {condition}
    with (root.logs("locator") / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert [name for name in columns if name.startswith("loss_")] == [f"loss_{orientation}"]
    if orientation == "axial":
        write_base(tmp_path)
        base = ("--run", "with_base", "--base", str(tmp_path))
        assert run_script(monkeypatch, train_locator, "--root", str(root.path), *base, *SHORT, *SMALL) == 2
        assert f"--base {str(tmp_path)!r}: reads sagittal images only" in capsys.readouterr().err

    locator = load_locator(root.run("locator") / "final")
    assert list(locator.knowledge.channels) == [orientation]
    assert locator.knowledge.conditions(orientation) == [condition]
    learning_set = read_learning_set(root.processed("train"), [0])
    for marked in learning_set.held_out:
        study = marked.read(root.processed("train"))
        pose, detections, _ = locator.detect(study)
        assert pose is not None
        assert {SITES[detection.index].condition for detection in detections} <= {condition}
        located = locator.locate(study)
        assert located is not None and np.isfinite(located.position_N3).all()
        # The sites that nobody marked lie beside the others, where the shipped prior has them.
        spread = located.position_N3 - located.position_N3.mean(axis=0)
        assert 80 < np.ptp(spread[:, 2]) < 250 and np.ptp(spread[:, 0]) > 10


def test_what_a_locator_knows_is_read_back_and_nonsense_is_refused() -> None:
    assert read_knowledge(None) is EVERYTHING
    again = read_knowledge(EVERYTHING.to_json())
    for orientation, known_C in EVERYTHING.channels.items():
        np.testing.assert_array_equal(again.channels[orientation], known_C)
    partly = read_knowledge({"axial": ["neural_foraminal_narrowing left"]})
    assert partly.channels["axial"].tolist() == [False, True, False, False, False]
    assert partly.to_json() == {"axial": ["neural_foraminal_narrowing left"]}
    assert EVERYTHING.lines == [] and len(partly.lines) == 1
    for wrong in ({}, {"coronal": []}, {"axial": ["left"]}):
        with pytest.raises(ValueError, match="it knows"):
            read_knowledge(wrong)
