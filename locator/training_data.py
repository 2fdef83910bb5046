"""The locator's training data: slice images of the marked studies in ``train/processed_data``, with their landmarks.

The images are resampled once, as the locator resamples a study that it locates, and cached in memory-mapped files.

Dimensions: N images of one orientation, C channels (landmarks), H and W pixels.
"""

import hashlib
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
    MAX_SLICES,
    MIN_CONTRAST,
    SAGITTAL_MM,
    SAGITTAL_REACH_MM,
    SAGITTAL_SHAPE,
    Grey,
    SliceImage,
    axial_image,
    axial_triples,
    sagittal_images,
)
from workspace.locks import locked
from workspace.tidying import discard_folder
from workspace.whole_folders import whole_folder

#: Standard deviation, in mm, of the target probability that a landmark lies in a sagittal slice, as a function of the
#: distance between them.
SAGITTAL_PRESENCE_MM = {Condition.SPINAL_CANAL_STENOSIS: 5.0, Condition.NEURAL_FORAMINAL_NARROWING: 3.5}
#: The same for an axial slice.
AXIAL_PRESENCE_MM = 3.5
#: Axial slices further than this from the canal of every level show a vertebral body.
AXIAL_REACH_MM = 14.0
#: Slices in which some landmark is more probable than `SHOWN` are drawn this many times as often as others, such as
#: those beside the spine.
SHOWN, SHOWING_WEIGHT = 0.3, 4
#: The folder of the cached images in ``processed_data``.
CACHE_FOLDER = "locator_pictures"
#: To be increased whenever the images or their targets change.
CACHE_VERSION = 5
#: The arrays of a cache besides its images; the names of their files.
PARTS = ("study", "point", "share", "known")
#: Rows and columns of the images of each orientation.
SHAPES = {"sagittal": SAGITTAL_SHAPE, "axial": AXIAL_SHAPE}

Floats = npt.NDArray[np.float32]
#: (C, 2) pixels of the landmarks, (C,) target probabilities that they lie in the slice, (C,) whether they are marked.
Targets = tuple[Floats, Floats, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class CachedImages:
    """The slice images of one orientation, with their landmarks.

    Attributes:
        grey_N3HW: Memory-mapped grey values.
        study_N: Study ids.
        point_NC2: (column, row) of each channel's landmark.
        presence_NC: The target probability, 0 to 1, that the landmark lies in this slice.
        known_NC: Whether the landmark is marked.
    """

    grey_N3HW: Grey
    study_N: npt.NDArray[np.int64]
    point_NC2: Floats
    presence_NC: Floats
    known_NC: npt.NDArray[np.bool_]

    def channels_known_in(self, studies: Iterable[MarkedStudy]) -> npt.NDArray[np.bool_]:
        """Return for each channel, (C,), whether its landmark is known in an image of these studies."""
        return np.asarray(self.known_NC[self.rows_of(studies)].any(axis=0))

    def rows_to_draw(self, studies: Iterable[MarkedStudy]) -> npt.NDArray[np.int64]:
        """Return the rows to draw batches from: those that show a landmark appear `SHOWING_WEIGHT` times."""
        rows = self.rows_of(studies)
        shows = ((self.presence_NC > SHOWN) & self.known_NC)[rows].any(axis=1)
        return np.repeat(rows, np.where(shows, SHOWING_WEIGHT, 1))

    def rows_of(self, studies: Iterable[MarkedStudy]) -> npt.NDArray[np.int64]:
        """Return the rows of the images of these studies."""
        return np.flatnonzero(np.isin(self.study_N, [study.study_id for study in studies]))


def cache_images(
    studies: Sequence[MarkedStudy], processed: Path, fingerprint: str, progress: Any = iter
) -> dict[str, CachedImages]:
    """Resample the slice images of all marked studies, or open them if they were cached before.

    Runs that hold out different folds share one cache, so `studies` are all marked studies.

    Args:
        studies: The marked studies.
        processed: The folder ``processed_data``; the cache is written into it.
        fingerprint: A digest of the input that `processed` was made from.
        progress: A function that wraps the iteration over studies, for example tqdm.

    Returns:
        The cached images by orientation, "sagittal" first; an orientation without images in which a landmark is known
        is left out.

    Raises:
        BlockingIOError: Another run is writing the cache.
        ValueError: No orientation has such images.
    """
    key = hashlib.sha256(repr(_key_parts(studies, fingerprint)).encode()).hexdigest()
    folder = processed / CACHE_FOLDER / key[:16]
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        with locked(folder.parent / ".lock", "resampling the locator's slice images"):
            earlier = [path for path in folder.parent.iterdir() if path.is_dir()]
            with whole_folder(folder) as partial:
                _write_cache(studies, processed, partial, progress)
            for path in earlier:  # caches of other data; a run that still reads them keeps its open files
                discard_folder(path)
    return {orientation: _open_cache(folder, orientation) for orientation in SHAPES if _is_cached(folder, orientation)}


def _key_parts(studies: Sequence[MarkedStudy], fingerprint: str) -> tuple[Any, ...]:
    """Return everything that the contents of the cache depend on."""
    grids = (CACHE_VERSION, SAGITTAL_MM, SAGITTAL_SHAPE, AXIAL_MM, AXIAL_SHAPE)
    selection = (AXIAL_REACH_MM, SAGITTAL_REACH_MM, MAX_SLICES, MIN_CONTRAST)
    presence = (AXIAL_PRESENCE_MM, tuple(SAGITTAL_PRESENCE_MM.values()))
    marks = hashlib.sha256(np.array([study.position_N3 for study in studies]).tobytes()).hexdigest()
    return grids, selection, presence, fingerprint, marks, [study.study_id for study in studies]


def _write_cache(studies: Sequence[MarkedStudy], processed: Path, folder: Path, progress: Any) -> None:
    """Write the images study by study: those of a large cohort take gigabytes, more than the memory may hold."""
    labels: dict[str, list[tuple[Any, ...]]] = {orientation: [] for orientation in SHAPES}
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}_grey.bin").open("wb")) for name in SHAPES}
        for marked in progress(studies):
            study = marked.read(processed)
            for orientation, images, targets in (
                ("sagittal", sagittal_images(study), sagittal_targets),
                ("axial", level_axial_images(study, marked.position_N3), axial_targets),
            ):
                for image in images:
                    files[orientation].write(image.grey_3HW.tobytes())
                    labels[orientation].append((study.study_id, *targets(image.frame, marked.position_N3)))
    usable = {name: rows for name, rows in labels.items() if any(known.any() for *_, known in rows)}
    if not usable:
        raise ValueError(
            f"{processed}: no marked study has sagittal or axial slices with geometry near its marks; a locator cannot "
            "be trained"
        )
    for orientation, rows in usable.items():
        for part, column in zip(PARTS, zip(*rows, strict=True), strict=True):
            np.save(folder / f"{orientation}_{part}.npy", np.stack(column))


