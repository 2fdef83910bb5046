"""Heatmaps -> detections: the position of a site in the patient as one series shows it, with its probability.

The pose of the complete spine is found first, so that levels are rarely skipped: it is the pose that most peaks of all
levels support, among all poses that two peaks of the heatmaps define. Each site is then searched for around
the position that this pose predicts, slice by slice; the positions in the slices are averaged, weighted by the
probability that the site lies in each slice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Array, Frame
from data_prep.placement.pose import Pose, fit_pose
from data_prep.sites import SITES, Condition, Side, Site, View
from locator.network import AXIAL_CHANNELS, SAGITTAL_CHANNELS, axial_site
from locator.slices import SliceImage
from locator.spine_prior import Observation, SpinePrior
from locator.training_data import AXIAL_REACH_MM, nearest_level

Heatmaps = npt.NDArray[np.float32]

#: Peaks of one channel nearer to each other than this are merged.
MERGE_MM = 9.0
#: Number of peaks kept per channel, and the smallest weight of a peak as a share of the largest one's.
MAX_PEAKS, MIN_PEAK_SHARE = 3, 0.1
#: When poses are scored: standard deviation, in mm, of the distance of a peak from the position that a pose predicts.
SUPPORT_MM = 8.0
#: A site is searched for this far around its expected position: within a slice, and across slices.
SEARCH_MM, SEARCH_ACROSS_MM = 15.0, 12.0
#: The position in a slice is the mean of the heatmap this near to its peak.
PEAK_RADIUS_MM = 6.0
#: A site is not detected if its probability is smaller than this in every slice.
MIN_PROBABILITY = 0.15
#: A detection with this probability or more is as precise as detections of its kind are on average.
FULL_PROBABILITY = 0.6


@dataclass(frozen=True)
class Peak:
    """A position that the heatmaps of one sagittal channel support; its weight is summed over slices."""

    channel: int
    position_mm: Array
    weight: float


def spine_pose(images: Sequence[SliceImage], heatmaps: Sequence[Heatmaps], prior: SpinePrior) -> Pose | None:
    """Return the pose of the mean spine that most peaks support; None if no two peaks define a plausible pose.

    heatmaps: (C, H, W) for each sagittal image.
    """
    peaks = [peak for channel in range(len(SAGITTAL_CHANNELS)) for peak in channel_peaks(images, heatmaps, channel)]
    if not peaks:
        return None
    mean_N3 = np.array([_mean_position(prior, channel) for channel in range(len(SAGITTAL_CHANNELS))])
    shape = mean_N3[[peak.channel for peak in peaks]]
    position = np.array([peak.position_mm for peak in peaks])
    weight = np.array([peak.weight for peak in peaks])
    best, best_score = None, 0.0
    for one, other in combinations(range(len(peaks)), 2):
        if abs(shape[one, 2] - shape[other, 2]) < 40.0:  # two neighbouring levels define scale and tilt poorly
            continue
        pose = fit_pose(shape[[one, other]], position[[one, other]])
        if not pose.is_plausible:
            continue
        expected = pose.apply(mean_N3)[[peak.channel for peak in peaks]]
        distance = np.linalg.norm((expected - position)[:, 1:], axis=1)
        score = float((weight * np.exp(-0.5 * (distance / SUPPORT_MM) ** 2)).sum())
        score *= np.exp(-0.5 * (np.log(pose.scale) / 0.15) ** 2 - 0.5 * (pose.tilt / 0.25) ** 2)
        if score > best_score:
            near = distance < 2 * SUPPORT_MM
            best, best_score = fit_pose(shape[near], position[near]), score
    return best


def _mean_position(prior: SpinePrior, channel: int) -> Array:
    """Return a channel's position in the mean spine; for foramina, the midpoint between both sides."""
    condition, level = SAGITTAL_CHANNELS[channel]
    own = [index for index, site in enumerate(SITES) if site.condition is condition and site.level is level]
    middle: Array = prior.shape_N3[own].mean(axis=0)
    return middle


