"""From the networks' maps to observations: where in the patient each site was seen, in which view, how surely.

The column as a whole is found first, so that a level is hardly skipped: of all poses that two of the maps' peaks
allow, the one that most peaks of all levels agree with. Then each site is looked for around where that pose expects
it, slice by slice; the slices' places are averaged by how much each slice is the site's own.
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
from locator.slices import Picture
from locator.spine_prior import Observation, SpinePrior
from locator.training_data import AXIAL_REACH_MM, nearest_level

Maps = npt.NDArray[np.float32]

#: Peaks of one channel nearer than this are one.
ONE_PEAK_MM = 9.0
#: Peaks kept of each channel, and the share of the strongest one's mass that the least must have.
PEAKS, LEAST_PEAK = 3, 0.1
#: How near a peak must lie to a pose's place to speak for it (deviation, mm).
AGREE_MM = 8.0
#: A site is looked for this far around where it is expected: in the slice, and across slices.
GATE_MM, GATE_ACROSS_MM = 15.0, 12.0
#: The place in a slice is the mean of the map this near to its peak.
CORE_MM = 6.0
#: A site whose surest slice has less mass than this was not seen.
LEAST_MASS = 0.15
#: A site seen with this mass, or more, is as well placed as such sites are on average.
SURE_MASS = 0.6


@dataclass(frozen=True)
class Peak:
    """A place that one channel of the sagittal maps points to, by the mass of all slices that do."""

    channel: int
    place_mm: Array
    mass: float


def column_pose(pictures: Sequence[Picture], maps: Sequence[Maps], prior: SpinePrior) -> Pose | None:
    """The pose of the mean spine that most peaks agree with; None where there are not two levels' peaks.

    maps: (C, H, W) of each sagittal picture.
    """
    peaks = [peak for channel in range(len(SAGITTAL_CHANNELS)) for peak in channel_peaks(pictures, maps, channel)]
    if not peaks:
        return None
    middle_N3 = np.array([_sagittal_middle(prior, channel) for channel in range(len(SAGITTAL_CHANNELS))])
    shape = middle_N3[[peak.channel for peak in peaks]]
    place = np.array([peak.place_mm for peak in peaks])
    mass = np.array([peak.mass for peak in peaks])
    best, best_score = None, 0.0
    for one, other in combinations(range(len(peaks)), 2):
        if abs(shape[one, 2] - shape[other, 2]) < 40.0:  # neighbours tell scale and tilt badly
            continue
        pose = fit_pose(shape[[one, other]], place[[one, other]])
        if not pose.is_plausible:
            continue
        expected = pose.apply(middle_N3)[[peak.channel for peak in peaks]]
        apart = np.linalg.norm((expected - place)[:, 1:], axis=1)
        score = float((mass * np.exp(-0.5 * (apart / AGREE_MM) ** 2)).sum())
        score *= np.exp(-0.5 * (np.log(pose.scale) / 0.15) ** 2 - 0.5 * (pose.tilt / 0.25) ** 2)
        if score > best_score:
            near = apart < 2 * AGREE_MM
            best, best_score = fit_pose(shape[near], place[near]), score
    return best


def _sagittal_middle(prior: SpinePrior, channel: int) -> Array:
    """A channel's place in the mean spine; of the foramina that between both sides."""
    condition, level = SAGITTAL_CHANNELS[channel]
    own = [index for index, site in enumerate(SITES) if site.condition is condition and site.level is level]
    middle: Array = prior.shape_N3[own].mean(axis=0)
    return middle


def channel_peaks(pictures: Sequence[Picture], maps: Sequence[Maps], channel: int) -> list[Peak]:
    """The strongest places of a channel over all slices; slices that point to the same place add up.

    A peak's x is of no worth for foramina, which have two sides.
    """
    found: list[tuple[Array, float]] = []
    for picture, map_CHW in zip(pictures, maps, strict=True):
        found += slice_peaks(picture.frame, map_CHW[channel])
    found.sort(key=lambda place_mass: -place_mass[1])
    groups: list[list[tuple[Array, float]]] = []
    for place, mass in found:
        for group in groups:
            if np.linalg.norm((group[0][0] - place)[1:]) < ONE_PEAK_MM:
                group.append((place, mass))
                break
        else:
            groups.append([(place, mass)])
    peaks = []
    for group in groups:
        masses = np.array([mass for _, mass in group])
        place = np.average([place for place, _ in group], axis=0, weights=masses)
        peaks.append(Peak(channel, place, float(masses.sum())))
    peaks.sort(key=lambda peak: -peak.mass)
    total = sum(peak.mass for peak in peaks)
    return [
        Peak(peak.channel, peak.place_mm, peak.mass / max(total, 1.0))
        for peak in peaks[:PEAKS]
        if peak.mass >= LEAST_PEAK * peaks[0].mass
    ]


def slice_peaks(frame: Frame, map_HW: Maps) -> list[tuple[Array, float]]:
    """The two strongest places of one map, in the patient, with their mass."""
    rest, peaks = map_HW.copy(), []
    for _ in range(2):
        core = _core(frame, rest)
        if core is None or core.mass < 0.02:
            break
        peaks.append((frame.to_patient(core.pixel), core.mass))
        rest[core.rows, core.columns] = 0.0
    return peaks


