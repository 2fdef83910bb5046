"""Which of a study's marks can be believed, by where they lie in the patient. The anatomy is the judge.

Readers' marks have slips: of the real set's studies some thirty have left and right exchanged, a dozen have
levels out of order. In this order:

1. **Far** (`MARK_FAR`). A mark that less than half of its level's marks are near (`LEVEL_MM` along the spine,
   `FAR_MM` in all), where another is near more than half, is set aside. Where no such majority is, all are kept.
2. **Sides**. A pair whose left mark lies further to the patient's right than its right one is exchanged
   (`MARKS_SWAPPED`): the left site gets the place, slice and series of the right site's mark, and the reverse.
   Then a place more than `SIDE_MM` past the midline is set aside (`MARK_WRONG_SIDE`). The midline at a level is
   the median of its canal mark's x and of the middles of its left-right pairs; where nothing but the pair itself
   tells, of the next levels' too, and `LEAN_MM` more are granted, because a spine may lean.
   Why exchanged: both places are good ones, only their names contradict the patient, and what is called left
   must lie on the left in every text, box and mirrored crop, as it will in studies that nobody marked. Labels
   stay with their names, because that is how they are scored. If the reader mistook the sides while grading,
   the two grades are exchanged with respect to the picture; the fault lets such studies be left out.
3. **Order** (`MARK_OUT_OF_ORDER`). The five marks of one condition and side descend from L1-L2 to L5-S1, by
   `STEP_MM` at least. Those that are not in every longest run that does are in doubt and are set aside.

A site whose mark is set aside is placed by the atlas, which the study's other marks hold in place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np

from data_prep.faults import Action, FaultKind
from data_prep.geometry import Vector
from data_prep.sites import SITES, Condition, Level, Side, Site

#: Marks of one level lie nearer together than this along the spine; discs lie 25 to 45 mm apart.
LEVEL_MM = 22.0
#: Marks of one level lie nearer together than this: foramina are some 35 mm apart.
FAR_MM = 60.0
#: A mark this far past the midline is on the wrong side; subarticular zones lie 8 to 12 mm off it.
SIDE_MM = 4.0
#: The midline of a crooked spine may shift by this much, and more, from level to level.
LEAN_MM = 10.0
#: One level is at least this much below the next.
STEP_MM = 10.0


@dataclass(frozen=True)
class Doubt:
    """What is wrong with a site's mark, and what was done about it."""

    site: Site
    kind: FaultKind
    action: Action
    message: str


@dataclass
class Judgement:
    """places: for each site whose mark counts, the site whose mark says where it lies: itself, or its mirror image."""

    places: dict[Site, Site]
    doubts: list[Doubt] = field(default_factory=list)

    def set_aside(self, site: Site, kind: FaultKind, message: str) -> None:
        self.places.pop(site, None)
        self.doubts.append(Doubt(site, kind, "skipped", message))


def judge(points_mm: Mapping[Site, Vector]) -> Judgement:
    """Judge a study's marks, given where they lie in the patient; see the rules above."""
    judgement = Judgement({site: site for site in SITES if site in points_mm})
    _judge_distance(points_mm, judgement)
    _judge_sides(points_mm, judgement)
    _judge_order(points_mm, judgement)
    return judgement


def _judge_distance(points_mm: Mapping[Site, Vector], judgement: Judgement) -> None:
    """Rule 1."""
    for level in Level:
        sites = [site for site in judgement.places if site.level is level]
        near = {site: sum(_near(points_mm[site], points_mm[other]) for other in sites) for site in sites}
        if not sites or min(near.values()) == len(sites):
            continue
        if max(near.values()) <= len(sites) / 2:
            for site in sites:
                message = f"the {len(sites)} marks of {level.words} lie apart, and no majority tells which are right"
                judgement.doubts.append(Doubt(site, FaultKind.MARK_FAR, "kept", message))
            continue
        for site in sites:
            if near[site] < len(sites) / 2:
                message = f"far from {len(sites) - near[site]} of the {len(sites)} marks of {level.words}"
                judgement.set_aside(site, FaultKind.MARK_FAR, message)


