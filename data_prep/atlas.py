"""Where the 25 sites lie in a study that nobody marked: an atlas learned from marked ones.

The atlas is a mean spine: the mean position of each site, in mm from the middle of the five canal
sites, and a mean sagittal picture around them. It is laid on a new study by a `Pose`: a shift, one
scale, and one tilt in the sagittal plane. The pose comes, in this order, from the study's own marks
where it has enough, from matching the mean picture with its sagittal slices (normalised
cross-correlation of the whole lumbar column at once, so that a level is hardly skipped), or from
where the middle of such volumes lies on average. Only positions and pictures are learned, no grades.

Axes of arrays: rows of a picture run to -z (caudal), columns to +y (posterior), `GRID_MM` a pixel.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.signal import fftconvolve

from data_prep.geometry import Array
from data_prep.regions import Position, vector
from data_prep.sites import SITES, Condition, Level, Site, Source, View
from data_prep.studies import Series, Slice, Study

SCHEMA_VERSION = 1
GRID_MM = 2.0
#: Half height (z) and half width (y) of what is seen of a study around where its column may be, in pixels.
SEEN = (70, 50)
#: The same of the mean picture: the lumbar column with half a vertebra at its ends, and its surroundings.
PICTURE = (50, 24)
#: Brightness is made local over this distance: surface coils shine on the back.
LOCAL_MM = 16.0
#: Marks that a study needs before its pose is taken from them.
MARKS_FOR_POSE = 3
SCALES = np.arange(0.82, 1.2, 0.06)
TILTS = np.deg2rad(np.arange(-15.0, 16.0, 5.0))
#: How much of the correlation (at most 1) a pose loses that lies one standard deviation from the usual.
PRIOR_WEIGHT = 0.01
SAGITTAL = (View.SAGITTAL_T2_STIR, View.SAGITTAL_T1)

Picture = npt.NDArray[np.float32]

_LEVELS = np.array([list(Level).index(site.level) for site in SITES])
_IS_CANAL = np.array([site.condition is Condition.SPINAL_CANAL_STENOSIS for site in SITES])


@dataclass(frozen=True)
class Pose:
    """Mean spine -> patient: ``origin_mm + scale * tilted(point)``; tilt in radians turns +y towards +z."""

    origin_mm: Array
    scale: float = 1.0
    tilt: float = 0.0

    def apply(self, point_N3: Array) -> Array:
        return self.origin_mm + self.scale * point_N3 @ _tilt(self.tilt).T

    def invert(self, point_N3: Array) -> Array:
        return (point_N3 - self.origin_mm) @ _tilt(self.tilt) / self.scale


def _tilt(angle: float) -> Array:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


@dataclass(frozen=True)
class Example:
    """What one marked study teaches: positions (25, 3) in mm, NaN where unmarked; middles of its volumes by view;
    and the sagittal pictures around its marks."""

    position_N3: Array
    middle_mm: Mapping[View, Array]
    seen: Mapping[View, "Seen"]


@dataclass(frozen=True)
class Seen:
    """A sagittal slice on the grid, with brightness made local: `centre_mm` is the patient place of its middle."""

    centre_mm: Array
    picture: Picture


@dataclass(frozen=True)
class Atlas:
    """The mean spine.

    shape_N3: mean positions of `SITES`; offset_mm and spread_mm: mean and standard deviation of the spine's
    middle from the middle of a view's volume; pictures: the mean picture of a sagittal view.
    """

    shape_N3: Array
    offset_mm: Mapping[View, Array]
    spread_mm: Mapping[View, Array]
    pictures: Mapping[View, Picture]
    studies: int

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Positions of the sites that are not known; none where the study has no images with geometry."""
        known_N3 = np.full((len(SITES), 3), np.nan)
        for site, position in known.items():
            known_N3[SITES.index(site)] = position.point_mm
        if _enough(known_N3):
            pose: Pose | None = fit_pose(self.shape_N3, known_N3)
        else:
            pose = self.find(study)
        if pose is None:
            return {}
        place_N3 = pose.apply(self.shape_N3)
        place_N3 = place_N3 + _level_shift(known_N3 - place_N3)
        return {
            site: Position(site, vector(place), Source.ATLAS)
            for site, place in zip(SITES, place_N3, strict=True)
            if site not in known
        }

    def find(self, study: Study) -> Pose | None:
        """The pose from the images alone."""
        for view in (*SAGITTAL, View.AXIAL_T2):
            series = max(study.of_view(view), key=lambda series: len(series.slices), default=None)
            if series is None or view not in self.offset_mm or not _placed(series):
                continue
            usual = Pose(_middle(series) + self.offset_mm[view])
            return self._match(series, view, usual) if view in self.pictures else usual
        return None

    def _match(self, series: Series, view: View, usual: Pose) -> Pose:
        """Search shift, scale and tilt on the slice where the middle usually is, then the slice, then again there."""
        slices = sorted(_placed(series), key=lambda image: abs(_x(image) - usual.origin_mm[0]))
        spread = self.spread_mm[view]
        coarse, _ = _search(self.pictures[view], look(slices[0], usual.origin_mm), usual, spread, SCALES, TILTS)
        scores = []
        for image in slices[:7]:
            fixed = np.array([coarse.scale]), np.array([coarse.tilt])
            _, score = _search(self.pictures[view], look(image, usual.origin_mm), usual, spread, *fixed)
            scores.append(score - PRIOR_WEIGHT * ((_x(image) - usual.origin_mm[0]) / spread[0]) ** 2)
        best = slices[int(np.argmax(scores))]
        scales = coarse.scale + np.arange(-0.04, 0.05, 0.02)
        tilts = coarse.tilt + np.deg2rad(np.arange(-4.0, 5.0, 2.0))
        fine, _ = _search(self.pictures[view], look(best, usual.origin_mm), usual, spread, scales, tilts)
        return Pose(np.array([_x(best), *fine.origin_mm[1:]]), fine.scale, fine.tilt)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self._to_json()).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """One JSON file, written by rename."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(self._to_json()) + "\n", encoding="utf-8")
        partial.replace(path)

    def _to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "studies": self.studies,
            "grid_mm": GRID_MM,
            "sites": {site.key: place.round(3).tolist() for site, place in zip(SITES, self.shape_N3, strict=True)},
            "offset_mm": {view.value: offset.round(3).tolist() for view, offset in self.offset_mm.items()},
            "spread_mm": {view.value: spread.round(3).tolist() for view, spread in self.spread_mm.items()},
            "pictures": {view.value: picture.round(3).tolist() for view, picture in self.pictures.items()},
        }


def load_atlas(path: Path) -> Atlas:
    """Raises ValueError where the file is missing or is no atlas of this version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION or content["grid_mm"] != GRID_MM:
            raise ValueError(f"schema version {content['schema_version']}, expected {SCHEMA_VERSION}")
        return Atlas(
            np.array([content["sites"][site.key] for site in SITES], dtype=float),
            {View(view): np.array(offset, dtype=float) for view, offset in content["offset_mm"].items()},
            {View(view): np.array(spread, dtype=float) for view, spread in content["spread_mm"].items()},
            {View(view): np.array(picture, dtype=np.float32) for view, picture in content["pictures"].items()},
            int(content["studies"]),
        )
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; prepare_data.py writes it from a marked train split") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an atlas ({error}); prepare the train split again") from None


