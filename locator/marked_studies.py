"""The marked studies of ``train/processed_data``, read from its tables and PNG files.

No DICOM file is read: slices.csv has the position of each PNG in the patient, sites.csv the positions of the marks.
"""

import csv
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_prep.conversion.pairs import folds_of, read_metadata
from data_prep.conversion.slice_frames import frame_of
from data_prep.geometry import Array, Frame
from data_prep.sites import SITES, Site, Source, View
from data_prep.studies.studies import Series, Slice, Study
from data_prep.studies.views import plane_of

SITES_TABLE, SLICES_TABLE = "sites.csv", "slices.csv"
#: Exceptions that a damaged table may raise while it is read.
TABLE_ERRORS = (LookupError, TypeError, ValueError, csv.Error)


@dataclass(frozen=True)
class _SliceRow:
    """A row of slices.csv. `frame` is None for a slice without geometry, `stack` for a slice that is in no stack."""

    series_id: int
    instance_number: int
    image: str
    view: View | None
    stack: int | None
    frame: Frame | None
    window: tuple[float, float]


@dataclass(frozen=True)
class MarkedStudy:
    """A study of processed_data that has marks.

    Attributes:
        study_id: Its id.
        fold: Its fold.
        lines: The header line of slices.csv and the study's own lines, unparsed. They are parsed when the study is
            read: every process of a training holds all studies, but at most one process reads them.
        position_N3: Marked positions of `SITES` in mm, NaN where unmarked.
    """

    study_id: int
    fold: int
    lines: str
    position_N3: Array

    @property
    def series_ids(self) -> set[int]:
        """The ids of its series."""
        return {int(row["series_id"]) for row in csv.DictReader(self.lines.splitlines())}

    def sagittal_frames(self, processed: Path) -> list[list[Frame]]:
        """The frames of each of its sagittal series, without those of slices that lie in another plane.

        Raises:
            ValueError: The lines are damaged.
        """
        frames: dict[int, list[Frame]] = defaultdict(list)
        for row in self._rows(processed / SLICES_TABLE):
            if row.view is not None and row.view.is_sagittal and row.frame and row.frame.lies_as(plane_of(row.view)):
                frames[row.series_id].append(row.frame)
        return [own for _, own in sorted(frames.items())]

    def read(self, processed: Path) -> Study:
        """Read the study's images from their PNG files.

        Raises:
            ValueError: The lines or a PNG file cannot be read.
        """
        by_series: dict[int, list[_SliceRow]] = defaultdict(list)
        for row in self._rows(processed / SLICES_TABLE):
            by_series[row.series_id].append(row)
        return Study(self.study_id, tuple(_series(own, processed) for own in by_series.values()))

    def _rows(self, table: Path) -> list[_SliceRow]:
        try:
            return [_slice_row(row) for row in csv.DictReader(self.lines.splitlines())]
        except TABLE_ERRORS as error:
            raise _damaged(f"{table}: study {self.study_id}", error) from None


def read_marked_studies(processed: Path, fold_of: Mapping[int, int]) -> list[MarkedStudy]:
    """Return the studies that have both marks and images, sorted by id.

    Args:
        processed: The folder ``processed_data``.
        fold_of: The fold of each study.

    Raises:
        ValueError: A table is missing or damaged.
    """
    position_of = _marked_positions(processed / SITES_TABLE)
    lines_of = _lines_by_study(processed / SLICES_TABLE, position_of.keys() & fold_of.keys())
    return [MarkedStudy(study, fold_of[study], lines_of[study], position_of[study]) for study in sorted(lines_of)]


def draw_marked_studies(
    processed: Path, folds: Sequence[int] = (), count: int | None = None, seed: int = 0
) -> list[MarkedStudy]:
    """Return marked studies, sorted by id.

    Args:
        processed: The folder ``processed_data``.
        folds: Their folds; empty for all.
        count: How many are drawn at random; None for all.
        seed: The seed of that draw.

    Raises:
        ValueError: A table is missing or damaged, or no marked study is in the folds.
    """
    studies = read_marked_studies(processed, folds_of(read_metadata(processed)))
    studies = [study for study in studies if not folds or study.fold in folds]
    if not studies:
        raise ValueError(f"{processed}: no marked study is in the folds {list(folds)}")
    drawn = np.random.default_rng(seed).permutation(len(studies))[:count]
    return [studies[index] for index in sorted(drawn)]


def _marked_positions(path: Path) -> dict[int, Array]:
    """Return the marked positions, (25, 3) in mm, of each study that has marks; NaN for unmarked sites."""
    position_of: dict[int, Array] = defaultdict(lambda: np.full((len(SITES), 3), np.nan))
    line = 1
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                line += 1
                if Source(row["source"]) is Source.ANNOTATED:
                    site = SITES.index(Site.from_columns(row))
                    position_of[int(row["study_id"])][site] = [float(row[name]) for name in ("x_mm", "y_mm", "z_mm")]
    except OSError as error:
        raise _unreadable(path, error) from None
    except TABLE_ERRORS as error:
        raise _damaged(f"{path}:{line}", error) from None
    return position_of


def _lines_by_study(path: Path, studies: Container[int]) -> dict[int, str]:
    """Return the header line and the unparsed lines of each of these studies."""
    lines_of: dict[int, list[str]] = {}
    line = 1
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header = next(file, "")
            for text in file:
                line += 1
                study = int(text.partition(",")[0])
                if study in studies:
                    lines_of.setdefault(study, [header]).append(text)
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise _damaged(f"{path}:{line}", error) from None
    return {study: "".join(lines) for study, lines in lines_of.items()}


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path}: cannot be read ({error.strerror}); prepare_data.py writes it")


def _damaged(location: str, error: Exception) -> ValueError:
    reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{location}: damaged ({reason}); run prepare_data.py again")


def _slice_row(row: Mapping[str, str]) -> _SliceRow:
    return _SliceRow(
        int(row["series_id"]),
        int(row["instance_number"]),
        row["image"],
        View(row["view"]) if row["view"] else None,
        int(row["stack"]) if row["stack"] else None,
        frame_of(row),
        (float(row["window_low"]), float(row["window_high"])),
    )


def _series(rows: list[_SliceRow], processed: Path) -> Series:
    """Rebuild the series that these rows, in their order, and their PNG files were written from."""
    first, view = rows[0], next((row.view for row in rows if row.view is not None), None)
    slices = tuple(
        Slice(
            row.instance_number,
            row.frame,
            _read_png(processed / row.image),
            other_contrast=row.view is None and view is not None,  # as `study_conversion` writes it
        )
        for row in rows
    )
    return Series(first.series_id, view, slices, _stacks(row.stack for row in rows), first.window)


def _stacks(stack_of_slice: Iterable[int | None]) -> tuple[tuple[int, ...], ...]:
    """Return the indices of the slices of each stack, in the order of the stacks' numbers."""
    stacks: dict[int, list[int]] = defaultdict(list)
    for index, stack in enumerate(stack_of_slice):
        if stack is not None:
            stacks[stack].append(index)
    return tuple(tuple(stacks[number]) for number in sorted(stacks))


def _read_png(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}); run prepare_data.py again") from None