def _is_cached(folder: Path, orientation: str) -> bool:
    return (folder / f"{orientation}_{PARTS[0]}.npy").is_file()


def _open_cache(folder: Path, orientation: str) -> CachedImages:
    arrays = [np.load(folder / f"{orientation}_{part}.npy", allow_pickle=False) for part in PARTS]
    shape = (len(arrays[0]), 3, *SHAPES[orientation])
    return CachedImages(np.memmap(folder / f"{orientation}_grey.bin", dtype=np.uint8, mode="r", shape=shape), *arrays)


def sagittal_targets(frame: Frame, position_N3: Array) -> Targets:
    """Return the targets of the sagittal channels for one slice.

    Each level has two foramina but one channel for them: its landmark is the nearer one of those that are marked.

    Args:
        frame: The slice's frame.
        position_N3: Positions of `SITES` in mm, NaN where unmarked.
    """
    point, presence, known = _empty_targets(len(SAGITTAL_CHANNELS))
    for channel, (condition, level) in enumerate(SAGITTAL_CHANNELS):
        sides = (None,) if condition is Condition.SPINAL_CANAL_STENOSIS else tuple(Side)
        marked = [position_N3[SITES.index(Site(condition, side, level))] for side in sides]
        marked = [position for position in marked if np.isfinite(position).all()]
        if marked:
            position = min(marked, key=lambda candidate: abs(frame.distance_mm(candidate)))
            probability = np.exp(-0.5 * (frame.distance_mm(position) / SAGITTAL_PRESENCE_MM[condition]) ** 2)
            point[channel], presence[channel] = frame.to_pixel(position), probability
            # If only one foramen is marked, the target is unknown in slices on the other side.
            known[channel] = len(marked) == len(sides) or probability > 0.5
    return point, presence, known


def axial_targets(frame: Frame, position_N3: Array) -> Targets:
    """Return the targets of the axial channels for one slice: those of the nearest level. See `sagittal_targets`."""
    point, presence, known = _empty_targets(len(AXIAL_CHANNELS))
    level = nearest_level(frame, position_N3)
    if level is None:
        return point, presence, known
    for channel in range(len(AXIAL_CHANNELS)):
        position = position_N3[SITES.index(axial_site(channel, level))]
        if np.isfinite(position).all():
            point[channel] = frame.to_pixel(position)
            presence[channel] = np.exp(-0.5 * (frame.distance_mm(position) / AXIAL_PRESENCE_MM) ** 2)
            known[channel] = True
    return point, presence, known


def _empty_targets(channels: int) -> Targets:
    return np.zeros((channels, 2), np.float32), np.zeros(channels, np.float32), np.zeros(channels, bool)


def nearest_level(frame: Frame, position_N3: Array) -> Level | None:
    """Return the level whose canal lies nearest to the plane of an axial slice; None if no level has a position."""
    distance = {level: abs(frame.distance_mm(point)) for level, point in _level_points(position_N3).items()}
    return min(distance, key=lambda level: distance[level], default=None)


def _level_points(position_N3: Array) -> dict[Level, Array]:
    """Return a point in the canal of each level that has a position.

    If the canal itself has none, the point is the middle of the level's other sites, which lie within a few millimetres
    of it if both sides of the patient are marked.
    """
    points = {}
    for level in Level:
        canal = position_N3[SITES.index(Site(Condition.SPINAL_CANAL_STENOSIS, None, level))]
        own = position_N3[[index for index, site in enumerate(SITES) if site.level is level]]
        marked = own[np.isfinite(own).all(axis=1)]
        if np.isfinite(canal).all():
            points[level] = canal
        elif len(marked):
            points[level] = marked.mean(axis=0)
    return points


def level_axial_images(study: Study, position_N3: Array) -> list[SliceImage]:
    """Return the axial slice images near a level (`AXIAL_REACH_MM`), each centred on the canal of that level.

    position_N3: positions of `SITES` in mm, NaN where unknown.
    """
    images = []
    points = _level_points(position_N3)
    for slices in axial_triples(study):
        level = nearest_level(slices.frame, position_N3)
        if level is None:
            continue
        centre = points[level]
        if abs(slices.frame.distance_mm(centre)) <= AXIAL_REACH_MM:
            images.append(axial_image(slices, centre))
    return [image for image in images if image.has_contrast]
