"""Write a contact sheet of a synthetic cohort: the slices of one study, and examples of sites by severity.

    python -m data_prep.phantom.sheet --root data/phantom --out docs/phantom.png
    python -m data_prep.phantom.sheet --root data/phantom --study 2736665588 --out sheet.png

The upper rows show one study: sagittal slices from right to left, then axial slices from cranial to caudal. The lower
rows show, per condition, regions of 64 mm around the true positions of sites, several patients per severity.
"""

import csv
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageDraw

from data_prep.geometry import Frame, nearest
from data_prep.sites import Condition, Severity, Side, Site, View, parse_view
from data_prep.truth import read_truth
from workspace.cli import run_command
from workspace.layout import DataRoot, data_root
from workspace.root_settings import RootSettings
from workspace.setting_error import SettingError
from workspace.settings_parser import read_settings

PROG = "-m data_prep.phantom.sheet"
FIELD_MM = 64.0
CROP = 100
EXAMPLES = 4
PANEL = 200
COLUMNS = 6

Grey = npt.NDArray[np.uint8]
Truth = dict[tuple[int, Site], tuple[Severity, npt.NDArray[np.float64]]]


@dataclass(frozen=True)
class SliceImage:
    """A slice: its view, its geometry and its grey image, mapped with the window of its series."""

    view: View
    frame: Frame
    image: Grey


