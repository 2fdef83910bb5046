"""A contact sheet of a written cohort, to be looked at: whole slices of one study, and sites by severity.

    python -m data_prep.phantom.sheet --root data/phantom --out docs/phantom.png
    python -m data_prep.phantom.sheet --root data/phantom --study 2736665588 --out sheet.png

The upper rows are one study: sagittal slices from right to left, then axial slices from cranial to caudal.
Below, per condition, regions of 64 mm about sites' true places, each severity with several patients.
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
from workspace.cli import SettingsParser, run_command
from workspace.layout import DataRoot, data_root

PROG = "-m data_prep.phantom.sheet"
FIELD_MM = 64.0
CROP = 100
EXAMPLES = 4
PANEL = 200
COLUMNS = 6

Grey = npt.NDArray[np.uint8]
Truth = dict[tuple[int, Site], tuple[Severity, npt.NDArray[np.float64]]]


@dataclass(frozen=True)
class Picture:
    """One slice: its grey image, windowed, and where it lies."""

    view: View
    frame: Frame
    image: Grey


def main() -> None:
    parser = SettingsParser(prog=PROG, description=__doc__)
    parser.add_argument("--root", type=str | None, default=None, help="a data root that the phantom was written to")
    parser.add_argument("--study", type=int | None, default=None, help="the study shown whole; else the most diseased")
    parser.add_argument("--out", type=str, default="phantom.png", help="the picture to write")
    settings = parser.parse_args()
    root = data_root(settings.root)
    truth = read_training_truth(root)
    study_id = settings.study if settings.study is not None else _most_diseased(truth)
    if not (root.images("train") / str(study_id)).is_dir():
        raise ValueError(f"--study {study_id}: no such training study in {root.dataset}")
    sheet = stacked([whole_study(read_pictures(root, study_id)), severities(root, truth)])
    Image.fromarray(sheet).save(settings.out, optimize=True)
    print(f"{settings.out}: study {study_id} above, sites by severity below")


def read_training_truth(root: DataRoot) -> Truth:
    """True severity and place (mm) of every training site. Raises ValueError where the root is no phantom's."""
    path = root.path / "phantom_truth" / "truth.csv"
    if not path.is_file():
        raise ValueError(
            f"--root {str(root.path)!r} has no phantom_truth/truth.csv: write it with -m data_prep.phantom"
        )
    return {
        (one.study_id, one.site): (one.severity, np.array(one.position_mm))
        for one in read_truth(path, split="train")
        if one.severity is not None and one.position_mm is not None
    }


def _most_diseased(truth: Truth) -> int:
    worst: dict[int, int] = {}
    for (study_id, _), (severity, _) in truth.items():
        worst[study_id] = worst.get(study_id, 0) + int(severity)
    if not worst:
        raise ValueError("the cohort has no training study to show")
    return max(worst, key=lambda study_id: worst[study_id])


