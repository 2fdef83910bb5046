"""Suspect labels that are left out of training: the table, its checks at the door, and the batches without them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Severity, Site
from tests.tiny_dataset import graded_rows, write_tiny_dataset
from vl_model.data.augmentation import Augmentation
from vl_model.data.batches import TrainingBatches
from vl_model.data.dropped_sites import DropRequest, recorded_sites
from vl_model.data.site_rows import SiteRow, evidence_of
from vl_model.data.suspect_labels import SuspectLabel, read_suspect_labels, write_suspect_labels
from vl_model.data.training_set import TrainingSet, read_training_set
from workspace.setting_error import SettingError

HELD_OUT = (0,)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dropped")
    write_tiny_dataset(root / "train" / "processed_data", studies=6, sites=SITES[:8])
    return root


def suspects_of(rows: list[SiteRow]) -> list[SuspectLabel]:
    """Return these sites as suspect labels in this order."""
    return [
        SuspectLabel(rank, row.study_id, row.site, row.severity or Severity.NORMAL_MILD, (0.2, 0.3, 0.5), 1.6, 0.9)
        for rank, row in enumerate(rows, start=1)
    ]


def write_table(path: Path, root: Path, rows: list[SiteRow], fingerprint: str | None = None) -> Path:
    dataset = read_dataset(root / "train" / "processed_data")
    graded = len(graded_rows(root))
    write_suspect_labels(
        path, suspects_of(rows), evidence_of(dataset.pairs), graded, fingerprint or dataset.fingerprint
    )
    return path


def read(root: Path, request: DropRequest | None) -> TrainingSet:
    return read_training_set(root / "train" / "processed_data", HELD_OUT, 300, 0, request)


def drawn(training: tuple[SiteRow, ...], crops_R3HW: np.ndarray, mixup: float = 0.0) -> list[SiteRow]:
    """Return every site of the first three epochs' batches, the partners that some are mixed with included."""
    batches = TrainingBatches(training, crops_R3HW, 4, 0, Augmentation(mixup=mixup))
    rows = []
    for index in range(3 * batches.batches_per_epoch):
        rows += [batches.rows[row] for row in batches.samples(index)[1].row_R]
        others = batches[index].others
        if others is not None:
            rows += [row for row in training for crops in others.crops_BT3HW if has_first_tile(row, crops, crops_R3HW)]
    return rows


def has_first_tile(row: SiteRow, crops_T3HW: object, crops_R3HW: np.ndarray) -> bool:
    return np.array_equal(np.asarray(crops_T3HW)[0], crops_R3HW[row.crops[0]])


def test_the_table_reads_as_it_was_written(root: Path, tmp_path: Path) -> None:
    rows = graded_rows(root)[3:20:2]
    path = write_table(tmp_path / "suspect_labels.csv", root, rows)
    listed = read_suspect_labels(path)
    assert [(one.rank, one.study_id, one.site, one.severity) for one in listed] == [
        (rank, row.study_id, row.site, row.severity) for rank, row in enumerate(rows, start=1)
    ]
    assert {one.graded_sites for one in listed} == {len(graded_rows(root))}
    head, first = path.read_text().splitlines()[:2]
    assert first.startswith(f"1,{rows[0].study_id},") and head.startswith(
        "rank,study_id,condition,side,level,severity,"
    )
    cells = dict(zip(head.split(","), first.split(","), strict=True))
    assert (cells["normal_mild"], cells["severe"], cells["surprise"], cells["margin"]) == ("0.2", "0.5", "1.6", "0.9")
    assert cells["view"] == rows[0].site.views[0].value and (cells["x0"], cells["y1"]) == ("10", "90")
    assert int(cells["series_id"]) // 10 == rows[0].study_id and cells["instance_number"] == "2"


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_batches_lack_exactly_the_listed_sites(root: Path, tmp_path: Path, mixup: float) -> None:
    whole = read(root, None)
    listed = graded_rows(root)[2::3]
    dropped = read(root, DropRequest(write_table(tmp_path / "table.csv", root, listed), share=1.0))
    out = {(row.study_id, row.site) for row in listed if row.fold not in HELD_OUT}
    expected = [row for row in whole.training if (row.study_id, row.site) not in out]
    assert 0 < len(out) < len(listed) and dropped.dropped is not None
    assert list(dropped.training) == expected and dropped.dropped.sites == out
    assert dropped.held_out == whole.held_out and dropped.dropped.without_effect == len(listed) - len(out)
    sites = Counter((row.study_id, row.site) for row in drawn(dropped.training, dropped.crops_R3HW, mixup))
    without_last = 3 * (len(expected) - len(expected) % 4)
    assert not out & set(sites) and (mixup or sum(sites.values()) == without_last)
    assert set(sites) <= {(row.study_id, row.site) for row in expected} and len(sites) >= len(expected) - 3
    assert out & {(row.study_id, row.site) for row in drawn(whole.training, whole.crops_R3HW, mixup)}


