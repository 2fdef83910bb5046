"""Tissues, their brightness under each weighting, and their fine texture."""

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
    """The tissues that are painted."""

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


# Signal in turbo spin echo images, relative to the brightest common tissue (fat on T1, cerebrospinal fluid on T2).
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
    """The brightness of all tissues in a series; `signal` is indexed by Tissue, with values of about 0 to 1."""

    weighting: Weighting
    signal: tuple[float, ...]


def standard_palette(weighting: Weighting) -> Palette:
    """Return the signals of one weighting."""
    column = list(Weighting).index(weighting)
    return Palette(weighting, tuple(_SIGNAL[tissue][column] for tissue in Tissue))


_TEXTURE_SIZE = 96
_TEXTURE_STEP_MM = 0.8


@dataclass(frozen=True)
class Texture:
    """Noise of standard deviation 1 at some points, fixed in space so that all series of a patient show the same.

    index: cell of each point in the volumes.
    grain: fine noise, on a scale of about 1 mm.
    swell: smooth noise, on a scale of about 8 mm.
    """

    index: npt.NDArray[np.intp]
    grain: Field
    swell: Field

    @property
    def streak(self) -> Field:
        """Noise elongated along the spine, like muscle fibres."""
        return _volumes()["streak"].take(self.index)

    def take(self, index: npt.NDArray[np.intp]) -> "Texture":
        return Texture(self.index.take(index), self.grain.take(index), self.swell.take(index))


def texture_index(x: Field, y: Field, z: Field) -> npt.NDArray[np.intp]:
    """Return the cell of each point in the periodic volumes; coordinates are in mm and must be positive."""
    scale = np.float32(1 / _TEXTURE_STEP_MM)
    column, row, plane = ((axis * scale).astype(np.intp) % _TEXTURE_SIZE for axis in (x, y, z))
    return (column * _TEXTURE_SIZE + row) * _TEXTURE_SIZE + plane


def grain_at(index: npt.NDArray[np.intp]) -> Field:
    return _volumes()["grain"].take(index)


def swell_at(index: npt.NDArray[np.intp]) -> Field:
    return _volumes()["swell"].take(index)


@cache
def _volumes() -> dict[str, Field]:
    """Return periodic band-limited noise, axes (x, y, z), flattened.

    The volumes are the same for all patients, which differ in their origin (`texture_origin_mm`).
    """
    noise = np.random.default_rng(20241).standard_normal((_TEXTURE_SIZE,) * 3).astype(np.float32)
    fine, coarse = (_standard(gaussian_filter(noise, sigma, mode="wrap")) for sigma in (0.9, 2.5))
    return {
        "grain": _standard(fine + 0.7 * coarse),
        "streak": _standard(gaussian_filter(noise[::-1], (1.0, 1.0, 8.0), mode="wrap")),
        "swell": _standard(gaussian_filter(noise, 5.0, mode="wrap")),
    }


def _standard(volume: Field) -> Field:
    return (volume / volume.std()).ravel()
