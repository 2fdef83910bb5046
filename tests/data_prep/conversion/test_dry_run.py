"""data_prep/conversion/dry_run.py and `prepare_data.py --check`: faults are reported, and nothing is written."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import RLELossless

import prepare_data
from data_prep.conversion.dry_run import HEADING, Findings, check_cohort, describe, fault_table
from data_prep.conversion.pairs import read_dataset
from data_prep.faults import Fault, FaultKind
from data_prep.sites import SITES
from data_prep.studies.cohorts import Cohort, split_cohort
from tests.dicom_files import AXIAL, frame, write_slice
from workspace.cli import run_command
from workspace.layout import DataRoot

PIXELS = np.random.default_rng(0).integers(0, 1000, size=(32, 64)).astype(np.uint16)


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    """A data root with one training study of two series and one test study of one series."""
    dataset = tmp_path / "dataset"
    rows = {"train": "7,70,Sagittal T1\n7,71,Axial T2\n", "test": "8,80,Axial T2\n"}
    for split, described in rows.items():
        table = f"study_id,series_id,series_description\n{described}"
        dataset.mkdir(exist_ok=True)
        (dataset / f"{split}_series_descriptions.csv").write_text(table)
    (dataset / "train.csv").write_text(",".join(["study_id", *(site.key for site in SITES)]) + "\n7\n")
    for number in (1, 2, 3):
        place = frame((4.0 * number, 0, 0), shape=PIXELS.shape)
        write_slice(dataset / "train_images" / "7" / "70" / f"{number}.dcm", PIXELS, place, RLELossless)
    for study in ("train_images/7/71", "test_images/8/80"):
        write_slice(dataset / study / "1.dcm", PIXELS.T.copy(), frame((0, 0, 0), AXIAL, shape=PIXELS.T.shape))
    (dataset / "train_images" / "7" / "71" / "2.dcm").write_bytes(b"")
    return DataRoot(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, root: DataRoot, *flags: str) -> int:
    """Run prepare_data.py and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", "--root", str(root.path), "--workers", "1", *flags])
    with pytest.raises(SystemExit) as left:
        run_command("prepare_data.py", prepare_data.main)
    assert isinstance(left.value.code, int)
    return left.value.code


def test_studies_without_grades_are_told(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A train.csv that was cut off while it was copied lacks whole studies."""
    told = "train: 1 of 1 studies has no grade in train.csv: no run trains on them"
    for flags in (["--check"], []):
        assert run(monkeypatch, root, "--split", "train", *flags) == 0
        assert told in capsys.readouterr().out.splitlines()
    table = root.dataset / "train.csv"
    table.write_text(table.read_text().replace("\n7\n", "\n7,Severe\n"))
    assert run(monkeypatch, root, "--split", "train", "--check") == 0
    assert "no grade" not in capsys.readouterr().out


def test_studies_series_and_slices_are_counted(root: DataRoot) -> None:
    cohort = split_cohort(root, "train")
    findings = check_cohort(cohort, max_pixels=10_000)
    assert describe(cohort, findings, "an atlas").splitlines() == [
        "train: 1 of 1 studies have images",
        "train: 2 series: Axial T2 (1), Sagittal T1 (1)",
        "train: 4 slices: 64 x 32 (3), 32 x 64 (1)",
        "train: stored as Explicit VR Little Endian (1), RLE Lossless (1)",
        "train: 0 of 25 sites are marked; an atlas would place the others",
        "train: crops of 64 mm at 0.5 mm per pixel: at most 98 kB per site, 2 MB in all, and as much again while they "
        "are written",
        "train: 2 faults:",
    ]
    kinds = [fault.kind for fault in findings.faults]
    assert kinds == [FaultKind.MISSING_TABLE, FaultKind.NOT_DICOM]


def test_rare_sizes_are_summed_up() -> None:
    findings = Findings(slices=15)
    findings.sizes.update({"1 x 1": 1, "2 x 2": 2, "3 x 3": 3, "4 x 4": 4, "5 x 5": 5})
    line = describe(Cohort("test", (), (), ()), findings, "an atlas").splitlines()[2]
    assert line == "test: 15 slices: 5 x 5 (5), 4 x 4 (4), 3 x 3 (3), 2 x 2 (2), 1 other (1)"


@pytest.mark.parametrize("width", [40, 120, 200])
def test_the_table_explains_every_kind_of_fault(width: int) -> None:
    faults = [Fault(1, None, f"1/2/{kind}.dcm", kind, "skipped", "a message") for kind in FaultKind]
    faults += [Fault(1, None, "second.dcm", FaultKind.TRUNCATED, "skipped", "another")]
    lines = fault_table(faults, width).splitlines()
    assert lines[0].split()[:2] == list(HEADING[:2])
    assert max(map(len, lines)) <= max(width, 120)
    assert lines[2].split()[:2] == ["truncated", "2"], "the most frequent first"
    for kind in FaultKind:
        assert sum(line.split()[0] == kind for line in lines if line[:1].strip()) == 1
    assert width < 200 or any("1/2/truncated.dcm: a message" in line for line in lines)
    assert fault_table([]) == ""


def test_a_check_writes_nothing_and_has_the_exit_status_of_a_conversion(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def everything() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in [root.path, *root.path.rglob("*")]}

    before = everything()
    assert run(monkeypatch, root, "--check") == 0
    assert everything() == before
    shown = capsys.readouterr().out
    assert "train: 4 slices" in shown and "test: 1 slices" in shown and "the file is empty" in shown
    assert run(monkeypatch, root, "--check", "--locator", "nonsense") == 2
    error = capsys.readouterr().err
    assert "--locator 'nonsense': " in error and "locator.json does not exist" in error

    for path in root.dataset.rglob("*.dcm"):
        path.write_bytes(b"")
    before = everything()
    assert run(monkeypatch, root, "--check") == 2
    assert everything() == before
    assert "none of its studies has a readable image" in capsys.readouterr().err

    (root.dataset / "train.csv").write_text("studyid\n7\n")
    assert run(monkeypatch, root, "--check") == 2
    assert "no column 'study_id'; the nearest is 'studyid'" in capsys.readouterr().err


def test_a_split_without_a_readable_image_does_not_affect_the_other(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in root.images("train").rglob("*.dcm"):
        path.write_bytes(b"")
    assert run(monkeypatch, root, "--check") == 0
    assert run(monkeypatch, root) == 0
    assert "train: none of 1 studies has a readable image" in capsys.readouterr().out
    assert [path.name for path in root.processed("train").iterdir()] == ["faults.csv"]
    assert read_dataset(root.processed("test")).study_ids == (8,)

    shutil.rmtree(root.images("train"))
    root.images("train").mkdir()
    assert run(monkeypatch, root) == 0, "an empty folder of training studies"
    shutil.rmtree(root.images("test") / "8")
    assert run(monkeypatch, root) == 2
    assert read_dataset(root.processed("test")).study_ids == (8,), "still owed an answer"