def _near(one: Vector, other: Vector) -> bool:
    apart = np.subtract(one, other)
    return bool(abs(apart[2]) <= LEVEL_MM and np.linalg.norm(apart) <= FAR_MM)


def _judge_sides(points_mm: Mapping[Site, Vector], judgement: Judgement) -> None:
    """Rule 2."""
    x_mm = {site: points_mm[site][0] for site in judgement.places}
    for site in list(x_mm):
        mirrored = site.mirrored
        if site.side is Side.LEFT and x_mm[site] < x_mm.get(mirrored, -np.inf):
            message = f"left lies at x {x_mm[site]:.1f} mm, right at {x_mm[mirrored]:.1f}: exchanged"
            for member in (site, mirrored):
                judgement.places[member] = member.mirrored
                judgement.doubts.append(Doubt(member, FaultKind.MARKS_SWAPPED, "repaired", message))
            x_mm[site], x_mm[mirrored] = x_mm[mirrored], x_mm[site]
    for site in x_mm:
        past = _past_midline(site, x_mm)
        if past > SIDE_MM:
            message = f"lies {past:.1f} mm past the midline: not on the patient's {site.side}"
            judgement.set_aside(site, FaultKind.MARK_WRONG_SIDE, message)


def _past_midline(site: Site, x_mm: Mapping[Site, float]) -> float:
    """How far (mm) a site lies, at the least, past the midline to the other side; 0 or less on its own side."""
    if site.side is None:
        return 0.0
    order = list(Level)
    here = order.index(site.level)
    middles = _middles(site.level, x_mm)
    granted, candidates = 0.0, list(middles.values())
    if set(middles) <= {site.condition}:
        next_levels = [order[index] for index in (here - 1, here + 1) if 0 <= index < len(order)]
        candidates += [x for level in next_levels for x in _middles(level, x_mm).values()]
        granted = LEAN_MM
    past = float(np.median(candidates)) - x_mm[site] if candidates else 0.0
    return (past if site.side is Side.LEFT else -past) - granted


def _middles(level: Level, x_mm: Mapping[Site, float]) -> dict[Condition, float]:
    """What a level's marks say of the midline: the canal's x, and the middles of left-right pairs."""
    middles = {}
    for site, x in x_mm.items():
        if site.level is level and site.side is not Side.RIGHT and site.mirrored in x_mm:
            middles[site.condition] = (x + x_mm[site.mirrored]) / 2
    return middles


def _judge_order(points_mm: Mapping[Site, Vector], judgement: Judgement) -> None:
    """Rule 3."""
    groups: dict[tuple[Condition, Side | None], list[Site]] = {}
    for site in judgement.places:
        groups.setdefault((site.condition, site.side), []).append(site)
    for sites in groups.values():
        sites.sort(key=lambda site: list(Level).index(site.level))
        z_mm = [points_mm[judgement.places[site]][2] for site in sites]
        sure = _in_every_longest_descent(z_mm)
        for index, site in enumerate(sites):
            if index not in sure:
                message = "z " + ", ".join(f"{z:.0f}" for z in z_mm) + " mm do not descend from level to level"
                judgement.set_aside(site, FaultKind.MARK_OUT_OF_ORDER, message)


def _in_every_longest_descent(values: list[float]) -> set[int]:
    """Indices that all longest subsequences descending by `STEP_MM` share. Five values have 31 subsequences."""
    for length in range(len(values), 0, -1):
        runs = [
            set(run)
            for run in combinations(range(len(values)), length)
            if all(values[a] - values[b] >= STEP_MM for a, b in pairwise(run))
        ]
        if runs:
            return set.intersection(*runs)
    return set()
