"""Checks of a study's marks against each other, by their positions in the patient.

Readers make mistakes: in the real data set some thirty studies have left and right exchanged, and a dozen have
levels out of order. Three rules are applied, in this order:

1. **Far** (`MARK_FAR`). Two marks of a level are near each other if they are within `LEVEL_MM` along the spine and
   `FAR_MM` in all. A mark that is near less than half of its level's marks is set aside, if another mark of the
   level is near more than half. Without such a majority, all marks are kept.
2. **Sides**. If the left mark of a pair lies further to the patient's right than the right mark, by more than
   `EXCHANGE_MM`, the two are exchanged (`MARKS_SWAPPED`): the left site gets the position, slice and series of the
   right site's mark, and vice versa. Two marks that are nearer to each other across the patient, as they are on one
   sagittal slice, keep their names: their order is not known. Then a mark more than `SIDE_MM` beyond the midline is
   set aside (`MARK_WRONG_SIDE`). The midline at a level is the median of the canal mark's x and of the middles of
   the left-right pairs. If only the pair itself is known there, the neighbouring levels are included, with a
   tolerance of another `LEAN_MM`, because a spine may lean. Two marks on one slice do not show where their middle
   is, and one mark of the canal does not show which of the two is wrong: if nothing else is known at the level, both
   are kept (`MARK_WRONG_SIDE`, kept).
   Why marks are exchanged: both positions are valid and only their names contradict the patient. What is called
   left must lie on the left in every caption, box and mirrored crop, as it does in unannotated studies. Labels
   keep their names, because they are scored by them. If the reader confused the sides while grading, the two
   labels do not match the images; the fault allows such studies to be excluded.
3. **Order** (`MARK_OUT_OF_ORDER`). The five marks of one condition and side must descend from L1-L2 to L5-S1, by
   at least `STEP_MM` per level. A mark that is not part of every longest descending sequence is set aside.

Each limit is far from what is right and from what is wrong. No check depends on differences below `PLACE_MM`, which
may be rounding: that much beyond a limit is within it.

A site whose mark is set aside is placed by the atlas, which is aligned with the study's other marks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np

from data_prep.faults import Action, FaultKind
from data_prep.geometry import PLACE_MM, Vector
from data_prep.sites import SITES, Condition, Level, Side, Site

#: Largest distance of two marks of one level along the spine; discs are 25 to 45 mm apart.
LEVEL_MM = 22.0
#: Largest distance of two marks of one level; the two foramina are some 35 mm apart.
FAR_MM = 60.0
#: Marks of a pair whose order across the patient is reversed by less than this are not exchanged. A mark lies on a
#: slice, and sagittal slices are some 4.4 mm apart, so that the order of two marks is known only if they are further
#: apart than that. Right pairs are: of foramina the left one lies 33.5 mm (median) to the left of the right one, and an
#: exchanged pair as far the other way.
EXCHANGE_MM = 5.0
#: A mark further than this beyond the midline is on the wrong side; subarticular zones are 8 to 12 mm from it.
SIDE_MM = 4.0
#: Tolerance for the shift of a crooked spine's midline from level to level.
LEAN_MM = 10.0
#: Smallest distance from one level down to the next.
STEP_MM = 10.0


@dataclass(frozen=True)
class Problem:
    """A problem with a site's mark, and the action taken."""

    site: Site
    kind: FaultKind
    action: Action
    message: str


@dataclass
class CheckedMarks:
    """The marks of a study that are used, and the problems that were found.

    mark_of: For each site that has a usable mark, the site whose mark it is: itself, or its mirror image if the marks
    of a pair are exchanged.
    """

    mark_of: dict[Site, Site]
    problems: list[Problem] = field(default_factory=list)

    def set_aside(self, site: Site, kind: FaultKind, message: str) -> None:
        """Exclude the mark of a site and add the problem."""
        self.mark_of.pop(site, None)
        self.problems.append(Problem(site, kind, "skipped", message))


def check_marks(points_mm: Mapping[Site, Vector]) -> CheckedMarks:
    """Check a study's marks, given their positions in the patient, by the three rules of this module."""
    checked = CheckedMarks({site: site for site in SITES if site in points_mm})
    _check_distances(points_mm, checked)
    _check_sides(points_mm, checked)
    _check_order(points_mm, checked)
    return checked


def _check_distances(points_mm: Mapping[Site, Vector], checked: CheckedMarks) -> None:
    """Apply rule 1."""
    for level in Level:
        sites = [site for site in checked.mark_of if site.level is level]
        near = {site: sum(_near(points_mm[site], points_mm[other]) for other in sites) for site in sites}
        if not sites or min(near.values()) == len(sites):
            continue
        if max(near.values()) <= len(sites) / 2:
            for site in sites:
                message = f"the {len(sites)} marks of {level.words} lie apart, and no majority of them agrees"
                checked.problems.append(Problem(site, FaultKind.MARK_FAR, "kept", message))
            continue
        for site in sites:
            if near[site] < len(sites) / 2:
                message = f"far from {len(sites) - near[site]} of the {len(sites)} marks of {level.words}"
                checked.set_aside(site, FaultKind.MARK_FAR, message)


