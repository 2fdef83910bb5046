"""Judge the places of a series' images together: each may be possible alone and all of them impossible together.

The images of one contrast (`contrasts`) are judged, stack by stack:

1. **Equal places.** Different pictures at one place are repetitions if they are few: at most two, or three throughout,
   or equally many throughout a stack of at least `BLOCKS` places. More of them have no place. Neither have images of
   one series and place whose SliceLocations differ, if these are places (`contradicted_places`).
2. **Distances.** The distances between neighbouring slices must not contradict SpacingBetweenSlices and SliceThickness
   grossly, and a stack must fit into a patient.
3. **Direction.** Neighbouring slices must lie across the plane of the images, not within it: otherwise positions or
   orientations are wrong. The orientation (1, 0, 0, 0, 1, 0) with the first pixel on the axis of the scanner is what
   programs write that know neither; in a series described as sagittal it is not believed.
4. **Jumps.** A single slice far from all others, or beside the straight line on which the places of the others lie in
   the order of their numbers, has no place; the others keep theirs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_prep.dicom.headers import Header
from data_prep.geometry import SAME_SLICE_MM, Array, Frame, Plane, stacks
from data_prep.sites import View

#: Different pictures at one place that are taken for repetitions: anywhere, and if most places have as many.
REPETITIONS, REPETITIONS_THROUGHOUT = 2, 3
#: The part of the places that has to have so many.
THROUGHOUT = 2 / 3
#: SliceLocations of one place that differ by more than this, in mm, contradict it.
LOCATION_MM = 1.0
#: SliceLocations are places in mm if they change by this part of the distance between places, at least and at most.
LOCATION_SHARES = 0.8, 1.25
#: Distances between slices below this part of the header's, and below this many mm, are too small.
LEAST_SHARE, LEAST_GAP_MM = 1 / 6, 0.9
#: A stack of small distances that is thicker than this, mm, is a fine volume, whatever the header says: with distances
#: in a wrong unit it would be thin.
THIN_MM = 30.0
#: No volume is reconstructed with smaller distances, mm.
FINEST_GAP_MM = 0.2
#: Distances of more than this many times the header's, and more than this many mm, are too large.
LARGEST_RATIO, LARGEST_GAP_MM = 5.0, 15.0
#: That is said only of stacks with more slices: an axial stack may have one slice per disc. Wrong positions do not
#: leave so many places with equally many pictures each.
BLOCKS = 8
#: Largest extent of a stack, mm: across a patient, and along one.
WIDEST_MM, LONGEST_MM = 500.0, 1500.0
#: A slice further from its neighbours than this, mm, is not in its place: across a patient, and along one.
FAR_ACROSS_MM, FAR_ALONG_MM = 100.0, 150.0
#: Images whose normals have a larger cosine between them are parallel.
PARALLEL = 0.999
#: Slices that a stack needs before one of them can be said to be out of place.
ENOUGH = 5


def places(frames: Sequence[Frame]) -> list[int]:
    """Return a label of the place of each frame: equal for parallel images of one slice that show the same area.

    Images lie at one place if their planes are within `SAME_SLICE_MM` and their centres within a quarter of the image,
    directly or through others. Two stations of the spine therefore lie at two places, although in one plane.
    """
    labels = [0] * len(frames)
    found = 0
    for stack in stacks(frames):
        normal = frames[stack[0]].normal
        centre_N3 = np.array([frames[index].centre_mm for index in stack])
        starts = 1 + np.flatnonzero(np.abs(np.diff(centre_N3 @ normal)) > SAME_SLICE_MM)
        for level in np.split(np.arange(len(stack)), starts):
            for group in _near(centre_N3[level], min(map(_extent_mm, (frames[stack[i]] for i in level))) / 4):
                for member in group:
                    labels[stack[level[member]]] = found
                found += 1
    return labels


def _near(centre_N3: Array, reach_mm: float) -> list[list[int]]:
    """Group points that lie within a distance of each other, directly or through others."""
    left, groups = list(range(len(centre_N3))), []
    while left:
        group, new = [left[0]], [left[0]]
        left = left[1:]
        while new and left:
            apart_KM = np.linalg.norm(centre_N3[new][:, None] - centre_N3[left], axis=2)
            near = (apart_KM <= reach_mm).any(axis=0)
            new = [index for index, is_near in zip(left, near, strict=True) if is_near]
            left = [index for index, is_near in zip(left, near, strict=True) if not is_near]
            group += new
        groups.append(group)
    return groups


def _extent_mm(frame: Frame) -> float:
    """Return the shorter side of an image in mm."""
    return min(frame.shape[0] * frame.spacing_mm[0], frame.shape[1] * frame.spacing_mm[1])


def _at_origin(frame: Frame) -> bool:
    return not any(frame.position_mm)


def labelled_places(headers: Sequence[Header]) -> dict[int, int]:
    """Return the label of the place (`places`) of each image that has geometry, by index."""
    located = [index for index, header in enumerate(headers) if header.frame is not None]
    return dict(zip(located, places([frame for header in headers if (frame := header.frame) is not None]), strict=True))


def contradicted_places(headers: Sequence[Header], labels: Mapping[int, int]) -> dict[int, str]:
    """Return the images that say the place of another one of their series, but another SliceLocation; and why."""
    groups: dict[tuple[int, str], list[int]] = {}
    for index, place in labels.items():
        groups.setdefault((place, headers[index].identity.series_uid), []).append(index)
    problems: dict[int, str] = {}
    believed: dict[str, bool] = {}
    for (_, series_uid), group in groups.items():
        if len(group) > 1:
            locations = [headers[index].acquisition.number("SliceLocation") for index in group]
            known = [location for location in locations if location is not None]
            if known and max(known) - min(known) > LOCATION_MM:
                if series_uid not in believed:
                    believed[series_uid] = _are_places(headers, labels, group[0])
                if believed[series_uid]:
                    message = f"{len(group)} images say one place, but their SliceLocations differ"
                    problems |= dict.fromkeys(group, message)
    return problems


def _are_places(headers: Sequence[Header], labels: Mapping[int, int], member: int) -> bool:
    """Return whether the SliceLocations of the series that an image belongs to are places: no counter, and in mm.

    Some programs number the images in SliceLocation, and so give the repetitions of one place different ones.
    """
    first = headers[member].frame
    found: dict[int, list[tuple[float, float]]] = {}
    for index, place in labels.items():
        frame, location = headers[index].frame, headers[index].acquisition.number("SliceLocation")
        same = headers[index].identity.series_uid == headers[member].identity.series_uid
        if same and first and frame and location is not None and abs(frame.normal @ first.normal) > PARALLEL:
            found.setdefault(place, []).append((float(frame.centre_mm @ first.normal), location))
    if len(found) < 2:
        return True
    locations = sorted({location for images in found.values() for _, location in images})
    if len(locations) > 2 and all(step == 1 for step in np.diff(locations)):
        return False
    height_N, location_N = np.array(sorted(tuple(np.median(images, axis=0)) for images in found.values())).T
    slope = np.abs(np.diff(location_N)) / np.maximum(np.diff(height_N), SAME_SLICE_MM)
    return bool(LOCATION_SHARES[0] <= np.median(slope) <= LOCATION_SHARES[1])


class PlaceJudge:
    """Judges the places of the images of one contrast.

    Args:
        headers: the headers of all images that have geometry.
        labels: the place of each image (`places`).
        numbers: the number of each image by its file's name or header; None if it has none of its own.
        described: the view that the table gives, or None.
        distinct: returns how many different pictures some images (by index) are; asked only in case of doubt.
    """

    def __init__(
        self,
        headers: Sequence[Header],
        labels: Sequence[int],
        numbers: Sequence[int | None],
        described: View | None,
        distinct: Callable[[Sequence[int]], int],
    ) -> None:
        self._labels = labels
        self._headers, self._numbers, self._described, self._distinct = headers, numbers, described, distinct
        self._frames = [frame for header in headers if (frame := header.frame) is not None]
        self.problems: dict[int, str] = {}

    def judge(self) -> dict[int, str]:
        """Return the images without a believable place by index, and why."""
        if len(self._frames) > 1:
            self._check_equal_places()
            self._check_default_orientation()
            sorted_stacks = stacks(self._frames)
            for stack in sorted_stacks:
                self._check_distances(stack)
                self._check_direction(stack)
            # A single slice can only be judged by others that are right.
            for stack in sorted_stacks:
                self._check_jumps([index for index in stack if index not in self.problems])
        return self.problems

    def _refuse(self, indices: Sequence[int], problem: str) -> None:
        for index in indices:
            self.problems.setdefault(index, problem)

    def _check_equal_places(self) -> None:
        """Apply rule 1."""
        groups: dict[int, list[int]] = {}
        for index, place in enumerate(self._labels):
            groups.setdefault(place, []).append(index)
        counts = [len(group) for group in groups.values()]
        throughout = len(counts) > 1 and np.mean(np.array(counts) >= REPETITIONS_THROUGHOUT) > THROUGHOUT
        allowed = REPETITIONS_THROUGHOUT if throughout else REPETITIONS
        usual, places_with_it = Counter(counts).most_common(1)[0]
        if len(counts) >= BLOCKS and places_with_it > THROUGHOUT * len(counts):
            allowed = max(allowed, usual)
        for group in groups.values():
            if len(group) > allowed and self._distinct(group) > allowed:
                zero = all(map(_at_origin, (self._frames[index] for index in group)))
                where = "at the origin (0, 0, 0)" if zero else "at one place"
                self._refuse(group, f"{len(group)} different images lie {where}")

    def _check_default_orientation(self) -> None:
        """Apply the second half of rule 3."""
        if self._described is None or not self._described.is_sagittal:
            return
        if all((*frame.row_direction, *frame.column_direction) == (1, 0, 0, 0, 1, 0) for frame in self._frames) and all(
            frame.position_mm[:2] == (0, 0) for frame in self._frames
        ):
            message = "described as sagittal, but orientation and position are those of programs that know neither"
            self._refuse(range(len(self._frames)), message)

    def _check_distances(self, stack: Sequence[int]) -> None:
        """Apply rule 2."""
        normal = self._frames[stack[0]].normal
        heights = np.array([self._frames[index].centre_mm @ normal for index in stack])
        gaps = np.abs(np.diff(heights))
        gaps = gaps[gaps > SAME_SLICE_MM]
        if len(gaps) < 2:
            return
        acquisition = self._headers[stack[0]].acquisition
        stated = [acquisition.number(name) for name in ("SpacingBetweenSlices", "SliceThickness")]
        known = [abs(number) for number in stated if number]
        # Most gaps, not the median: images of several series between each other have small gaps beside each usual one.
        most, median = float(np.percentile(gaps, 90)), float(np.median(gaps))
        extent = float(np.abs(heights[-1] - heights[0]))
        contradicted = known and most < min(LEAST_GAP_MM, LEAST_SHARE * min(known)) and extent < THIN_MM
        too_near = most < FINEST_GAP_MM or contradicted
        too_far = known and median > max(LARGEST_GAP_MM, LARGEST_RATIO * max(known)) and len(gaps) >= BLOCKS
        if too_near or too_far:
            says = f" and should be about {known[0]:g} mm by the header" if known else ""
            self._refuse(stack, f"the slices are {median:.3g} mm apart{says}")
        lone = len(gaps) >= ENOUGH and float(np.max(gaps)) > extent / 2  # a single jump is not the stack's fault
        if extent > (WIDEST_MM if self._is_across(stack) else LONGEST_MM) and not lone:
            self._refuse(stack, f"the slices extend over {extent:.0f} mm, more than a patient does")

    def _check_direction(self, stack: Sequence[int]) -> None:
        """Apply the first half of rule 3."""
        if len(stack) < 3:
            return
        normal = self._frames[stack[0]].normal
        centre_N3 = np.array([self._frames[index].centre_mm for index in stack])
        step_N3 = np.diff(centre_N3, axis=0)
        if np.median(np.abs(step_N3 @ normal) - 0.5 * np.linalg.norm(step_N3, axis=1)) > 0:
            return
        reach_mm = min(_extent_mm(self._frames[index]) for index in stack) / 2
        cosines = []
        for centre in centre_N3:
            apart_N3 = centre_N3 - centre
            along_N = np.abs(apart_N3 @ normal)
            distance_N = np.linalg.norm(apart_N3, axis=1)
            others = (along_N > SAME_SLICE_MM) & (np.sqrt(np.maximum(distance_N**2 - along_N**2, 0)) < reach_mm)
            if others.any():
                nearest = int(np.argmin(np.where(others, distance_N, np.inf)))
                cosines.append(along_N[nearest] / distance_N[nearest])
        if len(cosines) > len(stack) / 2 and np.median(cosines) < 0.5:
            self._refuse(stack, "the places of the slices differ within the plane of the images, not across it")

    def _check_jumps(self, stack: Sequence[int]) -> None:
        """Apply rule 4 to a sorted stack, without images of another size: their middles lie elsewhere."""
        sizes = Counter((self._frames[index].shape, self._frames[index].spacing_mm) for index in stack)
        usual = sizes.most_common(1)[0][0] if sizes else None
        stack = [i for i in stack if (self._frames[i].shape, self._frames[i].spacing_mm) == usual]
        if len(stack) <= ENOUGH:
            return
        normal = self._frames[stack[0]].normal
        centre_N3 = np.array([self._frames[index].centre_mm for index in stack])
        within_N3 = centre_N3 - (centre_N3 @ normal)[:, None] * normal
        shift_N = np.linalg.norm(within_N3 - np.median(within_N3, axis=0), axis=1)
        aside_N = shift_N > min(_extent_mm(self._frames[index]) for index in stack) / 2
        aside = [index for index, is_aside in zip(stack, aside_N, strict=True) if is_aside]
        if len(aside) == 1 or all(_at_origin(self._frames[index]) for index in aside):
            self._refuse(aside, "the image lies beside the others of its stack")
        gaps = np.abs(np.diff(centre_N3 @ normal))
        far_mm = FAR_ACROSS_MM if self._is_across(stack) else FAR_ALONG_MM
        far_mm = max(far_mm, 10 * float(np.median(gaps)))
        for end, gap, others in ((stack[0], gaps[0], gaps[1:]), (stack[-1], gaps[-1], gaps[:-1])):
            if gap > far_mm > max(others):
                self._refuse([end], f"the image lies {gap:.0f} mm from all others of its stack")
        self._check_line(stack)

    def _check_line(self, stack: Sequence[int]) -> None:
        """Find single slices beside the line of the others in the order of their numbers."""
        numbered = sorted((number, index) for index in stack if (number := self._numbers[index]) is not None)
        number_N = np.array([number for number, _ in numbered], dtype=float)
        if len(numbered) <= ENOUGH or (np.diff(number_N) <= 0).any():
            return
        centre_N3 = np.array([self._frames[index].centre_mm for _, index in numbered])
        step_3 = np.median(np.diff(centre_N3, axis=0) / np.diff(number_N)[:, None], axis=0)
        from_line_N3 = centre_N3 - step_3 * number_N[:, None]
        off_mm_N = np.linalg.norm(from_line_N3 - np.median(from_line_N3, axis=0), axis=1)
        gap_mm = float(np.linalg.norm(step_3) * np.median(np.diff(number_N)))
        on_N = off_mm_N < 0.2 * gap_mm
        if gap_mm <= SAME_SLICE_MM or on_N.sum() < max(ENOUGH, 0.75 * len(numbered)):
            return
        for place in range(1, len(numbered) - 1):
            if on_N[place - 1] and on_N[place + 1] and off_mm_N[place] > max(0.5 * gap_mm, 1.0):
                message = f"the image lies {off_mm_N[place]:.1f} mm from where the order of the others would have it"
                self._refuse([numbered[place][1]], message)

    def _is_across(self, stack: Sequence[int]) -> bool:
        """Return whether the slices follow each other across the patient, not along the spine."""
        return self._frames[stack[0]].plane is not Plane.AXIAL
