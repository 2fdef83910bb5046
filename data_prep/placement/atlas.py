"""Where the 25 sites lie in a study that nobody marked: an atlas learned from marked ones.

The atlas is a mean spine: the mean position of each site, in mm from the middle of the five canal
sites, and a mean sagittal picture around them. It is laid on a new study by a `Pose`: a shift, one
scale, and one tilt in the sagittal plane. The pose comes, in this order, from the study's own marks
where it has enough, from matching the mean picture with its sagittal slices, or from where the
spine lies on average in such volumes. Only positions and pictures are learned, no grades.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.pose import Pose, fit_pose
from data_prep.placement.regions import Position, points_of, vector
from data_prep.placement.template_matching import (
    GRID_MM,
    Picture,
    Seen,
    in_mean_spine,
    look,
    match,
    nearest_sagittal,
    volume_middle,
)
from data_prep.sites import SITES, Condition, Level, Site, Source, View
from data_prep.studies.studies import Series, Study
from workspace.json_files import read_object

SCHEMA_VERSION = 1
#: Marks that a study needs before its pose is taken from them.
MARKS_FOR_POSE = 3
SAGITTAL = (View.SAGITTAL_T2_STIR, View.SAGITTAL_T1)

_LEVELS = np.array([list(Level).index(site.level) for site in SITES])
_IS_CANAL = np.array([site.condition is Condition.SPINAL_CANAL_STENOSIS for site in SITES])


@dataclass(frozen=True)
class Example:
    """What one marked study teaches: positions (25, 3) in mm, NaN where unmarked; middles of its volumes by view;
    and the sagittal pictures around its marks."""

    position_N3: Array
    middle_mm: Mapping[View, Array]
    seen: Mapping[View, Seen]


@dataclass(frozen=True)
class Atlas:
    """The mean spine.

    shape_N3: mean positions of `SITES`, NaN for one that no study marks; offset_mm and spread_mm: mean and standard
    deviation of the spine's middle from the middle of a view's volume; pictures: the mean picture of a sagittal view.
    """

    shape_N3: Array
    offset_mm: Mapping[View, Array]
    spread_mm: Mapping[View, Array]
    pictures: Mapping[View, Picture]
    studies: int

    def place(self, study: Study, known: Mapping[Site, Position]) -> dict[Site, Position]:
        """Positions of the sites that are not known; none where the study has no images with geometry."""
        known_N3 = points_of(known)
        pose = fit_pose(self.shape_N3, known_N3) if _enough(known_N3 + 0 * self.shape_N3) else None
        if pose is None or not pose.is_plausible:
            pose = self.find(study)
        if pose is None:
            return {}
        place_N3 = pose.apply(self.shape_N3)
        place_N3 = place_N3 + _level_shift(known_N3 - place_N3)
        return {
            site: Position(site, vector(place), Source.ATLAS)
            for site, place in zip(SITES, place_N3, strict=True)
            if site not in known and np.isfinite(place).all()
        }

    def find(self, study: Study) -> Pose | None:
        """The pose from the images alone: that of the sagittal view which the mean picture fits better."""
        matched: list[tuple[float, Pose]] = []
        usual: list[Pose] = []
        for view in (*SAGITTAL, View.AXIAL_T2):
            series = _largest(study, view)
            if series is None or view not in self.offset_mm:
                continue
            usual.append(Pose(volume_middle(series) + self.offset_mm[view]))
            if view in self.pictures:
                pose, score = match(self.pictures[view], series, usual[-1], self.spread_mm[view])
                matched.append((score, pose))
        if matched:
            return max(matched, key=lambda entry: entry[0])[1]
        return usual[0] if usual else None

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
            "sites": {
                site.key: place.round(3).tolist()
                for site, place in zip(SITES, self.shape_N3, strict=True)
                if np.isfinite(place).all()
            },
            "offset_mm": {view.value: offset.round(3).tolist() for view, offset in self.offset_mm.items()},
            "spread_mm": {view.value: spread.round(3).tolist() for view, spread in self.spread_mm.items()},
            "pictures": {view.value: picture.round(3).tolist() for view, picture in self.pictures.items()},
        }


def load_atlas(path: Path) -> Atlas:
    """Raises ValueError where the file is missing or is no atlas of this version."""
    if not path.exists():
        raise ValueError(f"{path}: no such file; prepare_data.py writes it from a marked train split")
    content = read_object(path, "prepare_data.py")
    try:
        if content["schema_version"] != SCHEMA_VERSION or content["grid_mm"] != GRID_MM:
            raise ValueError(f"schema version {content['schema_version']}, expected {SCHEMA_VERSION}")
        return Atlas(
            np.array([content["sites"].get(site.key, [np.nan] * 3) for site in SITES], dtype=float),
            {View(view): np.array(offset, dtype=float) for view, offset in content["offset_mm"].items()},
            {View(view): np.array(spread, dtype=float) for view, spread in content["spread_mm"].items()},
            {View(view): np.array(picture, dtype=np.float32) for view, picture in content["pictures"].items()},
            int(content["studies"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an atlas ({error}); prepare the train split again") from None


def example_of(study: Study, positions: Mapping[Site, Position]) -> Example | None:
    """What a study teaches; None where its marks do not fix a pose."""
    position_N3 = points_of(positions)
    if not _enough(position_N3) or not np.isfinite(position_N3[_IS_CANAL]).any():
        return None
    centre = np.nanmean(position_N3[_IS_CANAL], axis=0)
    middle, seen = {}, {}
    for view in View:
        series = _largest(study, view)
        if series is not None:
            middle[view] = volume_middle(series)
            if view.is_sagittal:
                seen[view] = Seen(centre, look(nearest_sagittal(series, centre[0])[0], centre))
    return Example(position_N3, middle, seen)


def learn_atlas(examples: Sequence[Example]) -> Atlas | None:
    """The mean spine of marked studies; None where no study has all five canal sites marked, or no two agree."""
    shape_N3 = _mean_shape([example.position_N3 for example in examples])
    if shape_N3 is None:
        return None
    # Marks that fix no pose, or an impossible one, teach nothing: one of them would spoil every mean.
    examples = [example for example in examples if _enough(example.position_N3 + 0 * shape_N3)]
    posed = [(example, fit_pose(shape_N3, example.position_N3)) for example in examples]
    posed = [(example, pose) for example, pose in posed if pose.is_plausible]
    offset, spread, pictures = {}, {}, {}
    for view in View:
        pairs = [(example, pose) for example, pose in posed if view in example.middle_mm]
        if pairs:
            from_middle = np.array([pose.origin_mm - example.middle_mm[view] for example, pose in pairs])
            offset[view] = np.median(from_middle, axis=0)
            spread[view] = np.maximum(1.5 * np.median(np.abs(from_middle - offset[view]), axis=0), [3.0, 6.0, 10.0])
        seen = [(example.seen[view], pose) for example, pose in pairs if view in example.seen]
        if seen:
            mean = np.mean([in_mean_spine(picture, pose) for picture, pose in seen], axis=0)
            pictures[view] = mean.astype(np.float32)
    return Atlas(shape_N3, offset, spread, pictures, len(posed))


def _largest(study: Study, view: View) -> Series | None:
    """The series of a view with the most slices that have a place; None where there is none."""
    placed = [series for series in study.of_view(view) if series.frames]
    return max(placed, key=lambda series: len(series.frames), default=None)


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
    canal = np.median([position[_IS_CANAL] - position[_IS_CANAL].mean(axis=0) for position in whole], axis=0)
    shape[_IS_CANAL] = canal
    for _ in range(4):
        aligned = []
        for position in positions:
            pose = fit_pose(shape, position) if _enough(position + 0 * shape) else None
            if pose is not None and pose.is_plausible:
                aligned.append(pose.invert(position))
        if not aligned:
            return None
        stacked = np.array(aligned)
        unmarked = np.isnan(stacked).all(axis=0)
        shape = np.nanmedian(np.where(unmarked, 0.0, stacked), axis=0)
        shape = np.where(unmarked, np.nan, shape - shape[_IS_CANAL].mean(axis=0))
    return shape
