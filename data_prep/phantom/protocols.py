"""Plan how a patient is scanned: the series, the geometry of their slices, and the appearance of their images.

Everything is drawn per study, so that a cohort contains many scanners. The two families of scanners differ enough that
a model that was trained on one performs worse on the other.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from data_prep.geometry import Frame, Vector
from data_prep.phantom.anatomy import LEVELS, Patient
from data_prep.phantom.tissues import Palette, Tissue, Weighting, standard_palette
from data_prep.sites import View

Array = npt.NDArray[np.float64]


class Scanners(StrEnum):
    """The family of scanners that images a cohort.

    `MIXED` draws one of the first two for each study. `VARIED` draws fields of view, contrasts, coils and resolutions
    of a range that is wider than that of real scanners, for patients of a wider range too.
    """

    FIRST = "first"
    SECOND = "second"
    MIXED = "mixed"
    VARIED = "varied"


class Size(StrEnum):
    """The size of images: `SMALL` ones are quick to draw and to train on; `FULL` ones are as large as the real ones."""

    SMALL = "small"
    FULL = "full"


class Compression(StrEnum):
    """How the pixels of a series are stored."""

    RLE = "rle"
    NONE = "none"
    JPEG_2000 = "jpeg_2000"


@dataclass(frozen=True)
class Look:
    """The appearance of a series: the contrast of tissues and the effects of the scanner on a noiseless image.

    noise: standard deviation of each Rician component, in units of the brightest tissue.
    bias: log gain per 100 mm sideways and backwards, and log fall-off at 100 mm from the centre of the image.
    blur: sigma in pixels.
    sharpen: strength of edge enhancement, which causes ringing.
    gamma: exponent of the grey scale.
    saturated_mm: distance of the saturation band's edge in front of the centre of the image; None without a band.
    ghost: share of a displaced copy of the image (motion).
    gain: stored value of signal 1.
    """

    palette: Palette
    noise: float
    bias: Vector
    blur: float
    sharpen: float
    gamma: float
    saturated_mm: float | None
    ghost: float
    gain: float


@dataclass(frozen=True)
class SeriesPlan:
    """A series to be acquired: frames and instance numbers in the same order."""

    view: View
    frames: tuple[Frame, ...]
    instance_numbers: tuple[int, ...]
    look: Look
    compression: Compression
    thickness_mm: float
    spacing_between_slices_mm: float | None


#: Shares of studies whose axial slices start at L1-L2, L2-L3 and L3-L4. The levels above have no subarticular label.
_AXIAL_START = (0.917, 0.041, 0.042)
#: Share of sagittal series of the real set in which patient x increases with the instance number.
_LEFT_LAST = 0.64


def plan_study(
    patient: Patient, scanners: Scanners, size: Size, generator: np.random.Generator, complete: bool = False
) -> tuple[SeriesPlan, ...]:
    """Draw the series of one study. `complete`: whether it must have every view, with axial slices up to L1-L2."""
    if scanners is Scanners.MIXED:
        scanners = Scanners(generator.choice([Scanners.FIRST.value, Scanners.SECOND.value]))
    if scanners is Scanners.VARIED:
        return _plan_varied_study(patient, size, generator, complete)
    planner = _Planner(patient, scanners is Scanners.SECOND, size is Size.FULL, generator)
    t1 = planner.sagittal(View.SAGITTAL_T1)
    t2 = planner.sagittal(View.SAGITTAL_T2_STIR, like=t1 if generator.uniform() < 0.8 else None)
    axial = planner.axial(0 if complete else int(generator.choice(3, p=_AXIAL_START)))
    missing = int(generator.choice(4, p=(0.976, 0.01, 0.008, 0.006)))
    kept = (t1, t2, *axial)
    if missing and not complete:
        view = tuple(View)[missing - 1]
        kept = tuple(plan for plan in kept if plan.view is not view)
    return kept


def _plan_varied_study(
    patient: Patient, size: Size, generator: np.random.Generator, complete: bool
) -> tuple[SeriesPlan, ...]:
    """Plan a study of the varied scanners: its series differ in contrast, field of view and resolution."""
    planner = _VariedPlanner(patient, bool(generator.random() < 0.5), size is Size.FULL, generator)
    t1 = planner.sagittal(View.SAGITTAL_T1)
    t2 = planner.sagittal(View.SAGITTAL_T2_STIR, like=t1 if generator.uniform() < 0.6 else None)
    return (t1, t2, *planner.axial(0 if complete else int(generator.choice(3, p=_AXIAL_START))))


@dataclass(frozen=True)
class _Planner:
    patient: Patient
    second: bool
    full: bool
    generator: np.random.Generator

    def sagittal(self, view: View, like: SeriesPlan | None = None) -> SeriesPlan:
        """Plan a sagittal stack, with the same slice positions as the series `like` if that is given."""
        draw = self.generator
        frames = like.frames if like else self._sagittal_frames()
        if (frames[0].centre_mm[0] < frames[-1].centre_mm[0]) != (draw.uniform() < _LEFT_LAST):
            frames = frames[::-1]
        if view is View.SAGITTAL_T1:
            weighting = Weighting.T1
        elif draw.uniform() < (0.9 if self.second else 0.05):
            weighting = Weighting.STIR if draw.uniform() < 0.6 else Weighting.T2_FAT_SUPPRESSED
        else:
            weighting = Weighting.T2
        return self._series(view, frames, self._look(weighting, sagittal=True))

    def axial(self, first_level: int) -> tuple[SeriesPlan, ...]:
        """Plan axial blocks along the discs, or one straight stack, sometimes divided into two series."""
        draw = self.generator
        levels = range(first_level, len(LEVELS))
        blocks = self._axial_blocks(levels) if draw.uniform() < 0.65 else self._straight_stack(levels)
        if draw.uniform() < 0.2:
            blocks = [block[::-1] for block in blocks[::-1]]
        suppressed = draw.uniform() < (0.5 if self.second else 0.0)
        look = self._look(Weighting.T2_FAT_SUPPRESSED if suppressed else Weighting.T2, sagittal=False)
        if draw.uniform() < 0.16 and len(blocks) > 2:
            cut = int(draw.integers(1, len(blocks) - 1))
            parts = [blocks[: cut + 1], blocks[cut:] if draw.uniform() < 0.3 else blocks[cut + 1 :]]
        else:
            parts = [blocks]
        return tuple(
            self._series(View.AXIAL_T2, tuple(frame for block in part for frame in block), look) for part in parts
        )

    def _sagittal_frames(self) -> tuple[Frame, ...]:
        draw = self.generator
        if self.full:
            columns, field, count, gap = draw.choice((384, 448, 512)), draw.uniform(240, 300), 17, 4.4
            count = int(draw.integers(14, 20))
        else:
            columns, field = (
                draw.choice((240, 256, 288) if not self.second else (224, 240, 256)),
                draw.uniform(198, 216),
            )
            count, gap = int(draw.integers(12, 15)), draw.uniform(4.0, 4.7)
        spacing = float(np.round(field / columns, 4))
        rows = int(columns)
        top, bottom = (self.patient.level_position_mm(level) for level in (LEVELS[0], LEVELS[-1]))
        centre = (top + bottom) / 2 + draw.normal(0, (1.0, 5.0, 4.0)) + (0, 4.0, 0)
        yaw, roll = np.deg2rad(draw.normal(0, (1.2, 0.8)))
        posterior = np.array([np.sin(yaw), np.cos(yaw), 0.0])
        caudal = np.array([np.sin(roll), 0.0, -np.cos(roll)])
        caudal = _unit(caudal - (caudal @ posterior) * posterior)
        normal = np.cross(caudal, posterior)
        offsets = (np.arange(count) - (count - 1) / 2) * gap
        return tuple(
            _frame(centre + normal * offset, posterior, caudal, spacing, (rows, int(columns))) for offset in offsets
        )

    def _axial_shape(self) -> tuple[float, tuple[int, int]]:
        draw = self.generator
        if self.full:
            columns, field = int(draw.choice((320, 384, 512))), draw.uniform(170, 210)
        else:
            columns = int(draw.choice((192, 208) if self.second else (208, 224, 240)))
            field = draw.uniform(138, 155)
        rows = columns if draw.uniform() < 0.8 else int(columns * 0.875)
        return float(np.round(field / columns, 4)), (rows, columns)

    def _axial_blocks(self, levels: range) -> list[list[Frame]]:
        draw = self.generator
        spacing, shape = self._axial_shape()
        count, gap = int(draw.integers(3, 6)), draw.uniform(3.8, 4.6)
        shift = draw.normal(0, (4.0, 4.0))
        blocks = []
        for level in levels:
            left, posterior = self.patient.level_axes(LEVELS[level])
            posterior = _unit(posterior + np.cross(left, posterior) * np.tan(np.deg2rad(draw.normal(0, 2.5))))
            normal = np.cross(left, posterior)
            centre = self.patient.level_position_mm(LEVELS[level], v=14.0) + left * shift[0] + posterior * shift[1]
            centre = centre + normal * draw.normal(0, 0.8)
            offsets = ((count - 1) / 2 - np.arange(count)) * gap
            blocks.append([_frame(centre + normal * offset, left, posterior, spacing, shape) for offset in offsets])
        return blocks

    def _straight_stack(self, levels: range) -> list[list[Frame]]:
        """Plan slices of one direction, in parts of about one level each, so that the stack can be divided."""
        draw = self.generator
        spacing, shape = self._axial_shape()
        gap = draw.uniform(3.9, 4.6) if self.full else draw.uniform(4.6, 5.6)
        left, posterior = self.patient.level_axes(LEVELS[2])
        posterior = _unit(posterior + np.cross(left, posterior) * np.tan(np.deg2rad(draw.normal(4, 4))))
        normal = np.cross(left, posterior)
        shift = left * draw.normal(0, 4) + posterior * draw.normal(0, 4)
        top, bottom = (self.patient.level_position_mm(LEVELS[i], v=20.0) for i in (levels[0], levels[-1]))
        heights = np.arange(float(top @ normal) + 7, float(bottom @ normal) - 9, -gap)
        frames = []
        for height in heights:
            share = (height - bottom @ normal) / (top @ normal - bottom @ normal)
            along = bottom + (top - bottom) * share
            middle = (top + bottom) / 2
            foot = middle + 0.8 * (along - middle)
            foot = foot + normal * (height - foot @ normal) + shift
            frames.append(_frame(foot, left, posterior, spacing, shape))
        per_part = max(len(frames) // max(len(levels), 1), 1)
        return [frames[i : i + per_part] for i in range(0, len(frames), per_part)]

    def _look(self, weighting: Weighting, sagittal: bool) -> Look:
        draw = self.generator
        palette = standard_palette(weighting)
        variation = draw.normal(1.0, 0.07, len(Tissue))
        signal = np.clip(np.array(palette.signal) * variation, 0, 1.08)
        if self.second:
            signal = _other_contrast(signal, weighting, draw)
        noise = draw.uniform(0.05, 0.08) if self.second else draw.uniform(0.014, 0.03)
        strong = 1.7 if self.second else 1.0
        banded = sagittal and draw.uniform() < (0.3 if self.second else 0.7)
        return Look(
            palette=replace(palette, signal=tuple(float(value) for value in signal)),
            noise=float(noise),
            bias=(
                float(draw.normal(0, 0.1) * strong),
                float(draw.uniform(0.1, 0.35) * strong * (-1 if self.second and draw.uniform() < 0.3 else 1)),
                float(draw.uniform(0.1, 0.35) * strong),
            ),
            blur=float(draw.uniform(0.55, 0.95) if self.second else draw.uniform(0.35, 0.6)),
            sharpen=float(draw.uniform(0.5, 1.3) if self.second else draw.uniform(0.0, 0.3)),
            gamma=float(draw.uniform(0.55, 0.8) if self.second else draw.uniform(0.92, 1.1)),
            saturated_mm=float(draw.uniform(30, 48)) if banded else None,
            ghost=float(draw.uniform(0.03, 0.1)) if draw.uniform() < (0.35 if self.second else 0.06) else 0.0,
            gain=float(np.exp(draw.uniform(np.log(350), np.log(2400)))),
        )

    def _series(self, view: View, frames: tuple[Frame, ...], look: Look) -> SeriesPlan:
        draw = self.generator
        first = int(draw.integers(2, 6000)) if draw.uniform() < 0.05 else 1
        steps = np.ones(len(frames), dtype=int)
        if draw.uniform() < 0.06:
            steps += draw.uniform(size=len(frames)) < 0.15
        numbers = first + np.cumsum(steps) - steps[0]
        gap = float(np.abs((frames[1].centre_mm - frames[0].centre_mm) @ frames[0].normal)) if len(frames) > 1 else 4.0
        compression = Compression(draw.choice([c.value for c in Compression], p=(0.93, 0.04, 0.03)))
        return SeriesPlan(
            view=view,
            frames=frames,
            instance_numbers=tuple(int(number) for number in numbers),
            look=look,
            compression=compression,
            thickness_mm=round(gap * 0.9, 1),
            spacing_between_slices_mm=None if draw.uniform() < 0.06 else round(gap, 2),
        )


class _VariedPlanner(_Planner):
    """Plans series whose fields of view and appearance are drawn from wide ranges."""

    def _sagittal_frames(self) -> tuple[Frame, ...]:
        draw = self.generator
        columns = int(draw.choice((320, 384, 512)) if self.full else draw.choice((160, 192, 224, 256)))
        field = float(draw.uniform(210, 340))
        spacing = float(np.round(field / columns, 4))
        rows = int(columns * draw.choice((1.0, 1.0, 1.15, 0.85)))
        count, gap = int(draw.integers(9, 18)), float(draw.uniform(3.5, 5.5))
        top, bottom = (self.patient.level_position_mm(level) for level in (LEVELS[0], LEVELS[-1]))
        slack = max((rows * spacing - (top - bottom)[2]) / 2 - 25, 3.0)
        centre = (top + bottom) / 2 + draw.normal(0, (3.0, 12.0, 1.0)) + (0, 4.0, 0)
        centre[2] += float(np.clip(draw.normal(0, 15), -slack, slack))
        yaw, roll, pitch = np.deg2rad(draw.normal(0, (3.0, 2.0, 3.0)))
        posterior = _unit(np.array([np.sin(yaw), np.cos(yaw), np.sin(pitch)]))
        caudal = np.array([np.sin(roll), 0.0, -np.cos(roll)])
        caudal = _unit(caudal - (caudal @ posterior) * posterior)
        normal = np.cross(caudal, posterior)
        offsets = (np.arange(count) - (count - 1) / 2) * gap
        return tuple(
            _frame(centre + normal * offset, posterior, caudal, spacing, (rows, columns)) for offset in offsets
        )

    def _look(self, weighting: Weighting, sagittal: bool) -> Look:
        draw = self.generator
        look = super()._look(weighting, sagittal)
        signal = np.array(look.palette.signal) * np.exp(draw.normal(0, 0.22, len(Tissue)))
        if weighting is Weighting.T1:  # discs are usually darker than marrow there
            signal[[Tissue.ANNULUS, Tissue.NUCLEUS]] *= draw.uniform(0.5, 1.0)
        signal[Tissue.VESSEL] = draw.uniform(0.03, 0.4)  # flow may be bright or dark
        if draw.random() < 0.15:  # a contrast that no sequence has
            signal = draw.uniform(0.05, 1.0, len(Tissue))
            signal[[Tissue.AIR, Tissue.CORTEX]] *= 0.1
        return replace(
            look,
            palette=replace(look.palette, signal=tuple(float(value) for value in np.clip(signal, 0.003, 1.1))),
            noise=float(draw.uniform(0.005, 0.05)),
            bias=(float(draw.normal(0, 0.25)), float(draw.uniform(-0.2, 1.2)), float(draw.uniform(0.0, 0.7))),
            gamma=float(draw.uniform(0.6, 1.2)),
            saturated_mm=float(draw.uniform(25, 60)) if sagittal and draw.random() < 0.5 else None,
            ghost=float(draw.uniform(0.02, 0.1)) if draw.random() < 0.15 else 0.0,
        )


def _other_contrast(signal: Array, weighting: Weighting, draw: np.random.Generator) -> Array:
    """Return the contrast of the second family: lower, with darker fluid and brighter muscle."""
    changed = signal.copy()
    changed[Tissue.MUSCLE] *= draw.uniform(1.2, 1.7)
    changed[Tissue.ANNULUS] *= draw.uniform(1.2, 1.6)
    changed[Tissue.MARROW] *= draw.uniform(0.65, 1.0)
    if weighting is Weighting.T1:
        changed[Tissue.FAT] *= draw.uniform(0.7, 1.0)
        changed[Tissue.FLUID] *= draw.uniform(0.6, 1.6)
    else:
        changed[Tissue.FLUID] *= draw.uniform(0.7, 0.95)
        changed[Tissue.FAT] *= draw.uniform(0.7, 1.35)
    return np.clip(changed, 0, 1.08)


def _frame(centre: Array, row: Array, column: Array, spacing: float, shape: tuple[int, int]) -> Frame:
    corner = centre - row * spacing * (shape[1] - 1) / 2 - column * spacing * (shape[0] - 1) / 2
    return Frame(_vector(corner), _vector(row), _vector(column), (spacing, spacing), shape)


def _vector(array: Array) -> Vector:
    """Round to six decimals, as in the headers of the real set."""
    x, y, z = (round(float(value), 6) for value in array)
    return (x, y, z)


def _unit(vector: Array) -> Array:
    return vector / np.linalg.norm(vector)
