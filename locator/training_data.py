"""What the locator learns from: the marked studies of ``train/processed_data``, cut once into arrays.

The pictures are cut once, as the locator will cut them from a study in memory, and memory-mapped from then on.

Dimensions: N pictures of one orientation, H and W pixels, C channels.
"""

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Array, Frame
from data_prep.sites import SITES, Condition, Level, Side, Site
from data_prep.studies.studies import Study
from locator.marked_studies import MarkedStudy
from locator.network import AXIAL_CHANNELS, SAGITTAL_CHANNELS, axial_site
from locator.slices import (
    AXIAL_MM,
    AXIAL_SHAPE,
    LEAST_CONTRAST,
    MOST_SLICES,
    SAGITTAL_MM,
    SAGITTAL_REACH_MM,
    SAGITTAL_SHAPE,
    Grey,
    Picture,
    axial_picture,
    axial_places,
    sagittal_pictures,
)
from workspace.locks import locked
from workspace.whole_folders import whole_folder

#: A sagittal slice counts as a point's own by its distance from it, as a normal curve of this deviation (mm).
SAGITTAL_OWN_MM = {Condition.SPINAL_CANAL_STENOSIS: 5.0, Condition.NEURAL_FORAMINAL_NARROWING: 3.5}
#: The same of an axial slice.
AXIAL_OWN_MM = 3.5
#: Axial slices further than this from every level's canal show a vertebral body.
AXIAL_REACH_MM = 14.0
#: The folder of the cut pictures in ``processed_data``.
PICTURES = "locator_pictures"
#: Raised when what is cut, or the targets, change.
CUT_VERSION = 4
#: The arrays of a cut besides its pictures, each a file.
PARTS = ("study", "point", "share", "known")
#: Rows and columns of the pictures of each orientation.
SHAPES = {"sagittal": SAGITTAL_SHAPE, "axial": AXIAL_SHAPE}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """The pictures of one orientation.

    grey_N3HW: memory-mapped; study_N: ids; point_NC2: (column, row) of each channel's point; share_NC: how much this
    slice is the point's own, 0 to 1; known_NC: whether the point is marked at all.
    """

    grey_N3HW: Grey
    study_N: npt.NDArray[np.int64]
    point_NC2: Floats
    share_NC: Floats
    known_NC: npt.NDArray[np.bool_]

    def rows_of(self, studies: Iterable[MarkedStudy]) -> npt.NDArray[np.int64]:
        """Which pictures are of these studies."""
        return np.flatnonzero(np.isin(self.study_N, [study.study_id for study in studies]))


def cut_studies(studies: Sequence[MarkedStudy], processed: Path, written: str, progress: Any = iter) -> dict[str, Cut]:
    """The pictures of both orientations by name, cut into `processed`, or found there as they were cut before.

    All marked studies are cut, whichever of them a run learns from: runs of other folds read the same pictures.
    written: a digest of what `processed` was made from. Raises BlockingIOError where another run is cutting them.
    """
    key = hashlib.sha256(repr(_made_from(studies, written)).encode()).hexdigest()
    folder = processed / PICTURES / key[:16]
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        with locked(folder.parent / ".lock", "cutting the locator's pictures"):
            earlier = [path for path in folder.parent.iterdir() if path.is_dir()]
            with whole_folder(folder) as partial:
                _cut_all(studies, processed, partial, progress)
            for path in earlier:  # of other data; a run that still reads them keeps its open files
                shutil.rmtree(path, ignore_errors=True)
    return {name: _open_cut(folder, name) for name in SHAPES}


def _made_from(studies: Sequence[MarkedStudy], written: str) -> tuple[Any, ...]:
    grids = (CUT_VERSION, SAGITTAL_MM, SAGITTAL_SHAPE, AXIAL_MM, AXIAL_SHAPE)
    chosen = (AXIAL_REACH_MM, SAGITTAL_REACH_MM, MOST_SLICES, LEAST_CONTRAST)
    own = (AXIAL_OWN_MM, tuple(SAGITTAL_OWN_MM.values()))
    marks = hashlib.sha256(np.array([study.position_N3 for study in studies]).tobytes()).hexdigest()
    return grids, chosen, own, written, marks, [study.study_id for study in studies]


