"""The anatomy of one patient: dimensions of the spine in millimetres, and the effect of the grades on them.

`draw_body` draws everything that does not depend on grades (size, posture, degeneration, distractors). `Patient` adds
the grades and turns both into profiles along the spine, which the painters use. The effect of a grade is monotone in
the grade and limited to a few millimetres around its site.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from data_prep.phantom.curve import SpineCurve, arc_table
from data_prep.phantom.grades import Grades
from data_prep.phantom.habitus import Habitus, draw_habitus
from data_prep.phantom.skeleton import LONG, STANDARD, Skeleton
from data_prep.sites import Condition, Level, Side, Site

Array = npt.NDArray[np.float64]
Array32 = npt.NDArray[np.float32]

LEVELS = tuple(Level)
SIDES = (Side.LEFT, Side.RIGHT)

_FORAMEN_U = np.array([15.0, 15.7, 16.6, 17.5, 18.4])

SAC_HALF_WIDTH = 9.6
SAC_DEPTH = 15.2
#: Offset of each site's marked point, in mm: (posterior of the posterior wall, cranial of the disc's centre).
CANAL_POINT = (8.0, 0.0)
FORAMEN_POINT = (5.0, 4.0)
#: The same for varied patients' foramina, by level, at a scale of 1: where readers of real studies mark them, at the
#: root under the pedicle. Estimated from the marks of 54 studies of folds 0 and 1, on which the shipped locator is
#: calibrated.
ROOT_POINTS = ((4.2, 9.3), (4.4, 8.8), (3.9, 8.6), (2.8, 8.6), (2.0, 7.6))
RECESS_U = 9.6
RECESS_POINT = (4.0, -1.0)


# Grade -> disease share, the part of the anatomical range that disease takes. It is steeper between the classes than
# within them: sites of similar appearance seldom get different grades.
_GRADES = (0.0, 0.85, 1.1, 1.85, 2.1, 2.95)
_SHARES = (0.0, 0.14, 0.36, 0.54, 0.74, 1.0)


def disease_share(grade: float) -> float:
    """Return the disease share at a grade, from 0 (no disease) to 1 (all space is lost).

    >>> disease_share(0.0), disease_share(2.95)
    (0.0, 1.0)
    """
    return float(np.interp(grade, _GRADES, _SHARES))


@dataclass(frozen=True)
class Body:
    """A patient without grades.

    Arrays have one entry per disc of the skeleton, with these exceptions. `canal_split` has one entry per level: the
    share of a narrowing that comes from in front. `schmorl` (radius, mm) and `modic` (0 none, 1 oedema, 2 fat) have two
    entries per disc, the upper endplate first. `rotation` and `origin_mm` map the anatomy's own axes to patient space.
    `osteophyte` and `diffuse_bulge` are in mm, `degeneration` and `muscle_fat` range from 0 to 1. `habitus` is the
    variety of soft tissue, foramina and processes; None for the standard ones.
    """

    scale: float
    canal_scale: float
    disc_height: Array
    degeneration: Array
    diffuse_bulge: Array
    canal_split: Array
    osteophyte: Array
    schmorl: Array
    modic: Array
    tilt_degrees: Array
    lateral_mm: Array
    rotation: Array
    origin_mm: Array
    fat_depth: float
    muscle_fat: float
    texture_origin_mm: Array
    root_angle: Array
    root_radius: Array
    skeleton: Skeleton = STANDARD
    habitus: Habitus | None = None


def draw_body(generator: np.random.Generator, varied: bool = False) -> Body:
    """Draw everything about a patient that does not depend on grades.

    `varied`: whether the patient has the whole sacrum, and a posture, stature and soft tissue of a wider range.
    """
    body = _draw_standard_body(generator, LONG if varied else STANDARD)
    return _draw_variety(body, generator) if varied else body


def _draw_variety(body: Body, generator: np.random.Generator) -> Body:
    """Widen the range of a body: stature, lordosis, scoliosis, transitional discs, posture and soft tissue."""
    discs, first_sacral = body.skeleton.discs, body.skeleton.first_sacral_body
    below, lowest = np.arange(discs) >= first_sacral, np.arange(discs) == first_sacral - 1
    scale = float(np.clip(generator.normal(0.97, 0.075), 0.8, 1.18))
    yaw, roll, pitch = np.deg2rad(generator.normal(0, (3.0, 3.0, 5.0)))
    lordosis = np.clip(generator.normal(1.0, 0.3), 0.3, 1.7) * body.skeleton.disc_tilt_degrees
    sacral_slope = generator.normal(4.0, 9.0)
    # Worn discs are low, and L5-S1 is often the lowest: in few patients it is no higher than S1-S2.
    worn = 1.05 - 0.4 * body.degeneration * generator.uniform(0.5, 1.0, discs)
    worn = worn * np.where(lowest, generator.uniform(0.6, 1.0), 1.0)
    height = body.disc_height / body.scale * np.where(below, generator.choice([0.5, 1.0, 1.6], p=[0.4, 0.5, 0.1]), worn)
    bend = generator.normal(0, 6.0 if generator.random() < 0.3 else 1.5) * np.sin(
        np.linspace(0, np.pi * generator.uniform(0.8, 2.2), discs) + generator.uniform(0, np.pi)
    )
    return replace(
        body,
        scale=scale,
        disc_height=height * scale * generator.uniform(0.85, 1.15),
        tilt_degrees=lordosis
        + np.where(below, sacral_slope, np.where(lowest, 0.8, 0.25) * sacral_slope)
        + generator.normal(0, 2.5, discs),
        lateral_mm=body.lateral_mm + bend,
        rotation=_rotation(float(yaw), float(roll), float(pitch)),
        fat_depth=float(generator.uniform(0, 45)),
        habitus=draw_habitus(generator),
    )


def _draw_standard_body(generator: np.random.Generator, skeleton: Skeleton) -> Body:
    discs = skeleton.discs
    scale = float(np.clip(generator.normal(1.0, 0.045), 0.9, 1.1))
    degeneration = np.clip(generator.beta(1.6, 1.6) + generator.normal(0, 0.28, discs), 0.0, 1.0)
    yaw, roll, pitch = np.deg2rad(generator.normal(0, (1.6, 1.2, 3.0)))
    lordosis = generator.normal(1.0, 0.14)
    modic = generator.choice((0, 1, 2), size=2 * discs, p=(0.86, 0.05, 0.09))
    roots = 14
    return Body(
        scale=scale,
        canal_scale=float(np.clip(generator.normal(1.0, 0.05), 0.9, 1.1)),
        disc_height=skeleton.disc_height * scale * (1 - 0.33 * degeneration * generator.uniform(0.4, 1.0, discs)),
        degeneration=degeneration,
        diffuse_bulge=generator.uniform(0.2, 1.4, discs),
        canal_split=generator.uniform(0.38, 0.66, len(LEVELS)),
        osteophyte=generator.gamma(0.7, 1.4, discs).clip(0, 5.0),
        schmorl=np.where(generator.uniform(size=2 * discs) < 0.1, generator.uniform(2.5, 4.5, 2 * discs), 0),
        modic=modic,
        tilt_degrees=skeleton.disc_tilt_degrees * lordosis + generator.normal(0, 1.2, discs),
        lateral_mm=generator.normal(0, 1.3, discs),
        rotation=_rotation(float(yaw), float(roll), float(pitch)),
        origin_mm=generator.normal(0, (6.0, 15.0, 20.0)),
        fat_depth=float(generator.uniform(10, 38)),
        muscle_fat=float(generator.uniform(0.0, 1.0)),
        texture_origin_mm=generator.uniform(200, 300, 3),
        root_angle=np.linspace(0.12, 0.88, roots) * np.pi + generator.normal(0, 0.1, roots),
        root_radius=np.where(np.arange(roots) % 3 == 1, 0.42, 0.74) + generator.normal(0, 0.06, roots),
        skeleton=skeleton,
    )


@dataclass(frozen=True)
class Patient:
    """A body with its 25 grades."""

    body: Body
    grades: Grades

    @property
    def first_graded(self) -> int:
        """The index of the disc L1-L2."""
        return self.body.skeleton.first_graded

    @property
    def sacrum_end(self) -> float:
        """s of the lower end of the sacrum, mm; far below all images if the skeleton does not end."""
        half = self.body.skeleton.body_height[-1] * self.body.scale / 2
        return float(self.body_arc[-1]) - half if self.body.skeleton.ends else -1000.0

    @cached_property
    def curve(self) -> SpineCurve:
        """The curve of the spine through all discs, each with its own tilt, and along the sacrum."""
        sacral_tilt = self.body.skeleton.tilt_below
        below = np.array(list(sacral_tilt))
        arc = np.concatenate([self.disc_arc, self.disc_arc[-1] - below])[::-1]
        tilt = np.concatenate([self.body.tilt_degrees, list(sacral_tilt.values())])[::-1]
        lateral = np.concatenate([self.body.lateral_mm, np.full(len(below), self.body.lateral_mm[-1])])[::-1]
        return SpineCurve.through(arc, tilt, lateral)

    @cached_property
    def disc_arc(self) -> Array:
        """s of each disc's centre in mm, descending; that of L3-L4 is 0."""
        heights = self.body.disc_height
        steps = (heights[:-1] + heights[1:]) / 2 + self.body.skeleton.body_height[1:-1] * self.body.scale
        arc = -np.concatenate([[0.0], np.cumsum(steps)])
        return arc - arc[self.first_graded + LEVELS.index(Level.L3_L4)]

    @cached_property
    def body_arc(self) -> Array:
        """s of each vertebral body's centre (T11 to S2) in mm, descending."""
        heights, half = self.body.skeleton.body_height * self.body.scale, self.body.disc_height / 2
        above = self.disc_arc + half + heights[:-1] / 2
        return np.append(above, self.disc_arc[-1] - half[-1] - heights[-1] / 2)

    @cached_property
    def root_points(self) -> Array:
        """The roots in the foramina of a varied patient, (5, 2), as `ROOT_POINTS`."""
        return np.array(ROOT_POINTS) * self.body.scale

    def position_mm(self, site: Site) -> Array:
        """Return the true position of a site in patient mm (LPS)."""
        level = LEVELS.index(site.level)
        side = 0 if site.side is None else 1 if site.side is Side.LEFT else -1
        u, (behind, above) = {
            Condition.SPINAL_CANAL_STENOSIS: (0.0, CANAL_POINT),
            Condition.NEURAL_FORAMINAL_NARROWING: (
                self.foramen_u[level],
                FORAMEN_POINT if self.body.habitus is None else self.root_points[level],
            ),
            Condition.SUBARTICULAR_STENOSIS: (RECESS_U, RECESS_POINT),
        }[site.condition]
        s = self.disc_arc[self.first_graded + level] + above
        v = float(np.interp(s, arc_table(), self.wall)) + behind
        return self.to_patient(self.curve.to_anatomy(side * u, v, s))

    def level_position_mm(self, level: Level, u: float = 0.0, v: float = 0.0) -> Array:
        """Return the position of the point (u, v) in a disc's middle plane, in patient mm."""
        return self.to_patient(
            self.curve.to_anatomy(u, v, float(self.disc_arc[self.first_graded + LEVELS.index(level)]))
        )

    def level_axes(self, level: Level) -> tuple[Array, Array]:
        """Return two unit vectors in a disc's middle plane, in patient space: to the left, and posterior."""
        phi = float(np.interp(self.disc_arc[self.first_graded + LEVELS.index(level)], arc_table(), self.curve.tilt))
        left = self.body.rotation @ np.array([1.0, 0.0, 0.0])
        return left, self.body.rotation @ np.array([0.0, np.cos(phi), np.sin(phi)])

    def to_patient(self, anatomy_mm: Array) -> Array:
        return self.body.rotation @ anatomy_mm + self.body.origin_mm

    @cached_property
    def foramen_u(self) -> Array:
        return _FORAMEN_U * self.body.scale

    def share_by_level(self, condition: Condition) -> Array:
        """Return the disease share of a condition per level: (5,) for the canal, else (5, 2) with left first."""
        sides = (None,) if condition is Condition.SPINAL_CANAL_STENOSIS else SIDES
        shares = np.array([[disease_share(self.grades[Site(condition, s, level)]) for s in sides] for level in LEVELS])
        return shares[:, 0] if len(sides) == 1 else shares

    # Profiles along the spine, in mm: one value per entry of `arc_table`.

    @cached_property
    def near_disc(self) -> Array:
        """(5, entries): 1 at the height of each graded disc, falling to 0 at about 9 mm from it."""
        distance = arc_table()[None] - self.disc_arc[self.first_graded : self.first_graded + 5, None]
        return np.exp(-((distance / 7.0) ** 4))

    @cached_property
    def half_width(self) -> Array:
        """Half the width of the vertebral column: the bodies have a waist and flare at the endplates."""
        return self._along_bodies(self.body.skeleton.body_half_width) * self.body.scale - 2.2 * self._waist

    @cached_property
    def half_depth(self) -> Array:
        """Half the depth of the column, without waists."""
        return self._along_bodies(self.body.skeleton.body_half_depth) * self.body.scale

    @cached_property
    def wall(self) -> Array:
        """v of the posterior wall of the column in the midline."""
        return self.half_depth - 0.8 * self._waist

    @cached_property
    def front(self) -> Array:
        """-v of the anterior wall of the column, with the lips of osteophytes beside the discs."""
        distance = arc_table()[None] - self.disc_arc[:, None]
        lips = np.exp(-(((np.abs(distance) - self.body.disc_height[:, None] / 2 - 1.5) / 2.5) ** 2))
        return self.half_depth - 1.6 * self._waist + (lips * self.body.osteophyte[:, None]).sum(axis=0)

    @cached_property
    def _waist(self) -> Array:
        distance = np.abs(arc_table()[None] - self.body_arc[:, None])
        return np.exp(-((distance / 9.0) ** 2)).sum(axis=0)

    def _along_bodies(self, values: Array) -> Array:
        return np.interp(arc_table(), self.body_arc[::-1], values[::-1])

    @cached_property
    def canal_share(self) -> Array:
        """(5, entries): the disease share of the canal around each graded disc."""
        return self.share_by_level(Condition.SPINAL_CANAL_STENOSIS)[:, None] * self.near_disc

    @cached_property
    def canal_loss(self) -> Array:
        """(5, entries): the depth of the dural sac that is lost to disease, in mm."""
        return 0.86 * SAC_DEPTH * self.body.canal_scale * self.canal_share

    @cached_property
    def sac_front(self) -> Array:
        """Distance of the sac's anterior surface behind the posterior wall."""
        split = self.body.canal_split[:, None]
        return 1.3 + (split * self.canal_loss).sum(axis=0)

    @cached_property
    def sac_back(self) -> Array:
        """Distance of the sac's posterior surface behind the posterior wall."""
        split = self.body.canal_split[:, None]
        depth = SAC_DEPTH * self.body.canal_scale * np.interp(arc_table(), [-130, -85, 60], [0.45, 0.93, 1.0])
        return 1.3 + depth - ((1 - split) * self.canal_loss).sum(axis=0)

    @cached_property
    def sac_half_width(self) -> Array:
        taper = np.interp(arc_table(), [-130, -85, 60], [0.45, 0.95, 1.0])
        return SAC_HALF_WIDTH * self.body.canal_scale * taper * (1 - 0.35 * self.canal_share.sum(axis=0))

    @cached_property
    def flavum(self) -> Array:
        """Thickness of the ligamentum flavum; 0 beside the bodies."""
        return (2.6 * self.near_disc + 2.6 * self.canal_share).sum(axis=0)

    @cached_property
    def nearest_disc(self) -> npt.NDArray[np.intp]:
        return np.argmin(np.abs(arc_table()[:, None] - self.disc_arc[None]), axis=1)

    @cached_property
    def nearest_body(self) -> npt.NDArray[np.intp]:
        return np.argmin(np.abs(arc_table()[:, None] - self.body_arc[None]), axis=1)


def _rotation(yaw: float, roll: float, pitch: float) -> Array:
    """Return the matrix of a rotation about z, then y, then x; the angles are in radians."""
    cz, sz, cy, sy, cx, sx = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return about_x @ about_y @ about_z
