"""prepare_data.py as its users run it."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prepare_data
from data_prep.conversion.pairs import read_dataset
from data_prep.phantom import write_cohort
from data_prep.placement.shipped_atlas import NOTICE
from data_prep.sites import Source
from locator.files import SHIPPED, locator_fingerprint
from locator.used_locator import NOTICE as LOCATOR_NOTICE
from workspace.cli import run_command

PROJECT = Path(__file__).resolve().parents[1]


def prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "prepare_data.py", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "LUMBAR_ROOT"}
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("prepare"), train=2, test=1, seed=21)


def copy_of(root: Path, folder: Path) -> Path:
    shutil.copytree(root / "dataset", folder / "dataset")
    return folder


def test_both_splits_then_nothing_to_do(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    study = next((copy / "dataset" / "train_images").iterdir())
    broken = sorted(study.rglob("*.dcm"))[0]
    broken.write_bytes(b"")
    done = prepare("--root", str(copy), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "train: 2 studies" in done.stdout and "test: 1 studies" in done.stdout and "1 not_dicom" in done.stdout
    faults = (copy / "train" / "processed_data" / "faults.csv").read_text()
    place = broken.relative_to(copy / "dataset" / "train_images").as_posix()
    assert f"{place},not_dicom,skipped," in faults
    sources = {pair.source.value for pair in read_dataset(copy / "test" / "processed_data").pairs}
    assert sources == {"atlas"}

    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    again = prepare("--root", str(copy), "--workers", "1")
    assert again.returncode == 0 and again.stdout.count("is up to date") == 2
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}


def test_wrong_input_is_one_line_and_nothing_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*arguments: str) -> str:
        """The line that these flags end in; in this process, because there are many of them."""
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
        with pytest.raises(SystemExit) as left:
            run_command("prepare_data.py", prepare_data.main)
        lines = capsys.readouterr().err.strip().splitlines()
        assert left.value.code == 2 and len(lines) == 1 and lines[0].startswith("prepare_data.py: error: "), lines
        return lines[0]

    monkeypatch.delenv("LUMBAR_ROOT", raising=False)
    assert "no such folder" in refusal("--root", str(tmp_path / "nowhere"))
    assert "--root" in refusal("--roott", str(root))
    assert "--folds 1: should be at least 2" in refusal("--root", str(root), "--folds", "1")
    assert "--folds 100000: should be at least 2 and at most 1000" in refusal("--root", str(root), "--folds", "100000")
    assert "--root '~nobody9/x': no such folder" in refusal("--root", "~nobody9/x")
    assert "--root ''" in refusal("--root", "")
    assert "--seed -1: should be at least 0" in refusal("--root", str(root), "--seed", "-1")
    assert "dataset: no such folder" in refusal("--root", str(tmp_path))

    copy = copy_of(root, tmp_path / "copy")
    (copy / "dataset" / "train.csv").write_text("patient\n1\n")
    assert "no column 'study_id'" in refusal("--root", str(copy))
    (copy / "dataset" / "train.csv").unlink()
    assert "train.csv" in refusal("--root", str(copy))
    shutil.rmtree(copy / "dataset" / "test_images")
    (copy / "dataset" / "test_images").mkdir()
    for table in ("test_series_descriptions.csv", "sample_submission.csv"):
        (copy / "dataset" / table).unlink()
    assert "test_images" in refusal("--root", str(copy), "--split", "test")
    assert sorted(path.name for path in copy.iterdir()) == ["dataset"]


def test_a_split_that_is_not_there_is_left_out(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    shutil.rmtree(copy / "dataset" / "train_images")
    done = prepare("--root", str(copy), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "train: " in done.stdout and "this split is skipped" in done.stdout
    assert LOCATOR_NOTICE in done.stdout
    dataset = read_dataset(copy / "test" / "processed_data")
    assert {pair.source for pair in dataset.pairs} == {Source.LOCATED} and len(dataset.study_ids) == 1
    assert not (copy / "train").exists()


def test_test_studies_that_lie_nowhere_are_answered_for_all_the_same(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    (study,) = (copy / "dataset" / "test_images").iterdir()
    shutil.rmtree(study)
    done = prepare("--root", str(copy), "--split", "test", "--workers", "1")
    assert done.returncode == 2 and "none of its studies has a readable image" in done.stderr
    assert read_dataset(copy / "test" / "processed_data").study_ids == (int(study.name),)
    assert "missing_study,skipped" in (copy / "test" / "processed_data" / "faults.csv").read_text()


def test_a_disk_that_is_gone_costs_no_earlier_conversion(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    assert prepare("--root", str(copy), "--split", "train", "--workers", "1").returncode == 0
    for study in (copy / "dataset" / "train_images").iterdir():
        shutil.rmtree(study)
    done = prepare("--root", str(copy), "--split", "train", "--workers", "1")
    assert done.returncode == 2 and "none of its studies has a readable image" in done.stderr
    assert read_dataset(copy / "train" / "processed_data").pairs
    assert (copy / "train" / "processed_data" / "atlas.json").is_file()


def test_without_any_mark_the_shipped_locator_serves_and_is_named(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    (copy / "dataset" / "train_label_coordinates.csv").unlink()
    checked = prepare("--root", str(copy), "--check", "--workers", "1")
    assert "the shipped locator if no study is marked" in " ".join(checked.stdout.split()), checked.stdout
    done = prepare("--root", str(copy), "--workers", "1")
    assert done.returncode == 0, done.stderr
    before = (copy / "test" / "processed_data" / "sites.csv").read_text()
    for split in ("train", "test"):
        assert f"{split}: {LOCATOR_NOTICE}" in done.stdout
        dataset = read_dataset(copy / split / "processed_data")
        assert Source.LOCATED in {pair.source for pair in dataset.pairs}
        assert dataset.metadata["settings"]["shipped_locator"] == locator_fingerprint(SHIPPED)
        assert not (copy / split / "processed_data" / "atlas.json").exists()
        with (copy / split / "processed_data" / "sites.csv").open() as file:
            sites = list(csv.DictReader(file))
        assert len(sites) == 25 * len(dataset.study_ids)
        assert all(0 < float(row["level_confidence"]) < 1 for row in sites)
        doubtful = {row["study_id"] for row in sites if float(row["level_confidence"]) < 0.8}
        assert dataset.metadata["counts"]["faults"].get("level_in_doubt", 0) == len(doubtful)
    assert "is up to date" in prepare("--root", str(copy), "--workers", "1").stdout
    # Asking for it by name gives the same positions.
    named = prepare("--root", str(copy), "--workers", "1", "--split", "test", "--locator", "shipped")
    assert named.returncode == 0 and "is up to date" not in named.stdout, named.stderr
    assert (copy / "test" / "processed_data" / "sites.csv").read_text() == before


def test_without_any_mark_and_locator_the_shipped_atlas_serves_and_is_named(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    (copy / "dataset" / "train_label_coordinates.csv").unlink()
    done = prepare("--root", str(copy), "--workers", "1", "--locator", "none")
    assert done.returncode == 0, done.stderr
    for split in ("train", "test"):
        assert f"{split}: {NOTICE}" in done.stdout
        dataset = read_dataset(copy / split / "processed_data")
        assert {pair.source for pair in dataset.pairs} == {Source.ATLAS}
        assert dataset.metadata["atlas"] is None
        assert not (copy / split / "processed_data" / "atlas.json").exists()
        with (copy / split / "processed_data" / "sites.csv").open() as file:
            sites = list(csv.DictReader(file))
        assert {row["source"] for row in sites} == {"atlas"} and len(sites) == 25 * len(dataset.study_ids)
        # An atlas of synthetic spines counts levels with little certainty, and says so of every study.
        assert all(0 < float(row["level_confidence"]) <= 0.7 for row in sites)
        assert all(float(row["expected_error_mm"]) > 15 for row in sites)
        assert dataset.metadata["counts"]["faults"]["level_in_doubt"] == len({row["study_id"] for row in sites})


def test_unreadable_training_images_cost_no_earlier_conversion_and_no_test_split(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    assert prepare("--root", str(copy), "--workers", "1").returncode == 0
    before = {path: path.read_bytes() for path in copy.rglob("processed_data/**/*") if path.is_file()}
    for path in (copy / "dataset" / "train_images").rglob("*.dcm"):
        path.write_bytes(b"")
    for path in (copy / "test" / "processed_data").glob("*.csv"):
        path.write_bytes(b"")  # to be written again, by the atlas that the train split keeps
    done = prepare("--root", str(copy), "--workers", "1")
    assert done.returncode == 0 and "train: none of 2 studies has a readable image" in done.stdout, done.stderr
    faults = copy / "train" / "processed_data" / "faults.csv"
    assert "not_dicom" in faults.read_text() and str(faults) in done.stdout
    before[faults] = faults.read_bytes()
    assert before == {path: path.read_bytes() for path in copy.rglob("processed_data/**/*") if path.is_file()}
    assert prepare("--root", str(copy), "--split", "train", "--workers", "1").returncode == 2


def test_an_edited_dataset_card_is_kept(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    assert prepare("--root", str(copy), "--split", "train", "--workers", "1").returncode == 0
    card = copy / "train" / "processed_data" / "README.md"
    edited = card.read_text() + "\nRead by two radiologists.\n"
    card.write_text(edited)
    assert "is up to date" in prepare("--root", str(copy), "--split", "train", "--workers", "1").stdout
    assert card.read_text() == edited


def test_a_lost_or_damaged_atlas_is_learned_again(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    arguments = ("--root", str(copy), "--split", "train", "--workers", "1")
    assert prepare(*arguments).returncode == 0
    atlas = copy / "train" / "processed_data" / "atlas.json"
    whole = atlas.read_bytes()
    atlas.write_text("{}")
    done = prepare(*arguments)
    assert done.returncode == 0 and "up to date" not in done.stdout and atlas.read_bytes() == whole
    assert "up to date" in prepare(*arguments).stdout


def test_test_studies_without_an_image_folder_are_answered_for_too(root: Path, tmp_path: Path) -> None:
    copy = copy_of(root, tmp_path)
    (study,) = (copy / "dataset" / "test_images").iterdir()
    shutil.rmtree(copy / "dataset" / "test_images")
    done = prepare("--root", str(copy), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "test: " in done.stdout and "the studies that the tables name have no images" in done.stdout
    assert read_dataset(copy / "test" / "processed_data").study_ids == (int(study.name),)
    assert "missing_study,skipped" in (copy / "test" / "processed_data" / "faults.csv").read_text()


def test_help_needs_neither_torch_nor_a_root() -> None:
    code = (
        "import runpy, sys; sys.argv = ['prepare_data.py', '--help']\n"
        "try: runpy.run_path('prepare_data.py', run_name='__main__')\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "assert 'torch' not in sys.modules and 'pydicom' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--root" in done.stdout, done.stderr
