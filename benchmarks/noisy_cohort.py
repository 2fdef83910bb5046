"""Input for the benchmarks of the conversion: cohorts of quickly made 12-bit slices with a scanner's noise."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from benchmarks.copied_cohort import copy_study_file
from data_prep.geometry import Frame
from data_prep.phantom.files import SeriesIdentity, write_series
from data_prep.phantom.protocols import Compression, Look, SeriesPlan
from data_prep.phantom.tissues import Weighting, standard_palette
from data_prep.sites import SITES, Level, Severity, Side, View
from data_prep.studies.cohorts import Cohort, split_cohort
from workspace.layout import DataRoot

#: A required argument without effect: the images are not rendered by the phantom.
UNUSED_LOOK = Look(standard_palette(Weighting.T1), 0.0, (0.0, 0.0, 0.0), 0.0, 0.0, 1.0, None, 0.0, 1.0)


def noisy_slices(count: int, shape: tuple[int, int], sigma: float, seed: int = 0) -> Iterator[npt.NDArray[np.uint16]]:
    """Draw slices of soft tissue and organs, surrounded by air, with Rician noise and the full range of 12 bits."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / np.array(shape).reshape(2, 1, 1)
    soft = gaussian_filter(random.random(shape), shape[0] / 40)
    signal = 1000 + 2000 * (soft - soft.min()) / np.ptp(soft)
    for _ in range(40):
        middle, radius = random.random(2), random.uniform(0.02, 0.12, 2)
        inside = ((rows - middle[0]) / radius[0]) ** 2 + ((columns - middle[1]) / radius[1]) ** 2 < 1
        signal[inside] = random.uniform(200, 4000)
    signal = gaussian_filter(signal, 1.0)
    signal[((columns - 0.5) / 0.48) ** 2 + ((rows - 0.5) / 0.49) ** 2 > 1] = 0
    for _ in range(count):
        noisy = np.hypot(signal + random.normal(0, sigma, shape), random.normal(0, sigma, shape))
        yield np.clip(np.rint(noisy), 0, 4095).astype(np.uint16)


def write_noisy_series(folder: Path, count: int, sigma: float, compression: Compression) -> None:
    """Write one sagittal series of 512 x 512 pixels."""
    plan = series_plan(View.SAGITTAL_T2_STIR, count, (512, 512), compression)
    write_series(folder, SeriesIdentity(1, 1, 1, "20240101"), plan, list(noisy_slices(count, (512, 512), sigma)))


def series_plan(view: View, count: int, shape: tuple[int, int], compression: Compression) -> SeriesPlan:
    """Return a series of slices 280 mm wide, 4 mm apart, around the origin."""
    spacing = (280 / shape[0], 280 / shape[1])
    across = [4.0 * (index - (count - 1) / 2) for index in range(count)]
    if view.is_sagittal:
        frames = [Frame((x, -140.0, 140.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), spacing, shape) for x in across]
    else:
        frames = [Frame((-140.0, -140.0, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), spacing, shape) for z in across]
    numbers = tuple(range(1, count + 1))
    return SeriesPlan(view, tuple(frames), numbers, UNUSED_LOOK, compression, 4.0, None)


def write_cohort(root: Path, studies: int, slices: int, shape: tuple[int, int]) -> Cohort:
    """Write marked studies of three series each. All have the same images, under their own identifiers."""
    dataset = root / "dataset"
    first = dataset / "train_images" / "1"
    for series_id, view in enumerate(View, start=1):
        plan = series_plan(view, slices, shape, Compression.RLE)
        identity = SeriesIdentity(1, series_id, series_id, "20240101")
        write_series(first / str(series_id), identity, plan, list(noisy_slices(slices, shape, 15, series_id)))
    for study_id in range(2, studies + 1):
        for path in sorted(first.rglob("*.dcm")):
            copy_study_file(path, dataset / "train_images" / str(study_id) / path.parent.name / path.name, 1, study_id)
    write_tables(dataset, range(1, studies + 1), slices, shape)
    return split_cohort(DataRoot(root), "train")


def write_tables(dataset: Path, study_ids: range, slices: int, shape: tuple[int, int]) -> None:
    """Write tables in which every site is graded, and marked in the middle column of a sagittal slice."""
    keys = [site.key for site in SITES]
    grades, descriptions = [",".join(["study_id", *keys])], ["study_id,series_id,series_description"]
    marks = ["study_id,series_id,instance_number,condition,level,x,y"]
    slice_of = {Side.RIGHT: slices // 2 - 3, None: slices // 2 + 1, Side.LEFT: slices // 2 + 5}
    for study_id in study_ids:
        grades.append(",".join([str(study_id), *(Severity((study_id + n) % 3).label for n in range(len(SITES)))]))
        for series_id, view in enumerate(View, start=1):
            descriptions.append(f"{study_id},{series_id},{view.words}")
        sagittal = list(View).index(View.SAGITTAL_T2_STIR) + 1
        for site in SITES:
            row, column = shape[0] * (0.3 + 0.1 * list(Level).index(site.level)), shape[1] * 0.5
            cells = (study_id, sagittal, slice_of[site.side], site.condition_key, site.level, column, row)
            marks.append(",".join(map(str, cells)))
    tables = {"train": grades, "train_series_descriptions": descriptions, "train_label_coordinates": marks}
    for name, lines in tables.items():
        (dataset / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
