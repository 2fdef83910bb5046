"""The places of converted slices in the patient, from ``slices.csv``."""

import csv
from collections.abc import Collection, Mapping
from pathlib import Path

from data_prep.geometry import Frame

#: (study_id, series_id, instance_number)
SliceKey = tuple[int, int, int]

_KEY_COLUMNS = ("study_id", "series_id", "instance_number")


def frame_of(row: Mapping[str, str]) -> Frame | None:
    """Return the frame of a row of ``slices.csv``; None for a slice whose geometry is not known.

    Raises KeyError for a missing column, and ValueError or TypeError for a cell that cannot be right.
    """
    if not row["position_x_mm"]:
        return None

    def three(*names: str) -> tuple[float, float, float]:
        x, y, z = (float(row[name]) for name in names)
        return x, y, z

    return Frame(
        three("position_x_mm", "position_y_mm", "position_z_mm"),
        three("row_x", "row_y", "row_z"),
        three("column_x", "column_y", "column_z"),
        (float(row["spacing_row_mm"]), float(row["spacing_column_mm"])),
        (int(row["rows"]), int(row["columns"])),
    )


def read_frames(processed: Path, wanted: Collection[SliceKey]) -> dict[SliceKey, Frame]:
    """Return the frames of these slices, as far as they are known.

    The table is read once, up to the last slice that is wanted, and only the rows of these slices are parsed: that of
    two thousand studies has a hundred thousand rows. Raises ValueError if it cannot be read or is damaged.
    """
    path = processed / "slices.csv"
    missing = {tuple(str(part) for part in key): key for key in wanted}
    studies = {study for study, _, _ in missing}
    frames: dict[SliceKey, Frame] = {}
    if not missing:
        return frames
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
            places = [header.index(name) for name in _KEY_COLUMNS]
            of_studies = (line for line in file if line.partition(",")[0] in studies)
            for cells in csv.reader(of_studies):
                key = missing.pop(tuple(cells[place] for place in places), None)
                if key is not None and (frame := frame_of(dict(zip(header, cells, strict=True)))) is not None:
                    frames[key] = frame
                if not missing:
                    break
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); prepare_data.py writes it") from None
    except (LookupError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: damaged ({error}); run prepare_data.py again") from None
    return frames