def read_pictures(root: DataRoot, study_id: int) -> list[Picture]:
    """All slices of a training study, each windowed with its series."""
    with root.table("train_series_descriptions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["study_id"]) == study_id]
    pictures = []
    for row in rows:
        folder = root.images("train") / row["study_id"] / row["series_id"]
        datasets = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"), key=lambda path: int(path.stem))]
        low, high = np.percentile(np.stack([dataset.pixel_array for dataset in datasets])[::2, ::4, ::4], (1, 99.7))
        for dataset in datasets:
            grey = np.clip((dataset.pixel_array - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
            pictures.append(Picture(parse_view(row["series_description"]), _frame_of(dataset), grey))
    return pictures


def _frame_of(dataset: pydicom.Dataset) -> Frame:
    x, y, z = (float(value) for value in dataset.ImagePositionPatient)
    orientation = [float(value) for value in dataset.ImageOrientationPatient]
    row, column = (orientation[0], orientation[1], orientation[2]), (orientation[3], orientation[4], orientation[5])
    between_rows, between_columns = (float(value) for value in dataset.PixelSpacing)
    return Frame((x, y, z), row, column, (between_rows, between_columns), (int(dataset.Rows), int(dataset.Columns)))


def whole_study(pictures: list[Picture]) -> Grey:
    """Two rows of sagittal slices and two of axial ones."""
    rows = []
    for view in View:
        shown = [picture for picture in pictures if picture.view is view]
        axis, sign = (2, -1) if view is View.AXIAL_T2 else (0, 1)
        shown.sort(key=lambda picture: sign * float(picture.frame.centre_mm[axis]))
        count = 2 * COLUMNS if view is View.AXIAL_T2 else COLUMNS
        picked = [shown[int(i)] for i in np.linspace(1, len(shown) - 2, count).round()] if len(shown) > 2 else shown
        panels = [_fitted(picture.image) for picture in picked]
        rows += [np.hstack(panels[i : i + COLUMNS]) for i in range(0, len(panels), COLUMNS)]
    return stacked(rows)


def _fitted(image: Grey) -> Grey:
    size = max(image.shape)
    square = np.zeros((size, size), dtype=np.uint8)
    square[: image.shape[0], : image.shape[1]] = image
    return np.asarray(Image.fromarray(square).resize((PANEL, PANEL), Image.Resampling.LANCZOS))


def severities(root: DataRoot, truth: Truth) -> Grey:
    """Per condition one row of regions in the view it is marked in: normal or mild, moderate, severe."""
    pictures: dict[int, list[Picture]] = {}
    rows = []
    for condition in Condition:
        row = []
        for severity in Severity:
            crops = _examples(root, truth, condition, severity, pictures)
            row += crops + [np.zeros((CROP, CROP), dtype=np.uint8)] * (EXAMPLES - len(crops))
        rows += [_titled(f"{condition.words}: normal or mild | moderate | severe", np.hstack(row))]
    return stacked(rows)


def _examples(
    root: DataRoot, truth: Truth, condition: Condition, severity: Severity, pictures: dict[int, list[Picture]]
) -> list[Grey]:
    """Crops of different patients, left or no side, L3-L4 to L5-S1 first."""
    crops: list[Grey] = []
    seen: set[int] = set()
    sites = sorted(truth, key=lambda key: (key[1].level.value not in ("l3_l4", "l4_l5"), key[0]))
    for study_id, site in sites:
        found, place = truth[study_id, site]
        wanted = site.condition is condition and found is severity and site.side is not Side.RIGHT
        if not wanted or study_id in seen:
            continue
        if study_id not in pictures:
            pictures[study_id] = read_pictures(root, study_id)
        shown = [picture for picture in pictures[study_id] if picture.view is site.views[0]]
        if not shown:
            continue
        seen.add(study_id)
        picture = shown[nearest([picture.frame for picture in shown], place)]
        crops.append(_crop(picture, place))
        if len(crops) == EXAMPLES:
            break
    return crops


def _crop(picture: Picture, place: npt.NDArray[np.float64]) -> Grey:
    column, row = picture.frame.to_pixel(place)
    half_rows, half_columns = (FIELD_MM / 2 / spacing for spacing in picture.frame.spacing_mm)
    box = (column + 0.5 - half_columns, row + 0.5 - half_rows, column + 0.5 + half_columns, row + 0.5 + half_rows)
    side = (CROP, CROP)
    data = ((box[2] - box[0]) / CROP, 0, box[0], 0, (box[3] - box[1]) / CROP, box[1])
    image = Image.fromarray(picture.image)
    return np.asarray(image.transform(side, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC))


def _titled(title: str, image: Grey) -> Grey:
    band = Image.new("L", (image.shape[1], 16), 0)
    ImageDraw.Draw(band).text((4, 2), title, fill=255)
    return np.vstack([np.asarray(band), image])


def stacked(rows: list[Grey]) -> Grey:
    """Rows below one another, black to the right of shorter ones."""
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows])


if __name__ == "__main__":
    run_command(PROG, main)
