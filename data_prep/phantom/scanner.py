"""Simulate a scanner: turn noiseless images of the anatomy into the values that a scanner stores."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from data_prep.geometry import Frame, Plane
from data_prep.phantom.anatomy import Patient
from data_prep.phantom.protocols import Look, SeriesPlan
from data_prep.phantom.render import render

Array32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint16]

#: The largest value of 12 stored bits.
LARGEST = 4095


def acquire(patient: Patient, plan: SeriesPlan, generator: np.random.Generator) -> list[Pixels]:
    """Return the images of a series, in the order of its frames."""
    return [expose(render(patient, frame, plan.look.palette), frame, plan.look, generator) for frame in plan.frames]


def expose(image: Array32, frame: Frame, look: Look, generator: np.random.Generator) -> Pixels:
    """Apply coil sensitivity, resolution, motion, Rician noise and grey scale to an image, and store it in 12 bits."""
    image = image * _coil(frame, look)
    if look.blur:
        image = gaussian_filter(image, look.blur, mode="nearest")
    if look.sharpen:
        image = image + look.sharpen * (image - gaussian_filter(image, 1.3, mode="nearest"))
    if look.ghost:
        image = (1 - look.ghost) * image + look.ghost * np.roll(image, image.shape[0] // 9, axis=0)
    if look.noise:
        real, imaginary = generator.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(look.noise)
        image = np.sqrt((image + real) ** 2 + imaginary**2)
    image = np.clip(image, 0, None) ** np.float32(look.gamma) * np.float32(look.gain)
    return np.clip(np.rint(image), 0, LARGEST).astype(np.uint16)


def _coil(frame: Frame, look: Look) -> Array32:
    """Return the coil sensitivity per pixel: a slope, a fall-off from the centre, and a saturated band in front."""
    rows, columns = frame.shape
    across = (np.arange(columns, dtype=np.float32) - (columns - 1) / 2) * np.float32(frame.spacing_mm[1] / 100)
    down = (np.arange(rows, dtype=np.float32) - (rows - 1) / 2) * np.float32(frame.spacing_mm[0] / 100)
    # The coil lies behind the patient: to the right in sagittal images, below in axial ones.
    behind, beside = (across[None], down[:, None]) if frame.plane is Plane.SAGITTAL else (down[:, None], across[None])
    sideways, backwards, fall = look.bias
    gain = np.exp(sideways * beside + backwards * behind - fall * (beside**2 + behind**2))
    if look.saturated_mm is not None:
        gain = gain * (0.16 + 0.84 / (1 + np.exp(-(behind * 100 + look.saturated_mm) / 4)))
    return gain.astype(np.float32)