@dataclass(frozen=True)
class _Core:
    """The surroundings of a map's peak: mean (column, row) in pixels, and mass."""

    rows: slice
    columns: slice
    pixel: tuple[float, float]
    mass: float


def _core(frame: Frame, map_HW: Maps) -> _Core | None:
    row, column = np.unravel_index(int(np.argmax(map_HW)), map_HW.shape)
    reach = round(CORE_MM / frame.spacing_mm[0])
    rows = slice(max(0, int(row) - reach), int(row) + reach + 1)
    columns = slice(max(0, int(column) - reach), int(column) + reach + 1)
    core = map_HW[rows, columns].astype(float)
    mass = float(core.sum())
    if mass <= 0:
        return None
    mean_row = float(core.sum(axis=1) @ np.arange(core.shape[0])) / mass + rows.start
    mean_column = float(core.sum(axis=0) @ np.arange(core.shape[1])) / mass + columns.start
    return _Core(rows, columns, (mean_column, mean_row), mass)


@dataclass(frozen=True)
class Sighting:
    """A site seen in one series: the place, and the mass of the slice that is surest."""

    index: int
    place_mm: Array
    mass: float
    kind: str

    def observation(self, deviation_mm: Mapping[str, Array]) -> Observation:
        """deviation_mm: of each kind, (3,) along the patient's axes, of sites that are seen surely."""
        unsure = max(1.0, SURE_MASS / self.mass)
        return Observation(self.index, self.place_mm, np.diag((deviation_mm[self.kind] * unsure) ** 2), self.kind)


def sagittal_sightings(pictures: Sequence[Picture], maps: Sequence[Maps], expected_N3: Array) -> list[Sighting]:
    """Every site that sagittal maps may show, looked for around where it is expected, series by series."""
    sightings = []
    for series_id in sorted({picture.place.series.series_id for picture in pictures}):
        own = [number for number, picture in enumerate(pictures) if picture.place.series.series_id == series_id]
        for channel, (condition, level) in enumerate(SAGITTAL_CHANNELS):
            for side in (None,) if condition is Condition.SPINAL_CANAL_STENOSIS else tuple(Side):
                index = SITES.index(Site(condition, side, level))
                shown = ((pictures[number], maps[number][channel]) for number in own)
                sightings += _sighting(index, shown, expected_N3[index])
    return sightings


def axial_sightings(pictures: Sequence[Picture], maps: Sequence[Maps], expected_N3: Array) -> list[Sighting]:
    """The same of axial maps: each slice speaks for the level that is nearest to it."""
    shown: dict[int, list[tuple[Picture, Maps]]] = {}
    for picture, map_CHW in zip(pictures, maps, strict=True):
        level = nearest_level(picture.frame, expected_N3)
        for channel in range(len(AXIAL_CHANNELS)) if level is not None else ():
            assert level is not None
            index = SITES.index(axial_site(channel, level))
            shown.setdefault(index, []).append((picture, map_CHW[channel]))
    return [
        sighting for index, views in sorted(shown.items()) for sighting in _sighting(index, views, expected_N3[index])
    ]


def _sighting(index: int, shown: Iterable[tuple[Picture, Maps]], expected_mm: Array) -> list[Sighting]:
    """A site in the slices of one series or view; none where no slice shows it near to where it is expected."""
    places, masses, view = [], [], None
    for picture, map_HW in shown:
        view = picture.view
        if abs(picture.frame.distance_mm(expected_mm)) > (AXIAL_REACH_MM if view is View.AXIAL_T2 else GATE_ACROSS_MM):
            continue
        core = _core(picture.frame, _gated(picture.frame, map_HW, expected_mm))
        if core is not None:
            places.append(picture.frame.to_patient(core.pixel))
            masses.append(core.mass)
    if view is None or not masses or max(masses) < LEAST_MASS:
        return []
    place = np.average(places, axis=0, weights=masses)
    return [Sighting(index, place, max(masses), kind_of(SITES[index].condition, view))]


def _gated(frame: Frame, map_HW: Maps, expected_mm: Array) -> Maps:
    """The map around an expected place, 0 elsewhere."""
    column, row = frame.to_pixel(expected_mm)
    rows, columns = np.arange(map_HW.shape[0])[:, None] - row, np.arange(map_HW.shape[1])[None, :] - column
    inside = rows**2 + columns**2 <= (GATE_MM / frame.spacing_mm[0]) ** 2
    gated: Maps = np.where(inside, map_HW, 0).astype(np.float32)
    return gated


def kind_of(condition: Condition, view: View) -> str:
    """How a site is seen: the name of a row in the table of deviations."""
    return f"{condition} in {view}"


KINDS = tuple(
    kind_of(condition, view)
    for condition in Condition
    for view in View
    if view is View.AXIAL_T2 or condition is not Condition.SUBARTICULAR_STENOSIS
)
#: Deviations along x, y and z before any were measured.
FIRST_DEVIATIONS = {kind: np.array([2.5, 2.0, 2.5]) for kind in KINDS}