def _near(one: Vector, other: Vector) -> bool:
    apart = np.subtract(one, other)
    return bool(abs(apart[2]) <= LEVEL_MM + PLACE_MM and np.linalg.norm(apart) <= FAR_MM + PLACE_MM)


def _check_sides(points_mm: Mapping[Site, Vector], checked: CheckedMarks) -> None:
    """Apply rule 2."""
    x_mm = {site: points_mm[site][0] for site in checked.mark_of}
    for site in list(x_mm):
        mirrored = site.mirrored
        if site.side is Side.LEFT and x_mm.get(mirrored, -np.inf) - x_mm[site] > EXCHANGE_MM + PLACE_MM:
            message = f"the left mark is at x {x_mm[site]:.1f} mm, the right one at {x_mm[mirrored]:.1f}: exchanged"
            for member in (site, mirrored):
                checked.mark_of[member] = member.mirrored
                checked.problems.append(Problem(member, FaultKind.MARKS_SWAPPED, "repaired", message))
            x_mm[site], x_mm[mirrored] = x_mm[mirrored], x_mm[site]
    for site in x_mm:
        beyond = _beyond_midline(site, x_mm)
        if beyond <= SIDE_MM + PLACE_MM:
            continue
        if _is_undecided(site, x_mm):
            message = "left and right are marked at one place across the patient: which mark is wrong is not known"
            checked.problems.append(Problem(site, FaultKind.MARK_WRONG_SIDE, "kept", message))
        else:
            message = f"{beyond:.1f} mm beyond the midline: not on the patient's {site.side}"
            checked.set_aside(site, FaultKind.MARK_WRONG_SIDE, message)


def _is_undecided(site: Site, x_mm: Mapping[Site, float]) -> bool:
    """Return whether a pair is marked at one place, and no pair but only the canal's mark shows the midline there."""
    together = abs(x_mm[site] - x_mm.get(site.mirrored, np.inf)) <= EXCHANGE_MM
    others = set(_middles(site.level, x_mm)) - {site.condition}
    return together and others == {Condition.SPINAL_CANAL_STENOSIS}


def _beyond_midline(site: Site, x_mm: Mapping[Site, float]) -> float:
    """Return the least distance, mm, of a site beyond the midline; 0 or less if it is on its own side."""
    if site.side is None:
        return 0.0
    order = list(Level)
    here = order.index(site.level)
    middles = _middles(site.level, x_mm)
    tolerance, candidates = 0.0, list(middles.values())
    if set(middles) <= {site.condition}:
        next_levels = [order[index] for index in (here - 1, here + 1) if 0 <= index < len(order)]
        candidates += [x for level in next_levels for x in _middles(level, x_mm).values()]
        tolerance = LEAN_MM
    beyond = float(np.median(candidates)) - x_mm[site] if candidates else 0.0
    return (beyond if site.side is Side.LEFT else -beyond) - tolerance


def _middles(level: Level, x_mm: Mapping[Site, float]) -> dict[Condition, float]:
    """Return the midline's x by a level's marks, by condition: the canal's x, and the middles of left-right pairs."""
    middles = {}
    for site, x in x_mm.items():
        if site.level is level and site.side is not Side.RIGHT and site.mirrored in x_mm:
            middles[site.condition] = (x + x_mm[site.mirrored]) / 2
    return middles


def _check_order(points_mm: Mapping[Site, Vector], checked: CheckedMarks) -> None:
    """Apply rule 3."""
    groups: dict[tuple[Condition, Side | None], list[Site]] = {}
    for site in checked.mark_of:
        groups.setdefault((site.condition, site.side), []).append(site)
    for sites in groups.values():
        sites.sort(key=lambda site: list(Level).index(site.level))
        z_mm = [points_mm[checked.mark_of[site]][2] for site in sites]
        in_order = _in_every_longest_descent(z_mm)
        for index, site in enumerate(sites):
            if index not in in_order:
                message = "z " + ", ".join(f"{z:.0f}" for z in z_mm) + " mm: these do not descend from level to level"
                checked.set_aside(site, FaultKind.MARK_OUT_OF_ORDER, message)


def _in_every_longest_descent(values: list[float]) -> set[int]:
    """Return the indices common to all longest subsequences that descend by `STEP_MM`; five values have 31."""
    for length in range(len(values), 0, -1):
        runs = [
            set(run)
            for run in combinations(range(len(values)), length)
            if all(values[a] - values[b] >= STEP_MM - PLACE_MM for a, b in pairwise(run))
        ]
        if runs:
            return set.intersection(*runs)
    return set()
