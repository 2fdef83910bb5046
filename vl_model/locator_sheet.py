"""Sheets of held-out studies, worst first: a cross where a site was located, a ring where it is marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_prep.geometry import Array
from data_prep.sites import SITES, Condition, Side
from data_prep.studies import Study
from vl_model.locator import Located, Locator
from vl_model.locator_data import MarkedStudy, level_axial_pictures
from vl_model.locator_pictures import Picture, sagittal_pictures

STUDIES_A_SHEET = 4
COLOURS = {
    Condition.SPINAL_CANAL_STENOSIS: "tab:cyan",
    Condition.NEURAL_FORAMINAL_NARROWING: "tab:orange",
    Condition.SUBARTICULAR_STENOSIS: "tab:green",
}


def write_sheets(
    locator: Locator, studies: Sequence[MarkedStudy], processed: Path, folder: Path, count: int
) -> list[Path]:
    """The `count` studies with the largest errors, `STUDIES_A_SHEET` a PNG; the PNGs' paths."""
    found = [(marked, locator.locate(marked.read(processed))) for marked in studies]
    shown = sorted(found, key=lambda result: -_worst(*result))[:count]
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(shown), STUDIES_A_SHEET):
        path = folder / f"worst_{first // STUDIES_A_SHEET + 1}.png"
        _draw_sheet(path, shown[first : first + STUDIES_A_SHEET], processed)
        paths.append(path)
    return paths


def _worst(marked: MarkedStudy, located: Located | None) -> float:
    """The largest error of a study, mm; infinite where nothing was located."""
    if located is None:
        return np.inf
    return float(np.nanmax(np.linalg.norm(located.place_N3 - marked.position_N3, axis=1)))


def _draw_sheet(path: Path, shown: Sequence[tuple[MarkedStudy, Located | None]], processed: Path) -> None:
    figure = Figure(figsize=(15, 5 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 4, squeeze=False)
    for row, (marked, located) in zip(axes, shown, strict=True):
        _draw_study(row, marked.read(processed), marked, located)
    FigureCanvasAgg(figure).print_png(path)


def _draw_study(row: Any, study: Study, marked: MarkedStudy, located: Located | None) -> None:
    for axis in row:
        axis.set_axis_off()
    if located is None:
        row[0].set_title(f"study {study.study_id}: nothing was located")
        return
    error_N = np.linalg.norm(located.place_N3 - marked.position_N3, axis=1)
    worst = int(np.nanargmax(error_N))
    row[0].set_title(f"study {study.study_id}, worst site:")
    row[1].set_title(SITES[worst].words)
    row[2].set_title(f"{error_N[worst]:.1f} mm, expected {located.error_N[worst]:.1f}")
    sagittal = sagittal_pictures(study)
    for axis, (condition, side) in zip(row[:3], _SAGITTAL_COLUMNS, strict=True):
        own = [index for index, site in enumerate(SITES) if (site.condition, site.side) == (condition, side)]
        view = SITES[own[0]].views[0]
        pictures = [picture for picture in sagittal if picture.view is view] or sagittal
        _draw(axis, _nearest(pictures, located.place_N3[own].mean(axis=0)), own, marked.position_N3, located.place_N3)
    level = [index for index, site in enumerate(SITES) if site.level is SITES[worst].level]
    axial = level_axial_pictures(study, located.place_N3)
    _draw(row[3], _nearest(axial, located.place_N3[level].mean(axis=0)), level, marked.position_N3, located.place_N3)


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