def test_a_share_counts_ranked_sites_and_deleted_rows_stay_deleted(root: Path, tmp_path: Path) -> None:
    rows = [row for row in graded_rows(root) if row.fold not in HELD_OUT]
    path = write_table(tmp_path / "table.csv", root, rows[:9])
    graded = len(graded_rows(root))
    by_share = read(root, DropRequest(path, share=4 / graded)).dropped
    assert by_share is not None and by_share == read(root, DropRequest(path, first=4)).dropped
    assert by_share.sites == {(row.study_id, row.site) for row in rows[:4]}
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")  # a person has found the first label right
    checked = read(root, DropRequest(path, first=4)).dropped
    assert checked is not None and checked.sites == {(row.study_id, row.site) for row in rows[1:4]}
    assert checked.sha256 != by_share.sha256 and recorded_sites({"dropped_sites": checked.record}) == checked.sites


def test_tables_that_do_not_fit_are_refused_with_the_row(root: Path, tmp_path: Path) -> None:
    rows = [row for row in graded_rows(root) if row.fold not in HELD_OUT]
    path = write_table(tmp_path / "table.csv", root, rows[:5])
    sound = path.read_text()
    first = sound.splitlines()[1]
    grade = first.split(",")[5]

    def refusal(text: str) -> str:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"table\.csv") as caught:
            read(root, DropRequest(path, share=1.0))
        return str(caught.value)

    def changed(column: int, cell: str) -> str:
        """Return the table with another cell in its first row."""
        cells = first.split(",")
        cells[column] = cell
        return sound.replace(first, ",".join(cells))

    wrong = "moderate" if grade != "moderate" else "severe"
    assert f"line 2: '1,{rows[0].study_id},spinal" in refusal(changed(5, wrong))
    assert f"another grade than the data set, which says '{grade}'" in refusal(changed(5, wrong))
    unknown = refusal(changed(1, "987654321"))
    assert "line 2: '1,987654321," in unknown and "does not have" in unknown
    assert "is of another data set (000000000000)" in refusal(changed(-1, "0" * 64))
    assert "an earlier row has named" in refusal(sound + first + "\n")
    assert "line 2" in refusal(changed(5, "terrible")) and "has no severity" in refusal(changed(5, ""))
    assert "no whole number above 0" in refusal(changed(0, "0"))
    assert "cells" in refusal(sound + "3,4\n")
    assert "no column rank" in refusal("a,b\n1,2\n")
    marks = refusal("study_id,site,reason,distance_mm,expected_error_mm,marks_sha256\n")
    assert "suspect marks of a locator" in marks
    assert "nothing would be left out" in refusal(sound.splitlines()[0] + "\n")
    path.unlink()
    with pytest.raises(ValueError, match="No such file"):
        read(root, DropRequest(path))


def test_a_table_of_studies_held_out_is_refused(root: Path, tmp_path: Path) -> None:
    held_out = [row for row in graded_rows(root) if row.fold in HELD_OUT]
    path = write_table(tmp_path / "table.csv", root, held_out[:3])
    with pytest.raises(SettingError, match="all 3 chosen sites are of studies that are held out"):
        read(root, DropRequest(path, share=1.0))


def test_sites_without_a_side_and_with_one_are_told_apart(root: Path) -> None:
    spinal, foraminal = (
        next(row for row in graded_rows(root) if (row.site.side is None) is flag) for flag in (True, False)
    )
    record = {"dropped_sites": {"sites": [[row.study_id, row.site.key] for row in (spinal, foraminal)]}}
    found: frozenset[tuple[int, Site]] = recorded_sites(record)
    assert found == {(spinal.study_id, spinal.site), (foraminal.study_id, foraminal.site)} and not recorded_sites({})