def example_of(study: Study, positions: Mapping[Site, Position]) -> Example | None:
    """What a study teaches; None where its marks do not fix a pose."""
    position_N3 = np.full((len(SITES), 3), np.nan)
    for site, position in positions.items():
        position_N3[SITES.index(site)] = position.point_mm
    if not _enough(position_N3) or not np.isfinite(position_N3[_IS_CANAL]).any():
        return None
    centre = np.nanmean(position_N3[_IS_CANAL], axis=0)
    middle, seen = {}, {}
    for view in View:
        series = max(study.of_view(view), key=lambda series: len(series.slices), default=None)
        if series is not None and _placed(series):
            middle[view] = _middle(series)
            if view.is_sagittal:
                nearest = min(_placed(series), key=lambda image: abs(_x(image) - centre[0]))
                seen[view] = Seen(centre, look(nearest, centre))
    return Example(position_N3, middle, seen)


def learn_atlas(examples: Sequence[Example]) -> Atlas | None:
    """The mean spine of marked studies; None for no examples, or where no study marks some site."""
    shape_N3 = _mean_shape([example.position_N3 for example in examples])
    if shape_N3 is None:
        return None
    poses = [fit_pose(shape_N3, example.position_N3) for example in examples]
    offset, spread, pictures = {}, {}, {}
    for view in View:
        pairs = [(example, pose) for example, pose in zip(examples, poses, strict=True) if view in example.middle_mm]
        if pairs:
            from_middle = np.array([pose.origin_mm - example.middle_mm[view] for example, pose in pairs])
            offset[view] = np.median(from_middle, axis=0)
            spread[view] = np.maximum(1.5 * np.median(np.abs(from_middle - offset[view]), axis=0), [3.0, 6.0, 10.0])
        seen = [(example.seen[view], pose) for example, pose in pairs if view in example.seen]
        if seen:
            mean = np.mean([_in_mean_spine(picture, pose) for picture, pose in seen], axis=0)
            pictures[view] = mean.astype(np.float32)
    return Atlas(shape_N3, offset, spread, pictures, len(examples))


