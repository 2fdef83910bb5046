"""Sheets of located studies, worst first: a cross where a site was located, a ring where it is."""

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
from locator.locator import Located, Locator
from locator.marked_studies import MarkedStudy
from locator.slices import Picture, sagittal_pictures
from locator.training_data import level_axial_pictures

STUDIES_A_SHEET = 4
COLOURS = {
    Condition.SPINAL_CANAL_STENOSIS: "tab:cyan",
    Condition.NEURAL_FORAMINAL_NARROWING: "tab:orange",
    Condition.SUBARTICULAR_STENOSIS: "tab:green",
}


#: How an error along the patient's x, y or z is called.
DIRECTIONS = ("to one side", "to the front or back", "up or down")


@dataclass(frozen=True)
class Case:
    """A study that was located, and where its sites are, (25, 3) mm with NaN where nobody says.

    read: the study is read again when it is drawn, not kept.
    """

    study_id: int
    true_N3: Array
    located: Located | None
    read: Callable[[], Study]

    @property
    def error_N(self) -> Array:
        """mm; NaN where nothing is known."""
        assert self.located is not None
        distance: Array = np.linalg.norm(self.located.place_N3 - self.true_N3, axis=1)
        return distance

    @property
    def worst(self) -> float:
        """The largest error, mm; infinite where nothing was located."""
        return np.inf if self.located is None else float(np.nanmax(self.error_N))


def locate_all(locator: Locator, studies: Sequence[MarkedStudy], processed: Path) -> list[Case]:
    def case(marked: MarkedStudy) -> Case:
        read = partial(marked.read, processed)
        return Case(marked.study_id, marked.position_N3, locator.locate(read()), read)

    return [case(marked) for marked in studies]


def write_sheets(cases: Sequence[Case], folder: Path, count: int) -> list[Path]:
    """The `count` cases with the largest errors, `STUDIES_A_SHEET` a PNG; the PNGs' paths."""
    shown = sorted(cases, key=lambda case: -case.worst)[:count]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(shown), STUDIES_A_SHEET):
        path = folder / f"worst_{first // STUDIES_A_SHEET + 1}.png"
        _draw_sheet(path, shown[first : first + STUDIES_A_SHEET])
        paths.append(path)
    return paths


def reason(case: Case) -> str:
    """Of a case's worst site: which way it is off, and what the locator had to go by."""
    if case.located is None:
        return "no image has a place"
    worst = int(np.nanargmax(case.error_N))
    off = case.located.place_N3[worst] - case.true_N3[worst]
    way = DIRECTIONS[int(np.argmax(np.abs(off)))]
    seen = [sighting for sighting in case.located.sightings if sighting.index == worst]
    if not seen:
        return f"{way}; seen in no view, so its neighbours placed it"
    each = (
        f"{sighting.kind.partition(' in ')[2]} {np.linalg.norm(sighting.place_mm - case.true_N3[worst]):.1f} mm off"
        for sighting in seen
    )
    return f"{way}; seen in {', '.join(each)}"


def _draw_sheet(path: Path, shown: Sequence[Case]) -> None:
    figure = Figure(figsize=(15, 5.4 * len(shown)), layout="constrained")
    rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for row, case in zip(rows, shown, strict=True):
        _draw_case(row, case)
    FigureCanvasAgg(figure).print_png(path)


def _draw_case(row: Any, case: Case) -> None:
    located = case.located
    if located is None:
        row.suptitle(f"study {case.study_id}: {reason(case)}")
        return
    worst = int(np.nanargmax(case.error_N))
    row.suptitle(
        f"study {case.study_id}, worst site {SITES[worst].words}: {case.error_N[worst]:.1f} mm off, "
        f"{located.error_N[worst]:.1f} expected\n{reason(case)}"
    )
    study, axes = case.read(), row.subplots(1, 4)
    for axis in axes:
        axis.set_axis_off()
    sagittal = sagittal_pictures(study)
    for axis, (condition, side) in zip(axes[:3], _SAGITTAL_COLUMNS, strict=True):
        own = [index for index, site in enumerate(SITES) if (site.condition, site.side) == (condition, side)]
        view = SITES[own[0]].views[0]
        pictures = [picture for picture in sagittal if picture.view is view] or sagittal
        _draw(axis, _nearest(pictures, located.place_N3[own].mean(axis=0)), own, case.true_N3, located.place_N3)
    level = [index for index, site in enumerate(SITES) if site.level is SITES[worst].level]
    axial = level_axial_pictures(study, located.place_N3)
    _draw(axes[3], _nearest(axial, located.place_N3[level].mean(axis=0)), level, case.true_N3, located.place_N3)


_SAGITTAL_COLUMNS = (
    (Condition.SPINAL_CANAL_STENOSIS, None),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.RIGHT),
)


def _nearest(pictures: Sequence[Picture], place_mm: Array) -> Picture | None:
    return min(pictures, key=lambda picture: abs(picture.frame.distance_mm(place_mm)), default=None)


def _draw(axis: Any, picture: Picture | None, sites: Sequence[int], marked_N3: Array, located_N3: Array) -> None:
    """Places are their feet on the picture, also where they lie beside its plane."""
    if picture is None:
        return
    axis.imshow(picture.grey_3HW[1], cmap="gray", vmin=0, vmax=255)
    for index in sites:
        colour = COLOURS[SITES[index].condition]
        axis.plot(*picture.frame.to_pixel(located_N3[index]), "x", color=colour, markersize=7)
        if np.isfinite(marked_N3[index]).all():
            axis.plot(*picture.frame.to_pixel(marked_N3[index]), "o", color=colour, markersize=9, fillstyle="none")
