"""Tell apart the pictures that a series holds of one place, and choose those that show the view of the series.

A series may hold several echoes, the parts of a Dixon image, images before and after a contrast agent, repetitions in
time, or maps computed from others. Images are told apart only if several lie at one place, by the elements that differ
there (`CONTRAST_NUMBERS`, `CONTRAST_TERMS`): a value that changes from slice to slice distinguishes nothing. Images
that differ in nothing are repetitions and stay together, as one contrast.

Which contrast shows the view, each rule deciding between those that the rules before it leave:

1. the one with the most marks of readers;
2. magnitude before phase, and images before what was computed from them: maps, projections, differences;
3. the weighting of the view: T1 by short echo and repetition times, T2 by an echo time of 30 to 200 ms;
4. original before derived images, before the contrast agent before after it, little diffusion weighting before more,
   without before with suppressed fat, and of a Dixon image in phase, water, opposed phase, fat;
5. the shortest echo and repetition time for T1, the longest for T2; without an inversion before with one;
6. the first in time; the one with the most places; the first in order.

Contrasts that share less than half of the places of the smaller one with the chosen ones do not compete with these, as
blocks of one series with different times, and are used too.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_prep.dicom.acquisition import CONTRAST_NUMBERS, CONTRAST_TERMS, TIME_NUMBERS, Acquisition
from data_prep.dicom.headers import T1_ECHO_MS, T1_REPETITION_MS, Header
from data_prep.sites import View

#: Beyond this echo time in ms only fluid is bright.
LONGEST_ECHO_MS = 200.0
#: From so many images of a single place on, only TemporalPositionIdentifier says that they are of different times.
MOMENTS_OF_ONE_SLICE = 5
#: Contrasts compete if they share at least this part of the smaller one's places.
SHARED_PLACES = 0.5
_Value = tuple[object, ...]


@dataclass(frozen=True)
class Contrast:
    """Images of a series that are of one contrast.

    indices: of the images, in order.
    places: the places that they lie at; images without geometry have none.
    time: 0 for the first images of each place, 1 for the repetitions after them.
    """

    indices: tuple[int, ...]
    places: frozenset[int]
    time: int = 0


@dataclass(frozen=True)
class Contrasts:
    """The contrasts of a series, and the keywords of the elements that tell them apart."""

    groups: tuple[Contrast, ...]
    keywords: tuple[str, ...] = field(default=())


def contrasts(headers: Sequence[Header], labels: Mapping[int, int]) -> Contrasts:
    """Return the contrasts of a series; a single one unless several images lie at one place and differ.

    labels: the place of each image that has geometry, by index (`labelled_places`).
    """
    shared = _shared(labels)
    acquisitions = [header.acquisition for header in headers]
    keys: list[list[object]] = [[] for _ in headers]
    keywords = []
    if shared:
        for keyword in (*CONTRAST_NUMBERS, *CONTRAST_TERMS):
            values = _values(acquisitions, keyword)
            if _distinguishes(keyword, values, shared, len(set(labels.values()))):
                keywords.append(keyword)
                for key, value in zip(keys, values, strict=True):
                    key.append(value)
    for key, acquisition in zip(keys, acquisitions, strict=True):
        key.append(acquisition.is_computed)
    times = _times(acquisitions, [tuple(key) for key in keys], labels, shared, keywords)
    members: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, (key, time) in enumerate(zip(keys, times, strict=True)):
        members[*key, time].append(index)
    if len(members) > 1 and not keywords:
        keywords.append("ImageType")
    groups = [
        Contrast(tuple(indices), frozenset(labels[index] for index in indices if index in labels), times[indices[0]])
        for indices in members.values()
    ]
    return Contrasts(tuple(groups), tuple(keywords))


def _shared(labels: Mapping[int, int]) -> list[list[int]]:
    """Return the images of each place that has several."""
    members = defaultdict(list)
    for index, label in labels.items():
        members[label].append(index)
    return [indices for indices in members.values() if len(indices) > 1]


def _values(acquisitions: Sequence[Acquisition], keyword: str) -> list[_Value]:
    """Return comparable values of an element; numbers within the tolerance of the next one are equal."""
    if keyword not in CONTRAST_NUMBERS:
        return [acquisition.trait(keyword) for acquisition in acquisitions]
    absolute, relative = CONTRAST_NUMBERS[keyword]
    numbers = [acquisition.number(keyword) for acquisition in acquisitions]
    if keyword == "DiffusionBValue" and any(number is not None for number in numbers):
        numbers = [acquisition.b_value for acquisition in acquisitions]
    classes: dict[float, int] = {}
    last = 0.0
    for number in sorted({number for number in numbers if number is not None}):
        new = bool(classes) and number - last > max(absolute, relative * abs(number))
        classes[number] = (max(classes.values()) if classes else 0) + new
        last = number
    return [() if number is None else (classes[number],) for number in numbers]


def _distinguishes(keyword: str, values: Sequence[_Value], shared: Sequence[Sequence[int]], count: int) -> bool:
    """Return whether images of one place differ in a value that is not particular to each image.

    count: number of places.
    """
    if not any(len({values[index] for index in indices} - {()}) > 1 for indices in shared):
        different = [{values[index] for index in indices} for indices in shared]
        # An element that only some images of each place have (a contrast agent) distinguishes them as well.
        if not any(() in found and len(found) > 1 for found in different):
            return False
    if count == 1:
        return keyword != "SeriesInstanceUID" or len(set(values)) <= max(2, len(values) / 2)
    return any(repeated > 1 for repeated in Counter(values).values())


def _times(
    acquisitions: Sequence[Acquisition],
    keys: Sequence[tuple[object, ...]],
    labels: Mapping[int, int],
    shared: Sequence[Sequence[int]],
    keywords: list[str],
) -> list[int]:
    """Return for each image how many images of its contrast and place were taken at earlier times."""
    times = [0] * len(acquisitions)
    # Many images of one place alone are more often a series that lost its positions than one slice at many times.
    lost = len(set(labels.values())) == 1 and len(labels) >= MOMENTS_OF_ONE_SLICE
    names = TIME_NUMBERS[:1] if lost else TIME_NUMBERS
    for indices in shared:
        alike = defaultdict(list)
        for index in indices:
            alike[keys[index]].append(index)
        for members in alike.values():
            moments = {i: tuple(acquisitions[i].number(name) or 0.0 for name in names) for i in members}
            order = sorted(set(moments.values()))
            for index in members:
                times[index] = order.index(moments[index])
            for column, keyword in enumerate(names):
                if keyword not in keywords and len({moment[column] for moment in order}) > 1:
                    keywords.append(keyword)
    return times


def choose(
    found: Contrasts, headers: Sequence[Header], described: View | None, marked: Mapping[int, int]
) -> list[Contrast]:
    """Return the contrasts that show the view of the series, by the rules of this module; none if all are phases.

    described: the view that the table gives, or None.
    marked: the number of marks on each image, by index.
    """
    weightings = {header.weighting for header in headers}
    if described is None or described is View.SAGITTAL_T1:
        # A series described as T1 without any image that could be T1 is probably a T2 series.
        as_t1 = weightings == {"t1"} if described is None else bool(weightings & {"t1", ""})
    else:
        as_t1 = False
    largest = max(len(group.places) for group in found.groups)

    def rank(group: Contrast) -> tuple[float, ...]:
        header = headers[group.indices[0]]
        acquisition = header.acquisition
        inversion = acquisition.number("InversionTime")
        return (
            -sum(marked.get(index, 0) for index in group.indices),
            acquisition.is_phase,
            acquisition.is_computed,
            _contradictions(header, as_t1),
            acquisition.is_derived,
            acquisition.after_agent,
            acquisition.b_value,
            acquisition.is_fat_suppressed,
            acquisition.dixon_rank,
            *_length(acquisition, as_t1),
            inversion or 0.0,
            group.time,
            largest - len(group.places),
            group.indices[0],
        )

    ordered = sorted(found.groups, key=rank)
    chosen = ordered[:1]
    if headers[chosen[0].indices[0]].acquisition.is_phase:
        return []
    for group in ordered[1:]:
        alike = _is_computed(group, headers) == _is_computed(chosen[0], headers)
        if alike and not any(_compete(group, other) for other in chosen):
            chosen.append(group)
    return chosen


def _contradictions(header: Header, as_t1: bool) -> int:
    """Return how many elements contradict the weighting."""
    echo, repetition = (header.acquisition.number(name) for name in ("EchoTime", "RepetitionTime"))
    if as_t1:
        long_times = (echo or 0.0) >= T1_ECHO_MS, (repetition or 0.0) >= T1_REPETITION_MS
        return sum((header.weighting == "t2", *long_times))
    unfit_echo = echo is not None and not T1_ECHO_MS <= echo <= LONGEST_ECHO_MS
    return sum((header.weighting == "t1", unfit_echo))


def _length(acquisition: Acquisition, as_t1: bool) -> tuple[float, float]:
    """Return (echo time, repetition time), negative where the longest is wanted."""
    echo, repetition = (acquisition.number(name) or 0.0 for name in ("EchoTime", "RepetitionTime"))
    return (echo, repetition) if as_t1 else (-echo, -repetition)


def _is_computed(group: Contrast, headers: Sequence[Header]) -> bool:
    return headers[group.indices[0]].acquisition.is_computed


def _compete(one: Contrast, other: Contrast) -> bool:
    smaller = min(len(one.places), len(other.places))
    return len(one.places & other.places) >= SHARED_PLACES * smaller if smaller else False
