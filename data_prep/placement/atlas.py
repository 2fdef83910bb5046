"""The atlas: positions of the 25 sites in unannotated studies, learned from marked studies.

The atlas is a mean spine: the mean position of each site, in mm from the centre of the five canal
sites, and for each sagittal view a template, the mean image around that centre. A `Pose` (a translation,
one scale, and one tilt in the sagittal plane) aligns it with a new study. The pose is estimated from the
study's own marks if they suffice, otherwise by matching the template with the sagittal slices, otherwise
from the mean position of the spine in such volumes. The atlas holds positions and images, no grades.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import erf, exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import Array
from data_prep.placement.pose import Pose, fit_pose
from data_prep.placement.regions import Position, points_of, vector
from data_prep.placement.template_matching import (
    GRID_MM,
    GridImage,
    Match,
    Patch,
    in_mean_spine,
    match,
    nearest_sagittal,
    resample,
    volume_middle,
)
from data_prep.sites import SITES, Condition, Level, Site, Source, View
from data_prep.studies.studies import Series, Study
from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
#: Marks that a study needs for its pose to be estimated from them.
MARKS_FOR_POSE = 3
#: Share of phantom studies of unknown scanners whose levels an atlas placed rightly by its templates; with the
#: sagittal template, a difference of scores of `SCORE_TEMPERATURE` means odds of e to 1 against the next level.
LEVEL_ACCURACY, SCORE_TEMPERATURE = 0.97, 0.03
#: Level confidence of sites that are placed by the marks of the same study.
KNOWN_LEVELS_CONFIDENCE = 0.99
#: Expected errors apart from miscounted levels, mm: of sites that the atlas places by other sites of the same study,
#: and by its templates.
ALIGNED_ERROR_MM, FOUND_ERROR_MM = 4.0, 5.0
#: Length of the sacrum below the lowest disc from which levels can be counted, and what the level confidence is
#: multiplied by if less of it is imaged.
SACRUM_MM, UNSEEN_SACRUM_FACTOR = 20.0, 0.5
SAGITTAL = (View.SAGITTAL_T2_STIR, View.SAGITTAL_T1)

_LEVELS = np.array([list(Level).index(site.level) for site in SITES])
_IS_CANAL = np.array([site.condition is Condition.SPINAL_CANAL_STENOSIS for site in SITES])


@dataclass(frozen=True)
class Example:
    """One marked study, in the form from which an atlas is learned.

    Attributes:
        position_N3: Positions of the sites, (25, 3) in mm; NaN for unmarked sites.
        middle_mm: Centre of the volume of each view that the study has.
        patches: The slice through the spine's centre, around that centre, of each sagittal view.
    """

    position_N3: Array
    middle_mm: Mapping[View, Array]
    patches: Mapping[View, Patch]


@dataclass(frozen=True)
class Atlas:
    """The mean spine, its position in volumes, and its image.

    Attributes:
        shape_N3: Mean positions of `SITES` in mm; NaN for a site that no study marks.
        offset_mm: For each view, the mean of the spine's centre minus the centre of the volume.
        deviation_mm: For each view, the standard deviation of that difference.
        templates: For each sagittal view, the mean image around the spine's centre.
        studies: Number of studies that the atlas was learned from.
        level_accuracy: Share of studies in which it places the sites on the right levels: the largest level confidence
            of its positions. It is not part of the file.
    """

    shape_N3: Array
    offset_mm: Mapping[View, Array]
    deviation_mm: Mapping[View, Array]
    templates: Mapping[View, GridImage]
    studies: int
    level_accuracy: float = field(default=LEVEL_ACCURACY, compare=False)

    def place(
        self, study: Study, known: Mapping[Site, Position], largest_confidence: float = 1.0
    ) -> dict[Site, Position]:
        """Return positions of the sites that are not in `known`; empty for a study without images with geometry.

        Their level confidence is at most `largest_confidence`.
        """
        known_N3 = points_of(known)
        pose = fit_pose(self.shape_N3, known_N3) if _fixes_pose(known_N3 + 0 * self.shape_N3) else None
        if pose is not None and pose.is_plausible:
            # The sites to be placed are no more certain than the least certain of those that fix the pose.
            confidence = min(self._confidence_of(position) for position in known.values())
            error_mm = ALIGNED_ERROR_MM
        else:
            found = self._find(study)
            if found is None:
                return {}
            pose, confidence = found
            confidence *= self._sacrum_factor(study, pose)
            error_mm = FOUND_ERROR_MM
        confidence = min(confidence, largest_confidence)
        level_mm = pose.scale * self._level_mm
        expected_error_mm = round(float(np.sqrt(error_mm**2 + (1 - confidence) * level_mm**2)), 2)
        position_N3 = pose.apply(self.shape_N3)
        position_N3 = position_N3 + _level_shift(known_N3 - position_N3)
        return {
            site: Position(
                site,
                vector(point),
                Source.ATLAS,
                expected_error_mm=expected_error_mm,
                level_confidence=round(confidence, 4),
            )
            for site, point in zip(SITES, position_N3, strict=True)
            if site not in known and np.isfinite(point).all()
        }

    def find(self, study: Study) -> Pose | None:
        """Estimate the pose from the images alone; None if no view has images with geometry.

        Of the two sagittal views, the one with the better match of its template is used. Without a match, the pose is
        the mean one for the first view of the study.
        """
        found = self._find(study)
        return None if found is None else found[0]

    def _find(self, study: Study) -> tuple[Pose, float] | None:
        """Return the pose, and the probability that its levels are the right ones; None as in `find`."""
        matched: list[Match] = []
        mean_poses: list[Pose] = []
        unmatched_mm = 0.0
        for view in (*SAGITTAL, View.AXIAL_T2):
            series = _largest(study, view)
            if series is None or view not in self.offset_mm:
                continue
            mean_poses.append(Pose(volume_middle(series) + self.offset_mm[view]))
            if view in self.templates:
                matched.append(match(self.templates[view], series, mean_poses[-1], self.deviation_mm[view]))
            unmatched_mm = unmatched_mm or float(self.deviation_mm[view][2])
        if matched:
            best = max(matched, key=lambda one: one.score)
            return best.pose, self.level_accuracy / (1 + exp((best.next_score - best.score) / SCORE_TEMPERATURE))
        if not mean_poses:
            return None
        # The share of a normal distribution of heights that lies within half a level of its mean.
        return mean_poses[0], self.level_accuracy * erf(self._level_mm / 2 / (sqrt(2) * unmatched_mm))

    def _confidence_of(self, known: Position) -> float:
        """Return the level confidence of a known position; one of unknown confidence is trusted like the atlas."""
        if known.source is Source.ANNOTATED:
            return KNOWN_LEVELS_CONFIDENCE
        return self.level_accuracy if known.level_confidence is None else known.level_confidence

    @cached_property
    def _level_mm(self) -> float:
        """Distance of two neighbouring levels in the mean spine."""
        height = self.shape_N3[_IS_CANAL][:, 2]
        return float(np.nanmax(height) - np.nanmin(height)) / max(int(np.isfinite(height).sum()) - 1, 1)

    def _sacrum_factor(self, study: Study, pose: Pose) -> float:
        """Return by what the level confidence is multiplied: levels cannot be counted without the sacrum."""
        lowest = [
            frame.to_patient(np.array([[0, 0], [0, frame.shape[0] - 1], [frame.shape[1] - 1, frame.shape[0] - 1]]))[
                :, 2
            ]
            for view in SAGITTAL
            for series in study.of_view(view)
            for frame in series.frames.values()
        ]
        lowest_canal_mm = float(np.nanmin(pose.apply(self.shape_N3)[_IS_CANAL][:, 2]))
        if not lowest or lowest_canal_mm - float(np.min(lowest)) >= SACRUM_MM:
            return 1.0
        return UNSEEN_SACRUM_FACTOR

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the content of the atlas's file."""
        return hashlib.sha256(json.dumps(self._to_json()).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the atlas to a JSON file, by rename."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(self._to_json()) + "\n", encoding="utf-8")

    def _to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "studies": self.studies,
            "grid_mm": GRID_MM,
            "sites": {
                site.key: point.round(3).tolist()
                for site, point in zip(SITES, self.shape_N3, strict=True)
                if np.isfinite(point).all()
            },
            "offset_mm": {view.value: offset.round(3).tolist() for view, offset in self.offset_mm.items()},
            "spread_mm": {view.value: deviation.round(3).tolist() for view, deviation in self.deviation_mm.items()},
            "pictures": {view.value: template.round(3).tolist() for view, template in self.templates.items()},
        }