def channel_peaks(images: Sequence[SliceImage], heatmaps: Sequence[Heatmaps], channel: int) -> list[Peak]:
    """Return the strongest peaks of a channel over all slices; nearby peaks of different slices are merged.

    The x coordinate of a foramen's peak is meaningless, because foramina of both sides may be merged.
    """
    found: list[tuple[Array, float]] = []
    for image, heatmap_CHW in zip(images, heatmaps, strict=True):
        found += slice_peaks(image.frame, heatmap_CHW[channel])
    found.sort(key=lambda peak: -peak[1])
    groups: list[list[tuple[Array, float]]] = []
    for position, weight in found:
        for group in groups:
            if np.linalg.norm((group[0][0] - position)[1:]) < MERGE_MM:
                group.append((position, weight))
                break
        else:
            groups.append([(position, weight)])
    peaks = []
    for group in groups:
        weights = np.array([weight for _, weight in group])
        position = np.average([position for position, _ in group], axis=0, weights=weights)
        peaks.append(Peak(channel, position, float(weights.sum())))
    peaks.sort(key=lambda peak: -peak.weight)
    total = sum(peak.weight for peak in peaks)
    return [
        Peak(peak.channel, peak.position_mm, peak.weight / max(total, 1.0))
        for peak in peaks[:MAX_PEAKS]
        if peak.weight >= MIN_PEAK_SHARE * peaks[0].weight
    ]


def slice_peaks(frame: Frame, heatmap_HW: Heatmaps) -> list[tuple[Array, float]]:
    """Return the two strongest peaks of one heatmap: their positions in the patient and their probabilities."""
    rest, peaks = heatmap_HW.copy(), []
    for _ in range(2):
        peak = _highest_peak(frame, rest)
        if peak is None or peak.probability < 0.02:
            break
        peaks.append((frame.to_patient(peak.pixel), peak.probability))
        rest[peak.rows, peak.columns] = 0.0
    return peaks


@dataclass(frozen=True)
class _HeatmapPeak:
    """The surroundings of a heatmap's maximum: their mean (column, row) in pixels, and their total probability."""

    rows: slice
    columns: slice
    pixel: tuple[float, float]
    probability: float


def _highest_peak(frame: Frame, heatmap_HW: Heatmaps) -> _HeatmapPeak | None:
    row, column = np.unravel_index(int(np.argmax(heatmap_HW)), heatmap_HW.shape)
    radius = round(PEAK_RADIUS_MM / frame.spacing_mm[0])
    rows = slice(max(0, int(row) - radius), int(row) + radius + 1)
    columns = slice(max(0, int(column) - radius), int(column) + radius + 1)
    surroundings = heatmap_HW[rows, columns].astype(float)
    probability = float(surroundings.sum())
    if probability <= 0:
        return None
    mean_row = float(surroundings.sum(axis=1) @ np.arange(surroundings.shape[0])) / probability + rows.start
    mean_column = float(surroundings.sum(axis=0) @ np.arange(surroundings.shape[1])) / probability + columns.start
    return _HeatmapPeak(rows, columns, (mean_column, mean_row), probability)


@dataclass(frozen=True)
class Detection:
    """The position of a site in one series, with its probability.

    Attributes:
        index: Of the site in `SITES`.
        position_mm: Its position in the patient.
        probability: That of the slice in which the site is most probable.
        kind: Condition and view, from `DETECTION_KINDS`.
    """

    index: int
    position_mm: Array
    probability: float
    kind: str

    def to_observation(self, deviation_mm: Mapping[str, Array]) -> Observation:
        """Give the detection a covariance, which is larger for an improbable one.

        deviation_mm: for each kind, the standard deviations (3,) along the patient's axes of probable detections.
        """
        factor = max(1.0, FULL_PROBABILITY / self.probability)
        covariance = np.diag((deviation_mm[self.kind] * factor) ** 2)
        return Observation(self.index, self.position_mm, covariance, self.kind)


