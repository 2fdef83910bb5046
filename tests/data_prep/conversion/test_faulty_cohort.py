"""prepare_data.py on a faulty cohort: only the faulty parts are lost, and every fault is reported."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread

from data_prep.conversion.pairs import read_dataset
from data_prep.phantom import write_cohort
from tests.faulty_cohort import SECRETS, FaultyCohort, make_faulty, rows

PROJECT = Path(__file__).resolve().parents[3]


def prepare(root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "prepare_data.py", "--root", str(root), "--workers", "2", *flags]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, env=dict(os.environ))


def snapshot(folder: Path, without: tuple[str, ...] = ()) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and time of each file, folder and link below a folder."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        name = path.relative_to(folder).as_posix()
        if not name.startswith(without):
            status = path.lstat()
            found[name] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def site_of(row: dict[str, str]) -> tuple[str, ...]:
    return row["study_id"], row["condition"], row["side"], row["level"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_cohort(tmp_path_factory.mktemp("clean"), train=3, test=1, seed=31)
    done = prepare(root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def faulty(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> FaultyCohort:
    folder = tmp_path_factory.mktemp("faulty")
    return make_faulty(clean, folder / "root", folder / "outside")


@pytest.fixture(scope="module")
def checked(faulty: FaultyCohort) -> str:
    """The output of --check on the faulty cohort before its conversion; it must not change any file."""
    before = snapshot(faulty.root.parent)
    done = prepare(faulty.root, "--check")
    assert done.returncode == 0, done.stderr
    assert snapshot(faulty.root.parent) == before
    return done.stdout


@pytest.fixture(scope="module")
def processed(faulty: FaultyCohort, checked: str) -> Path:
    """The converted faulty cohort; only the output folders may change."""
    outputs = ("root/train", "root/test")
    before = snapshot(faulty.root.parent, outputs)
    done = prepare(faulty.root)
    assert done.returncode == 0, done.stderr
    after = snapshot(faulty.root.parent, outputs)
    before.pop("root"), after.pop("root")  # it has two new folders
    assert after == before
    return faulty.root / "train" / "processed_data"


def test_exactly_the_expected_faults_are_found(faulty: FaultyCohort, processed: Path) -> None:
    found = Counter((row["kind"], row["path"]) for row in rows(processed / "faults.csv"))
    expected = Counter(faulty.expected)
    fold_of = read_dataset(processed).fold_of
    if fold_of[999] != fold_of[faulty.untouched]:  # it is a copy
        expected.update([("twin_study", "999"), ("twin_study", str(faulty.untouched))])
    assert found == expected
    repaired = [row["path"] for row in rows(processed / "faults.csv") if row["action"] == "repaired"]
    assert sorted(repaired) == sorted(faulty.repaired)


def test_the_check_reports_the_same_faults(processed: Path, checked: str) -> None:
    table = dict(line.split()[:2] for line in checked.splitlines() if line[:1].islower() and line.split()[1:2])
    for kind, count in Counter(row["kind"] for row in rows(processed / "faults.csv")).items():
        assert table[kind] == str(count), kind
    assert f"{len(rows(processed / 'slices.csv'))} slices" in checked


def test_correct_parts_are_byte_equal_to_those_of_the_clean_cohort(
    clean: Path, faulty: FaultyCohort, processed: Path
) -> None:
    expected = clean / "train" / "processed_data"
    complete = {str(faulty.littered), str(faulty.untouched)}
    for path in expected.rglob("images/*/*/*.png"):
        if path.parent.name not in faulty.lost:
            assert (processed / path.relative_to(expected)).read_bytes() == path.read_bytes(), path
    marked = {site_of(row) for row in rows(expected / "sites.csv") if row["source"] == "annotated"}
    for name in ("slices.csv", "sites.csv", "train_dataset.csv"):

        def good(folder: Path, name: str = name) -> list[dict[str, str]]:
            """Return the rows of complete studies, without what depends on other studies: folds and the atlas."""
            table = [row for row in rows(folder / name) if row["study_id"] in complete]
            table = [row for row in table if "condition" not in row or site_of(row) in marked]
            return [{key: value for key, value in row.items() if key != "fold"} for row in table]

        assert good(processed) == good(expected)
        assert good(processed)
    found = {pair.study_id for pair in read_dataset(processed).pairs}
    assert found == {faulty.littered, faulty.damaged, faulty.untouched, 999}
    study_ids = read_dataset(processed).study_ids
    assert set(study_ids) == {faulty.littered, faulty.damaged, faulty.untouched, 4242}


def test_no_name_or_date_of_a_header_is_in_an_output(faulty: FaultyCohort, processed: Path, checked: str) -> None:
    headers = [
        dcmread(path) for path in (faulty.root / "dataset" / "train_images" / str(faulty.littered)).rglob("1.dcm")
    ]
    assert all(str(header.PatientName) == SECRETS[0] for header in headers)
    secrets = {*SECRETS, *(str(header.ContentDate) for header in headers)}
    written = [path for path in (faulty.root / "train").rglob("*") if path.is_file()]
    assert len(secrets) > len(SECRETS) and written
    for secret in secrets:
        assert secret not in checked
        assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_a_second_run_does_nothing(faulty: FaultyCohort, processed: Path) -> None:
    before = snapshot(faulty.root)
    done = prepare(faulty.root)
    assert done.returncode == 0 and done.stdout.count("is up to date") == 2
    assert snapshot(faulty.root) == before