def fit_pose(shape_N3: Array, position_N3: Array) -> Pose:
    """Least squares over the positions that are finite (Umeyama 1991, in the sagittal plane as complex numbers).

    Of one level alone no scale and tilt can be told: they stay 1 and 0.
    """
    found = np.isfinite(position_N3).all(axis=1)
    shape, place = shape_N3[found], position_N3[found]
    shape_middle, place_middle = shape.mean(axis=0), place.mean(axis=0)
    scale, tilt = 1.0, 0.0
    if len(set(_LEVELS[found])) > 1:
        q, p = (points[:, 1] + 1j * points[:, 2] for points in (shape - shape_middle, place - place_middle))
        turn = np.vdot(q, p) / np.vdot(q, q)
        scale, tilt = float(abs(turn)), float(np.angle(turn))
    return Pose(place_middle - scale * _tilt(tilt) @ shape_middle, scale, tilt)


def _enough(position_N3: Array) -> bool:
    found = np.isfinite(position_N3).all(axis=1)
    return bool(found.sum() >= MARKS_FOR_POSE and len(set(_LEVELS[found])) > 1)


def _level_shift(residual_N3: Array) -> Array:
    """(25, 3): the mean residual of each level's known sites, to be added to its unknown ones."""
    shift = np.zeros_like(residual_N3)
    for level in range(len(Level)):
        here = level == _LEVELS
        known = here & np.isfinite(residual_N3).all(axis=1)
        if known.any():
            shift[here] = residual_N3[known].mean(axis=0)
    return shift


def _mean_shape(positions: Sequence[Array]) -> Array | None:
    """Generalised Procrustes with missing points: align all to the mean, average, again; scale and tilt average out."""
    whole = [position for position in positions if np.isfinite(position[_IS_CANAL]).all()]
    if not whole:
        return None
    shape = np.full((len(SITES), 3), np.nan)
    canal = np.mean([position[_IS_CANAL] - position[_IS_CANAL].mean(axis=0) for position in whole], axis=0)
    shape[_IS_CANAL] = canal
    for _ in range(4):
        aligned = []
        for position in positions:
            both = np.where(np.isfinite(shape), position, np.nan)
            if _enough(both):
                aligned.append(fit_pose(shape, both).invert(position))
        stacked = np.array(aligned)
        if np.isnan(stacked).all(axis=0).any():
            return None
        shape = np.nanmedian(stacked, axis=0)
        shape = shape - shape[_IS_CANAL].mean(axis=0)
    return shape


def look(image: Slice, centre_mm: Array) -> Picture:
    """A sagittal slice on the grid around a place: (2 * SEEN + 1), brightness made local, 0 off the image."""
    frame = image.frame
    assert frame is not None
    grey = gaussian_filter(image.grey.astype(np.float32), [0.4 * GRID_MM / spacing for spacing in frame.spacing_mm])
    z, y = (np.arange(-half, half + 1) * GRID_MM for half in SEEN)
    column, row = frame.to_pixel((_x(image), centre_mm[1], centre_mm[2]))
    # Pixel steps of one mm along patient y and z, in the plane of the image.
    along_row, down_column = np.array(frame.row_direction), np.array(frame.column_direction)
    columns = column + (along_row[1] * y[None, :] - along_row[2] * z[:, None]) / frame.spacing_mm[1]
    rows = row + (down_column[1] * y[None, :] - down_column[2] * z[:, None]) / frame.spacing_mm[0]
    picture: Picture = map_coordinates(grey, [rows, columns], order=1, cval=0.0)
    inside = (rows >= 0) & (rows <= frame.shape[0] - 1) & (columns >= 0) & (columns <= frame.shape[1] - 1)
    return _made_local(picture, inside.astype(np.float32))


