"""What differs between people of one skeleton: soft tissue, foramina, and the bone behind them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.phantom.tissues import Tissue

Array = npt.NDArray[np.float64]

#: What the organs in front of the spine may consist of.
_ORGAN_TISSUES = (
    *(Tissue.BOWEL, Tissue.MUSCLE, Tissue.KIDNEY, Tissue.FLUID, Tissue.AIR),
    *(Tissue.BOWEL, Tissue.VESSEL, Tissue.FAT, Tissue.SKIN),
)


@dataclass(frozen=True)
class Organ:
    """An ellipsoid in front of the spine: its centre (u, v, s) and its half axes, in mm."""

    tissue: Tissue
    centre_mm: Array
    half_mm: Array


@dataclass(frozen=True)
class Arch:
    """The foramina with their roots, and the bone around them: what parasagittal slices show.

    Attributes:
        foramen_depth: Depth of the foramina, from front to back, as a factor.
        foramen_height: Their height, as a factor.
        lowest_foramen: Size of those at L5-S1, compared with the others.
        root: Size of the roots in the foramina, as a factor.
        pillar: Thickness of the articular pillars, as a factor.
        joint_mm: Half the thickness of the joint spaces, mm.
        overlap_mm: How far the processes of a facet joint reach past the disc, mm.
        slant: Inclination of the inferior processes, mm to the back per mm downwards; that of the superior ones is
            half of it.
        sacral_foramen: How wide the foramina of the sacrum are, 0 to 1.
    """

    foramen_depth: float
    foramen_height: float
    lowest_foramen: float
    root: float
    pillar: float
    joint_mm: float
    overlap_mm: float
    slant: float
    sacral_foramen: float


@dataclass(frozen=True)
class Habitus:
    """Soft tissue, foramina, and the bone around them.

    Attributes:
        psoas_gap: Distance of the psoas from the side of the bodies, mm.
        psoas_size: Its size, as a factor.
        bowel: Share of the abdomen's bowel that is painted.
        vessel_shift: Distance of the great vessels from their usual place, to the left, mm.
        muscle_depth: Depth of the back muscles, as a factor.
        buttocks: Depth of the fat behind the sacrum, as a factor.
        hollow: How much less than the spine the skin of the back is curved, mm at 100 mm from the middle.
        skin_wave: Amplitude in mm, wavelength in mm and phase of a wave of the skin.
        organs: Pelvic and abdominal organs.
        endplate_mm: Half the thickness of the dark line between bodies and discs, mm.
        arch: The bone and the openings beside the canal.
    """

    psoas_gap: float
    psoas_size: float
    bowel: float
    vessel_shift: float
    muscle_depth: float
    buttocks: float
    hollow: float
    skin_wave: tuple[float, float, float]
    organs: tuple[Organ, ...]
    endplate_mm: float
    arch: Arch


def draw_habitus(generator: np.random.Generator) -> Habitus:
    """Draw the habitus of a patient."""
    return Habitus(
        psoas_gap=float(generator.uniform(-3, 6)),
        psoas_size=float(generator.uniform(0.7, 1.5)),
        bowel=float(generator.uniform(0, 1)),
        vessel_shift=float(generator.normal(0, 15)),
        muscle_depth=float(generator.uniform(0.6, 1.25)),
        buttocks=float(generator.uniform(0, 1)),
        hollow=float(generator.uniform(-5, 20)),
        skin_wave=(
            float(generator.uniform(0, 8)),
            float(generator.uniform(80, 300)),
            float(generator.uniform(0, 2 * np.pi)),
        ),
        organs=tuple(_draw_organ(generator) for _ in range(int(generator.integers(3, 14)))),
        endplate_mm=float(generator.uniform(0.3, 1.2)),
        arch=_draw_arch(generator),
    )


def _draw_arch(generator: np.random.Generator) -> Arch:
    return Arch(
        foramen_depth=float(generator.uniform(0.55, 1.05)),
        foramen_height=float(generator.uniform(0.6, 0.95)),
        lowest_foramen=float(generator.uniform(0.55, 1.05)),
        root=float(generator.uniform(0.9, 1.25)),
        pillar=float(generator.uniform(0.8, 1.25)),
        joint_mm=float(generator.uniform(0.3, 1.0)),
        overlap_mm=float(generator.uniform(3.0, 9.0)),
        slant=float(generator.uniform(0.2, 0.45)),
        sacral_foramen=float(generator.uniform(0.0, 1.0)),
    )


def _draw_organ(generator: np.random.Generator) -> Organ:
    """Draw an organ, half of them in front of the sacrum."""
    lowest, highest = (-190, -80) if generator.random() < 0.5 else (-90, 200)
    half_mm = generator.uniform(6, 35, 3)
    v = -generator.uniform(20, 90) - half_mm[1]
    centre_mm = np.array([generator.uniform(-50, 50), v, generator.uniform(lowest, highest)])
    return Organ(_ORGAN_TISSUES[int(generator.integers(len(_ORGAN_TISSUES)))], centre_mm, half_mm)