def load_atlas(path: Path) -> Atlas:
    """Read an atlas. Raises ValueError if the file does not exist or is not an atlas of this version."""
    if not path.exists():
        raise ValueError(f"{path}: no such file; prepare_data.py writes it for a train split with marks")
    content = read_object(path, "prepare_data.py")
    try:
        if content["schema_version"] != SCHEMA_VERSION or content["grid_mm"] != GRID_MM:
            raise ValueError(f"schema version {content['schema_version']}, expected {SCHEMA_VERSION}")
        return Atlas(
            np.array([content["sites"].get(site.key, [np.nan] * 3) for site in SITES], dtype=float),
            {View(view): np.array(offset, dtype=float) for view, offset in content["offset_mm"].items()},
            {View(view): np.array(deviation, dtype=float) for view, deviation in content["spread_mm"].items()},
            {View(view): np.array(template, dtype=np.float32) for view, template in content["pictures"].items()},
            int(content["studies"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an atlas ({error}); prepare the train split again") from None


def example_of(study: Study, positions: Mapping[Site, Position], known_shape_N3: Array | None = None) -> Example | None:
    """Return a marked study as an example for `learn_atlas`; None if its marks do not determine a pose.

    The centre of a spine is the mean of its marked canal sites. Of a study without any, it follows from the other marks
    and a mean spine that is known already (`known_shape_N3`); without that, such a study is no example.
    """
    position_N3 = points_of(positions)
    if not _fixes_pose(position_N3):
        return None
    canal_N3 = position_N3[_IS_CANAL]
    if not np.isfinite(canal_N3).any():
        if known_shape_N3 is None:
            return None
        canal_N3 = _completed(position_N3, known_shape_N3)[_IS_CANAL]
    centre = np.nanmean(canal_N3, axis=0)
    middle, patches = {}, {}
    for view in View:
        series = _largest(study, view)
        if series is not None:
            middle[view] = volume_middle(series)
            if view.is_sagittal:
                patches[view] = Patch(centre, resample(nearest_sagittal(series, centre[0])[0], centre))
    return Example(position_N3, middle, patches)


def learn_atlas(examples: Sequence[Example], known_shape_N3: Array | None = None) -> Atlas | None:
    """Learn the mean spine of marked studies.

    Sites that no study marks have the position relative to the others that they have in a mean spine that is known
    already (`known_shape_N3`, (25, 3) in mm), as the shipped atlas's; without that, they have none.

    Returns None if no study can be aligned with the mean shape, or, without `known_shape_N3`, if no study has marks of
    all five canal sites.
    """
    shape_N3 = _mean_shape([example.position_N3 for example in examples], known_shape_N3)
    if shape_N3 is None:
        return None
    # A single study whose marks determine no pose, or an impossible one, would spoil every mean.
    examples = [example for example in examples if _fixes_pose(example.position_N3 + 0 * shape_N3)]
    posed = [(example, fit_pose(shape_N3, example.position_N3)) for example in examples]
    posed = [(example, pose) for example, pose in posed if pose.is_plausible]
    offset, deviation, templates = {}, {}, {}
    for view in View:
        pairs = [(example, pose) for example, pose in posed if view in example.middle_mm]
        if pairs:
            from_middle = np.array([pose.origin_mm - example.middle_mm[view] for example, pose in pairs])
            offset[view] = np.median(from_middle, axis=0)
            # 1.5 median absolute deviations are about one standard deviation of a normal distribution.
            from_median = 1.5 * np.median(np.abs(from_middle - offset[view]), axis=0)
            deviation[view] = np.maximum(from_median, [3.0, 6.0, 10.0])
        patches = [(example.patches[view], pose) for example, pose in pairs if view in example.patches]
        if patches:
            mean = np.mean([in_mean_spine(patch, pose) for patch, pose in patches], axis=0)
            templates[view] = mean.astype(np.float32)
    return Atlas(shape_N3, offset, deviation, templates, len(posed))


def _largest(study: Study, view: View) -> Series | None:
    """Return the series of a view with the most slices with geometry; None if there is no such slice."""
    candidates = [series for series in study.of_view(view) if series.frames]
    return max(candidates, key=lambda series: len(series.frames), default=None)


def _fixes_pose(position_N3: Array) -> bool:
    """Return whether enough positions are finite to determine a pose: `MARKS_FOR_POSE`, of two levels at least."""
    found = np.isfinite(position_N3).all(axis=1)
    return bool(found.sum() >= MARKS_FOR_POSE and len(set(_LEVELS[found])) > 1)


def _level_shift(residual_N3: Array) -> Array:
    """Return for each site the mean residual of its level's known sites, (25, 3); 0 for a level without any."""
    shift = np.zeros_like(residual_N3)
    for level in range(len(Level)):
        here = level == _LEVELS
        known = here & np.isfinite(residual_N3).all(axis=1)
        if known.any():
            shift[here] = residual_N3[known].mean(axis=0)
    return shift


def _completed(position_N3: Array, shape_N3: Array) -> Array:
    """Return the positions, (25, 3), with those that are not known placed relative to the others as in a mean spine."""
    found = np.asarray(np.isfinite(position_N3).all(axis=1))
    if found.all():
        return position_N3
    placed_N3 = fit_pose(shape_N3, position_N3).apply(shape_N3)
    placed_N3 = placed_N3 + _level_shift(position_N3 - placed_N3)
    return np.where(found[:, None], position_N3, placed_N3)


def _mean_shape(positions: Sequence[Array], known_shape_N3: Array | None) -> Array | None:
    """Return the median shape by generalised Procrustes analysis with missing points, (25, 3); None if impossible.

    All studies are aligned with the shape, and the shape becomes their median; this is repeated. Scale and tilt are
    averaged in this way too. It starts from the canal sites of the studies that have all five, or else from
    `known_shape_N3`.
    """
    complete = [position for position in positions if np.isfinite(position[_IS_CANAL]).all()]
    if complete:
        shape = np.full((len(SITES), 3), np.nan)
        canal = np.median([position[_IS_CANAL] - position[_IS_CANAL].mean(axis=0) for position in complete], axis=0)
        shape[_IS_CANAL] = canal
    elif known_shape_N3 is not None:
        shape = known_shape_N3
    else:
        return None
    for _ in range(4):
        aligned = []
        for position in positions:
            pose = fit_pose(shape, position) if _fixes_pose(position + 0 * shape) else None
            if pose is not None and pose.is_plausible:
                aligned.append(pose.invert(position))
        if not aligned:
            return None
        stacked = np.array(aligned)
        unmarked = np.isnan(stacked).all(axis=0)
        shape = np.where(unmarked, np.nan, np.nanmedian(np.where(unmarked, 0.0, stacked), axis=0))
        if known_shape_N3 is not None:
            shape = _completed(shape, known_shape_N3)
        shape = shape - shape[_IS_CANAL].mean(axis=0)
    return shape
