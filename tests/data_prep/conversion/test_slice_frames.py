from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.conversion.slice_frames import frame_of, read_frames
from data_prep.conversion.study_records import SLICE_COLUMNS
from tests.data_prep.conversion.slice_table import slice_row, write_slices


@pytest.fixture
def processed(tmp_path: Path) -> Path:
    rows = [
        slice_row((study, series, number), spacing=(0.5 + number / 10, 0.7), shape=(40 + number, 50))
        for study in (11, 1, 111)
        for series in (study * 10, study * 10 + 1)
        for number in range(1, 9)
    ]
    for name in SLICE_COLUMNS[8:19]:
        rows[5][name] = ""
    write_slices(tmp_path, rows)
    return tmp_path


def test_frames_are_those_of_a_whole_reading(processed: Path) -> None:
    table = pd.read_csv(processed / "slices.csv").set_index(["study_id", "series_id", "instance_number"])
    wanted = [(11, 110, 3), (1, 11, 8), (111, 1110, 1), (11, 110, 6), (7, 70, 1)]
    frames = read_frames(processed, wanted)
    assert set(frames) == set(wanted[:3])  # the fourth has no geometry, the fifth does not exist
    for key, frame in frames.items():
        row = table.drop(columns=["image", "view"]).loc[key].astype(float)
        assert frame.shape == (row["rows"], row["columns"])
        assert frame.spacing_mm == (row.spacing_row_mm, row.spacing_column_mm)
        np.testing.assert_allclose(frame.position_mm, row[["position_x_mm", "position_y_mm", "position_z_mm"]])
        np.testing.assert_allclose(frame.column_direction, row[["column_x", "column_y", "column_z"]])


def test_the_table_is_read_up_to_the_last_slice_that_is_wanted(processed: Path) -> None:
    with (processed / "slices.csv").open("ab") as file:
        file.write(b"1,1,1\n" * 10_000 + b"\xff\xfe is no text\n")
    assert len(read_frames(processed, [(11, 110, 1), (11, 110, 2)])) == 2
    with pytest.raises(ValueError, match=r"slices\.csv: damaged \(.*\); run prepare_data\.py again"):
        read_frames(processed, [(7, 70, 1)])


@pytest.mark.parametrize("content", ["", "study_id,series_id\n11,110\n", None])
def test_a_table_without_its_columns_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "slices.csv").write_text(content)
    with pytest.raises(ValueError, match=r"slices\.csv: .*prepare_data\.py"):
        read_frames(tmp_path, [(11, 110, 1)])


def test_a_frame_that_cannot_be_right_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive"):
        frame_of(slice_row((1, 2, 3), spacing=(0.0, 1.0)))
