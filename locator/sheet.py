"""Sheets of located studies, sorted by decreasing error: a cross at each located position, a ring at the true one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_prep.geometry import Array
from data_prep.sites import SITES, Condition, Side
from data_prep.studies.studies import Study
from locator.locator import LocatedStudy, Locator
from locator.marked_studies import MarkedStudy
from locator.slices import SliceImage, sagittal_images
from locator.training_data import level_axial_images

STUDIES_PER_SHEET = 4
COLOURS = {
    Condition.SPINAL_CANAL_STENOSIS: "tab:cyan",
    Condition.NEURAL_FORAMINAL_NARROWING: "tab:orange",
    Condition.SUBARTICULAR_STENOSIS: "tab:green",
}


#: The names of errors along the patient's x, y and z.
DIRECTIONS = ("to one side", "to the front or back", "up or down")


@dataclass(frozen=True)
class Case:
    """A study that was located, and the true positions of its sites.

    Attributes:
        study_id: Its id.
        true_N3: True positions in mm, NaN where unknown.
        located: The located positions; None if no image has geometry.
        read: Reads the study, when it is drawn.
    """

    study_id: int
    true_N3: Array
    located: LocatedStudy | None
    read: Callable[[], Study]

    @property
    def error_N(self) -> Array:
        """Errors in mm; NaN where the true position is unknown."""
        assert self.located is not None
        distance: Array = np.linalg.norm(self.located.position_N3 - self.true_N3, axis=1)
        return distance

    @property
    def largest_error_mm(self) -> float:
        """The error of the site with the largest one; infinite if nothing was located."""
        return np.inf if self.located is None else float(np.nanmax(self.error_N))


def locate_studies(locator: Locator, studies: Sequence[MarkedStudy], processed: Path) -> list[Case]:
    """Locate the sites of marked studies, without their marks."""

    def case(marked: MarkedStudy) -> Case:
        read = partial(marked.read, processed)
        return Case(marked.study_id, marked.position_N3, locator.locate(read()), read)

    return [case(marked) for marked in studies]


def write_sheets(cases: Sequence[Case], folder: Path, count: int) -> list[Path]:
    """Draw the `count` cases with the largest errors, `STUDIES_PER_SHEET` per PNG file; return the files' paths."""
    shown = sorted(cases, key=lambda case: -case.largest_error_mm)[:count]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(shown), STUDIES_PER_SHEET):
        path = folder / f"worst_{first // STUDIES_PER_SHEET + 1}.png"
        _draw_sheet(path, shown[first : first + STUDIES_PER_SHEET])
        paths.append(path)
    return paths


def explain_largest_error(case: Case) -> str:
    """Describe the direction of a case's largest error, and the detections of that site."""
    if case.located is None:
        return "no image has geometry"
    worst = int(np.nanargmax(case.error_N))
    error = case.located.position_N3[worst] - case.true_N3[worst]
    direction = DIRECTIONS[int(np.argmax(np.abs(error)))]
    detections = [detection for detection in case.located.detections if detection.index == worst]
    if not detections:
        return f"{direction}; detected in no view, so its position comes from the other sites"
    each = (
        f"{detection.kind.partition(' in ')[2]} "
        f"{np.linalg.norm(detection.position_mm - case.true_N3[worst]):.1f} mm off"
        for detection in detections
    )
    return f"{direction}; detected in {', '.join(each)}"


def _draw_sheet(path: Path, shown: Sequence[Case]) -> None:
    figure = Figure(figsize=(15, 5.4 * len(shown)), layout="constrained")
    rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for row, case in zip(rows, shown, strict=True):
        _draw_case(row, case)
    FigureCanvasAgg(figure).print_png(path)


def _draw_case(row: Any, case: Case) -> None:
    located = case.located
    if located is None:
        row.suptitle(f"study {case.study_id}: {explain_largest_error(case)}")
        return
    worst = int(np.nanargmax(case.error_N))
    row.suptitle(
        f"study {case.study_id}, largest error: {SITES[worst].words}, {case.error_N[worst]:.1f} mm off "
        f"({located.expected_error_N[worst]:.1f} mm expected)\n{explain_largest_error(case)}"
    )
    study, axes = case.read(), row.subplots(1, 4)
    for axis in axes:
        axis.set_axis_off()
    sagittal = sagittal_images(study)
    for axis, (condition, side) in zip(axes[:3], _SAGITTAL_COLUMNS, strict=True):
        own = [index for index, site in enumerate(SITES) if (site.condition, site.side) == (condition, side)]
        view = SITES[own[0]].views[0]
        images = [image for image in sagittal if image.view is view] or sagittal
        _draw(axis, _nearest(images, located.position_N3[own].mean(axis=0)), own, case.true_N3, located.position_N3)
    level = [index for index, site in enumerate(SITES) if site.level is SITES[worst].level]
    axial = level_axial_images(study, located.position_N3)
    image = _nearest(axial, located.position_N3[level].mean(axis=0))
    _draw(axes[3], image, level, case.true_N3, located.position_N3)


_SAGITTAL_COLUMNS = (
    (Condition.SPINAL_CANAL_STENOSIS, None),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.RIGHT),
)


def _nearest(images: Sequence[SliceImage], position_mm: Array) -> SliceImage | None:
    return min(images, key=lambda image: abs(image.frame.distance_mm(position_mm)), default=None)


def _draw(axis: Any, image: SliceImage | None, sites: Sequence[int], true_N3: Array, located_N3: Array) -> None:
    """Draw an image with positions projected onto its plane, also those that lie off the plane."""
    if image is None:
        return
    axis.imshow(image.grey_3HW[1], cmap="gray", vmin=0, vmax=255)
    for index in sites:
        colour = COLOURS[SITES[index].condition]
        axis.plot(*image.frame.to_pixel(located_N3[index]), "x", color=colour, markersize=7)
        if np.isfinite(true_N3[index]).all():
            axis.plot(*image.frame.to_pixel(true_N3[index]), "o", color=colour, markersize=9, fillstyle="none")