def _made_local(picture: Picture, inside: Picture) -> Picture:
    """Each pixel in standard deviations from the mean of its surroundings."""

    def around(values: Picture) -> Picture:
        blurred: Picture = gaussian_filter(values * inside, LOCAL_MM / GRID_MM)
        return blurred / np.maximum(gaussian_filter(inside, LOCAL_MM / GRID_MM), 1e-3)

    from_mean = picture - around(picture)
    deviation = np.sqrt(around(from_mean**2))
    local: Picture = np.clip(from_mean / np.maximum(deviation, 4.0), -3, 3) * inside
    return local


def _in_mean_spine(seen: Seen, pose: Pose) -> Picture:
    """A study's picture as the mean spine's grid sees it."""
    return _sample(seen.picture, _picture_grid(pose.scale, pose.tilt, pose.origin_mm - seen.centre_mm))


def _picture_grid(scale: float, tilt: float, shift_mm: Array) -> Array:
    """(3, rows, columns) in mm: where the mean picture's pixels lie in a study, from the study's own middle."""
    z, y = np.meshgrid(*(np.arange(-half, half + 1) * GRID_MM for half in PICTURE), indexing="ij")
    points = np.stack([np.zeros_like(y), y, -z], axis=-1)
    return np.moveaxis(shift_mm + scale * points @ _tilt(tilt).T, -1, 0)


def _sample(picture: Picture, place_3HW: Array) -> Picture:
    half_rows, half_columns = (np.array(picture.shape) - 1) / 2
    rows, columns = half_rows - place_3HW[2] / GRID_MM, half_columns + place_3HW[1] / GRID_MM
    sampled: Picture = map_coordinates(picture, [rows, columns], order=1, cval=0.0)
    return sampled


def _search(
    picture: Picture, seen: Picture, usual: Pose, spread_mm: Array, scales: Array, tilts: Array
) -> tuple[Pose, float]:
    """The pose whose picture correlates best with what is seen around the usual one, and its score."""
    rows, columns = ((np.arange(size) - (size - 1) / 2) * GRID_MM for size in seen.shape)
    far = (rows[:, None] / spread_mm[2]) ** 2 + (columns[None, :] / spread_mm[1]) ** 2
    best, best_score = usual, -np.inf
    for scale in scales:
        for tilt in tilts:
            # The mean picture as it would look in this study: sample it where the inverse pose leads.
            turned = _posed(picture, float(scale), float(tilt))
            weight = (turned != 0).astype(np.float32)
            overlap = fftconvolve(seen, turned[::-1, ::-1], mode="same")
            energy = fftconvolve(seen**2, weight[::-1, ::-1], mode="same")
            # Where little is seen the energy is little too: half of a whole view's is the least that counts.
            least = 0.5 * float(weight.sum()) * float(np.mean(seen**2))
            score = overlap / np.sqrt(np.maximum(energy, least) * float((turned**2).sum()))
            unusual = ((scale - 1) / 0.08) ** 2 + (tilt / np.deg2rad(6)) ** 2
            score = score - PRIOR_WEIGHT * (far + unusual)
            row, column = np.unravel_index(int(np.argmax(score)), score.shape)
            if score[row, column] > best_score:
                best_score = float(score[row, column])
                shift = np.array([0.0, columns[column], -rows[row]])
                best = Pose(usual.origin_mm + shift, float(scale), float(tilt))
    return best, best_score


def _posed(picture: Picture, scale: float, tilt: float) -> Picture:
    """The mean picture, scaled and tilted about its middle."""
    half_rows, half_columns = (int(np.ceil(half * 1.2)) for half in PICTURE)
    z, y = np.meshgrid(
        np.arange(-half_rows, half_rows + 1) * GRID_MM, np.arange(-half_columns, half_columns + 1) * GRID_MM,
        indexing="ij",
    )  # fmt: skip
    points = np.stack([np.zeros_like(y), y, -z], axis=-1) @ _tilt(tilt) / scale
    return _sample(picture, np.moveaxis(points, -1, 0))


def _placed(series: Series) -> list[Slice]:
    """Slices whose place is known and that lie as the series' view says."""
    assert series.view is not None
    placed = [image for image in series.slices if image.frame is not None]
    return [image for image in placed if image.frame and image.frame.is_sagittal == series.view.is_sagittal]


def _middle(series: Series) -> Array:
    """Middle of the box around the centres of a series' slices."""
    centres = np.array([image.frame.centre_mm for image in _placed(series) if image.frame is not None])
    middle: Array = (centres.min(axis=0) + centres.max(axis=0)) / 2
    return middle


def _x(image: Slice) -> float:
    assert image.frame is not None
    return float(image.frame.centre_mm[0])
