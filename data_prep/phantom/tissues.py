"""Tissues, how bright each is under each weighting, and their fine texture."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Array32 = npt.NDArray[np.float32]
Field = npt.NDArray[np.floating[Any]]


class Tissue(IntEnum):
    """What is painted."""

    AIR = 0
    FAT = auto()
    MUSCLE = auto()
    MARROW = auto()
    CORTEX = auto()
    ANNULUS = auto()
    NUCLEUS = auto()
    LIGAMENT = auto()
    FLUID = auto()
    ROOT = auto()
    CORD = auto()
    VESSEL = auto()
    VEIN = auto()
    BOWEL = auto()
    KIDNEY = auto()
    CARTILAGE = auto()
    MODIC_FLUID = auto()
    MODIC_FAT = auto()
    SKIN = auto()


class Weighting(StrEnum):
    """Contrast of a series."""

    T1 = "t1"
    T2 = "t2"
    T2_FAT_SUPPRESSED = "t2_fat_suppressed"
    STIR = "stir"


# Signal relative to the brightest common tissue (fat on T1, cerebrospinal fluid on T2), of turbo spin echo images.
_SIGNAL: dict[Tissue, tuple[float, float, float, float]] = {
    #                     T1    T2    T2 FS STIR
    Tissue.AIR: (0.005, 0.005, 0.005, 0.005),
    Tissue.FAT: (0.92, 0.70, 0.16, 0.07),
    Tissue.MUSCLE: (0.30, 0.17, 0.20, 0.24),
    Tissue.MARROW: (0.50, 0.37, 0.19, 0.14),
    Tissue.CORTEX: (0.06, 0.05, 0.04, 0.04),
    Tissue.ANNULUS: (0.27, 0.12, 0.12, 0.12),
    Tissue.NUCLEUS: (0.33, 0.66, 0.72, 0.72),
    Tissue.LIGAMENT: (0.14, 0.08, 0.08, 0.08),
    Tissue.FLUID: (0.14, 1.00, 1.00, 1.00),
    Tissue.ROOT: (0.36, 0.30, 0.34, 0.38),
    Tissue.CORD: (0.42, 0.38, 0.42, 0.45),
    Tissue.VESSEL: (0.08, 0.06, 0.06, 0.07),
    Tissue.VEIN: (0.22, 0.55, 0.55, 0.60),
    Tissue.BOWEL: (0.33, 0.34, 0.38, 0.42),
    Tissue.KIDNEY: (0.38, 0.56, 0.62, 0.68),
    Tissue.CARTILAGE: (0.36, 0.62, 0.62, 0.60),
    Tissue.MODIC_FLUID: (0.24, 0.58, 0.62, 0.66),
    Tissue.MODIC_FAT: (0.80, 0.56, 0.17, 0.10),
    Tissue.SKIN: (0.30, 0.22, 0.22, 0.22),
}

#: Relative amplitude of texture.
_ROUGHNESS: dict[Tissue, float] = {
    Tissue.FAT: 0.09,
    Tissue.MUSCLE: 0.16,
    Tissue.MARROW: 0.10,
    Tissue.ANNULUS: 0.12,
    Tissue.NUCLEUS: 0.08,
    Tissue.FLUID: 0.03,
    Tissue.ROOT: 0.08,
    Tissue.BOWEL: 0.30,
    Tissue.KIDNEY: 0.10,
    Tissue.LIGAMENT: 0.20,
    Tissue.MODIC_FLUID: 0.12,
    Tissue.MODIC_FAT: 0.10,
}

ROUGHNESS = np.array([_ROUGHNESS.get(tissue, 0.0) for tissue in Tissue], dtype=np.float32)


@dataclass(frozen=True)
class Palette:
    """signal: brightness of each tissue, indexed by Tissue, about 0..1."""

    weighting: Weighting
    signal: tuple[float, ...]


def standard_palette(weighting: Weighting) -> Palette:
    """The table's column of one weighting."""
    column = list(Weighting).index(weighting)
    return Palette(weighting, tuple(_SIGNAL[tissue][column] for tissue in Tissue))


_TEXTURE_SIZE = 96
_TEXTURE_STEP_MM = 0.8


@cache
def _texture_volume() -> Array32:
    """Periodic band-limited noise, standard deviation 1: the same for everybody; patients differ in where it starts."""
    noise = np.random.default_rng(20241).standard_normal((_TEXTURE_SIZE,) * 3).astype(np.float32)
    fine = gaussian_filter(noise, 0.9, mode="wrap")
    coarse = gaussian_filter(noise, 2.5, mode="wrap")
    return fine / fine.std() * 0.8 + coarse / coarse.std() * 0.6


def texture(x: Field, y: Field, z: Field, stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Array32:
    """Noise of standard deviation about 1 fixed in space, at points in mm; `stretch` lengthens its grain per axis."""
    index = np.zeros(x.shape, dtype=np.int32)
    for axis, factor in zip((x, y, z), stretch, strict=True):
        step = np.floor(axis * np.float32(1 / (_TEXTURE_STEP_MM * factor))).astype(np.int32)
        index = index * _TEXTURE_SIZE + step % _TEXTURE_SIZE
    return _texture_volume().ravel().take(index)