def sagittal_detections(
    images: Sequence[SliceImage], heatmaps: Sequence[Heatmaps], expected_N3: Array
) -> list[Detection]:
    """Return the sites that each sagittal series shows near their expected positions."""
    detections = []
    for series_id in sorted({image.slices.series.series_id for image in images}):
        own = [number for number, image in enumerate(images) if image.slices.series.series_id == series_id]
        for channel, (condition, level) in enumerate(SAGITTAL_CHANNELS):
            for side in (None,) if condition is Condition.SPINAL_CANAL_STENOSIS else tuple(Side):
                index = SITES.index(Site(condition, side, level))
                in_slices = ((images[number], heatmaps[number][channel]) for number in own)
                detections += _detect(index, in_slices, expected_N3[index])
    return detections


def axial_detections(images: Sequence[SliceImage], heatmaps: Sequence[Heatmaps], expected_N3: Array) -> list[Detection]:
    """Return the sites that axial slices show near their expected positions; each slice shows its nearest level."""
    in_slices: dict[int, list[tuple[SliceImage, Heatmaps]]] = {}
    for image, heatmap_CHW in zip(images, heatmaps, strict=True):
        level = nearest_level(image.frame, expected_N3)
        for channel in range(len(AXIAL_CHANNELS)) if level is not None else ():
            assert level is not None
            index = SITES.index(axial_site(channel, level))
            in_slices.setdefault(index, []).append((image, heatmap_CHW[channel]))
    return [
        detection
        for index, slices in sorted(in_slices.items())
        for detection in _detect(index, slices, expected_N3[index])
    ]


def _detect(index: int, in_slices: Iterable[tuple[SliceImage, Heatmaps]], expected_mm: Array) -> list[Detection]:
    """Detect one site in the slices of a series or view.

    Args:
        index: Of the site in `SITES`.
        in_slices: Images of one view, each with the site's heatmap.
        expected_mm: The expected position of the site.

    Returns:
        One detection, or none if no slice shows the site near the expected position.
    """
    positions, probabilities, view = [], [], None
    for image, heatmap_HW in in_slices:
        view = image.view
        if abs(image.frame.distance_mm(expected_mm)) > (AXIAL_REACH_MM if view is View.AXIAL_T2 else SEARCH_ACROSS_MM):
            continue
        peak = _highest_peak(image.frame, _mask_around(image.frame, heatmap_HW, expected_mm))
        if peak is not None:
            positions.append(image.frame.to_patient(peak.pixel))
            probabilities.append(peak.probability)
    if view is None or not probabilities or max(probabilities) < MIN_PROBABILITY:
        return []
    position = np.average(positions, axis=0, weights=probabilities)
    return [Detection(index, position, max(probabilities), detection_kind(SITES[index].condition, view))]


def _mask_around(frame: Frame, heatmap_HW: Heatmaps, expected_mm: Array) -> Heatmaps:
    """Set a heatmap to 0 except around an expected position."""
    column, row = frame.to_pixel(expected_mm)
    rows, columns = np.arange(heatmap_HW.shape[0])[:, None] - row, np.arange(heatmap_HW.shape[1])[None, :] - column
    inside = rows**2 + columns**2 <= (SEARCH_MM / frame.spacing_mm[0]) ** 2
    masked: Heatmaps = np.where(inside, heatmap_HW, 0).astype(np.float32)
    return masked


def detection_kind(condition: Condition, view: View) -> str:
    """Return the name of a kind of detection: the key of its standard deviations."""
    return f"{condition} in {view}"


DETECTION_KINDS = tuple(
    detection_kind(condition, view)
    for condition in Condition
    for view in View
    if view is View.AXIAL_T2 or condition is not Condition.SUBARTICULAR_STENOSIS
)
#: Standard deviations along x, y and z, in mm, before any are measured on held-out studies.
DEFAULT_DEVIATIONS_MM = {kind: np.array([2.5, 2.0, 2.5]) for kind in DETECTION_KINDS}