@dataclass(frozen=True)
class Settings(RootSettings):
    """Settings of the contact sheet."""

    study: int | None = None
    """The id of the study whose slices are drawn. By default the study with the most severe sites."""
    out: str = "phantom.png"
    """The PNG file to write."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = data_root(settings.root)
    truth = read_training_truth(root)
    study_id = settings.study if settings.study is not None else _most_diseased(truth)
    if not (root.images("train") / str(study_id)).is_dir():
        raise SettingError("study", f"{study_id}: no such study in the train split of {root.dataset}")
    sheet = stacked([study_rows(read_slices(root, study_id)), severity_rows(root, truth)])
    Image.fromarray(sheet).save(settings.out, optimize=True)
    print(f"{settings.out}: shows study {study_id} and, below it, sites by severity")


def read_training_truth(root: DataRoot) -> Truth:
    """Read the true severity and position (mm) of every site of the train split.

    Raises ValueError if the data root holds no synthetic cohort.
    """
    path = root.path / "phantom_truth" / "truth.csv"
    if not path.is_file():
        raise SettingError(
            "root", f"{str(root.path)!r}: phantom_truth/truth.csv is missing; write it with python -m data_prep.phantom"
        )
    return {
        (one.study_id, one.site): (one.severity, np.array(one.position_mm))
        for one in read_truth(path, split="train")
        if one.severity is not None and one.position_mm is not None
    }


def _most_diseased(truth: Truth) -> int:
    """Return the study with the largest sum of severities."""
    sums: dict[int, int] = {}
    for (study_id, _), (severity, _) in truth.items():
        sums[study_id] = sums.get(study_id, 0) + int(severity)
    if not sums:
        raise ValueError("the cohort has no study in the train split to show")
    return max(sums, key=lambda study_id: sums[study_id])


def read_slices(root: DataRoot, study_id: int) -> list[SliceImage]:
    """Read all slices of a study of the train split, mapped to grey with the window of their series."""
    with root.table("train_series_descriptions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["study_id"]) == study_id]
    slices = []
    for row in rows:
        folder = root.images("train") / row["study_id"] / row["series_id"]
        datasets = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"), key=lambda path: int(path.stem))]
        low, high = np.percentile(np.stack([dataset.pixel_array for dataset in datasets])[::2, ::4, ::4], (1, 99.7))
        for dataset in datasets:
            grey = np.clip((dataset.pixel_array - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
            slices.append(SliceImage(parse_view(row["series_description"]), _frame_of(dataset), grey))
    return slices


def _frame_of(dataset: pydicom.Dataset) -> Frame:
    x, y, z = (float(value) for value in dataset.ImagePositionPatient)
    orientation = [float(value) for value in dataset.ImageOrientationPatient]
    row, column = (orientation[0], orientation[1], orientation[2]), (orientation[3], orientation[4], orientation[5])
    between_rows, between_columns = (float(value) for value in dataset.PixelSpacing)
    return Frame((x, y, z), row, column, (between_rows, between_columns), (int(dataset.Rows), int(dataset.Columns)))


def study_rows(slices: list[SliceImage]) -> Grey:
    """Return the rows of one study: two of sagittal slices and two of axial ones."""
    rows = []
    for view in View:
        shown = [one for one in slices if one.view is view]
        axis, sign = (2, -1) if view is View.AXIAL_T2 else (0, 1)
        shown.sort(key=lambda one: sign * float(one.frame.centre_mm[axis]))
        count = 2 * COLUMNS if view is View.AXIAL_T2 else COLUMNS
        picked = [shown[int(i)] for i in np.linspace(1, len(shown) - 2, count).round()] if len(shown) > 2 else shown
        panels = [_fitted(one.image) for one in picked]
        rows += [np.hstack(panels[i : i + COLUMNS]) for i in range(0, len(panels), COLUMNS)]
    return stacked(rows)


def _fitted(image: Grey) -> Grey:
    size = max(image.shape)
    square = np.zeros((size, size), dtype=np.uint8)
    square[: image.shape[0], : image.shape[1]] = image
    return np.asarray(Image.fromarray(square).resize((PANEL, PANEL), Image.Resampling.LANCZOS))


def severity_rows(root: DataRoot, truth: Truth) -> Grey:
    """Return one row per condition, in the view it is marked in: regions normal or mild, moderate and severe."""
    slices: dict[int, list[SliceImage]] = {}
    rows = []
    for condition in Condition:
        row = []
        for severity in Severity:
            crops = _examples(root, truth, condition, severity, slices)
            row += crops + [np.zeros((CROP, CROP), dtype=np.uint8)] * (EXAMPLES - len(crops))
        rows += [_titled(f"{condition.words}: normal or mild | moderate | severe", np.hstack(row))]
    return stacked(rows)


def _examples(
    root: DataRoot, truth: Truth, condition: Condition, severity: Severity, slices: dict[int, list[SliceImage]]
) -> list[Grey]:
    """Return crops of different patients, never of a right side, preferably at L3-L4 and L4-L5.

    `slices` holds the slices of the studies that were read so far, and gains those that are read here.
    """
    crops: list[Grey] = []
    used: set[int] = set()
    sites = sorted(truth, key=lambda key: (key[1].level.value not in ("l3_l4", "l4_l5"), key[0]))
    for study_id, site in sites:
        found, position = truth[study_id, site]
        suitable = site.condition is condition and found is severity and site.side is not Side.RIGHT
        if not suitable or study_id in used:
            continue
        if study_id not in slices:
            slices[study_id] = read_slices(root, study_id)
        shown = [one for one in slices[study_id] if one.view is site.views[0]]
        if not shown:
            continue
        used.add(study_id)
        crops.append(_crop(shown[nearest([one.frame for one in shown], position)], position))
        if len(crops) == EXAMPLES:
            break
    return crops


def _crop(source: SliceImage, position: npt.NDArray[np.float64]) -> Grey:
    column, row = source.frame.to_pixel(position)
    half_rows, half_columns = (FIELD_MM / 2 / spacing for spacing in source.frame.spacing_mm)
    box = (column + 0.5 - half_columns, row + 0.5 - half_rows, column + 0.5 + half_columns, row + 0.5 + half_rows)
    side = (CROP, CROP)
    data = ((box[2] - box[0]) / CROP, 0, box[0], 0, (box[3] - box[1]) / CROP, box[1])
    image = Image.fromarray(source.image)
    return np.asarray(image.transform(side, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC))


def _titled(title: str, image: Grey) -> Grey:
    band = Image.new("L", (image.shape[1], 16), 0)
    ImageDraw.Draw(band).text((4, 2), title, fill=255)
    return np.vstack([np.asarray(band), image])


def stacked(rows: list[Grey]) -> Grey:
    """Stack rows below one another; shorter rows are filled with black on the right."""
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows])


if __name__ == "__main__":
    run_command(PROG, main)