def _cut_all(studies: Sequence[MarkedStudy], processed: Path, folder: Path, progress: Any) -> None:
    """Study by study: of a large cohort the pictures take gigabytes, and never lie in memory together."""
    aims: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SHAPES}
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}_grey.bin").open("wb")) for name in SHAPES}
        for marked in progress(studies):
            study = marked.read(processed)
            for name, pictures, aim in (
                ("sagittal", sagittal_pictures(study), sagittal_aim),
                ("axial", level_axial_pictures(study, marked.position_N3), axial_aim),
            ):
                for picture in pictures:
                    files[name].write(picture.grey_3HW.tobytes())
                    aims[name].append((study.study_id, *aim(picture.frame, marked.position_N3)))
    for name, rows in aims.items():
        if not rows:
            raise ValueError(f"{processed}: no marked study has a {name} series with geometry to learn from")
        for part, column in zip(PARTS, zip(*rows, strict=True), strict=True):
            np.save(folder / f"{name}_{part}.npy", np.stack(column))


def _open_cut(folder: Path, name: str) -> Cut:
    arrays = [np.load(folder / f"{name}_{part}.npy", allow_pickle=False) for part in PARTS]
    shape = (len(arrays[0]), 3, *SHAPES[name])
    return Cut(np.memmap(folder / f"{name}_grey.bin", dtype=np.uint8, mode="r", shape=shape), *arrays)


def sagittal_aim(frame: Frame, position_N3: Array) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """(C, 2), (C,), (C,): each channel's point in this slice, how much it is the point's own, whether it is marked.

    A foramen is that of the side that the slice lies on: the nearer of the two that are marked.
    """
    point, share, known = _no_aim(len(SAGITTAL_CHANNELS))
    for channel, (condition, level) in enumerate(SAGITTAL_CHANNELS):
        sides = (None,) if condition is Condition.SPINAL_CANAL_STENOSIS else tuple(Side)
        places = [position_N3[SITES.index(Site(condition, side, level))] for side in sides]
        places = [place for place in places if np.isfinite(place).all()]
        if places:
            place = min(places, key=lambda candidate: abs(frame.distance_mm(candidate)))
            own = np.exp(-0.5 * (frame.distance_mm(place) / SAGITTAL_OWN_MM[condition]) ** 2)
            point[channel], share[channel] = frame.to_pixel(place), own
            # Of one marked foramen nothing can be said on the other side: there may be another one.
            known[channel] = len(places) == len(sides) or own > 0.5
    return point, share, known


def axial_aim(frame: Frame, position_N3: Array) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """As `sagittal_aim`, of the level that is nearest to the slice."""
    point, share, known = _no_aim(len(AXIAL_CHANNELS))
    level = nearest_level(frame, position_N3)
    if level is None:
        return point, share, known
    for channel in range(len(AXIAL_CHANNELS)):
        place = position_N3[SITES.index(axial_site(channel, level))]
        if np.isfinite(place).all():
            point[channel] = frame.to_pixel(place)
            share[channel] = np.exp(-0.5 * (frame.distance_mm(place) / AXIAL_OWN_MM) ** 2)
            known[channel] = True
    return point, share, known


def _no_aim(channels: int) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    return np.zeros((channels, 2), np.float32), np.zeros(channels, np.float32), np.zeros(channels, bool)


def nearest_level(frame: Frame, position_N3: Array) -> Level | None:
    """The level whose canal, of those that are placed, lies nearest to an axial slice's plane."""
    distance = {
        level: abs(frame.distance_mm(place))
        for level in Level
        if np.isfinite(place := position_N3[_canal(level)]).all()
    }
    return min(distance, key=lambda level: distance[level], default=None)


def _canal(level: Level) -> int:
    return SITES.index(Site(Condition.SPINAL_CANAL_STENOSIS, None, level))


def level_axial_pictures(study: Study, position_N3: Array) -> list[Picture]:
    """Axial slices near a level (`AXIAL_REACH_MM`), each centred on that level's canal.

    position_N3: places of `SITES`, mm, NaN where unknown.
    """
    pictures = []
    for place in axial_places(study):
        level = nearest_level(place.frame, position_N3)
        if level is None:
            continue
        centre = position_N3[_canal(level)]
        if abs(place.frame.distance_mm(centre)) <= AXIAL_REACH_MM:
            pictures.append(axial_picture(place, centre))
    return [picture for picture in pictures if picture.shows_something]
