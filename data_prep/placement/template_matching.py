"""Finding the lumbar column in sagittal slices with a mean picture of it.

The whole column is matched at once, so that a level is hardly skipped: normalised cross-correlation
over shifts (by Fourier transform), for some scales and tilts. Where two poses fit alike, the one
nearer to the usual wins.

Pictures are on a grid of `GRID_MM`: rows run to -z (caudal), columns to +y (posterior).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter, map_coordinates

from data_prep.dicom.pixels import Grey
from data_prep.geometry import Array, Frame
from data_prep.placement.pose import Pose
from data_prep.studies.studies import Series

Picture = npt.NDArray[np.float32]

GRID_MM = 2.0
#: Half height (z) and half width (y) of what is seen of a study around where its column may be, in pixels.
SEEN = (70, 50)
#: The same of the mean picture: the lumbar column with half a vertebra at its ends, and its surroundings.
PICTURE = (50, 24)
#: Brightness is made local over this distance: surface coils shine on the back.
LOCAL_MM = 16.0
SCALES = np.arange(0.82, 1.2, 0.06)
TILTS = np.deg2rad(np.arange(-15.0, 16.0, 5.0))
FINE_SCALES = np.arange(-0.04, 0.05, 0.02)
FINE_TILTS = np.deg2rad(np.arange(-4.0, 5.0, 2.0))
#: Standard deviations of scale and tilt among patients.
SCALE_SPREAD, TILT_SPREAD = 0.08, np.deg2rad(6.0)
#: How much of the correlation (at most 1) a pose loses that lies one standard deviation from the usual.
PRIOR_WEIGHT = 0.02
#: Slices that fit worse than the best by this much have a weight of 1/e in where the middle is.
SCORE_SPREAD = 0.05
#: Slices looked at for the middle one, from where it usually is outwards.
SLICES = 7


@dataclass(frozen=True)
class Sagittal:
    """A sagittal slice with its place."""

    grey: Grey
    frame: Frame

    @property
    def x_mm(self) -> float:
        return float(self.frame.centre_mm[0])


@dataclass(frozen=True)
class Seen:
    """A sagittal slice on the grid, with brightness made local: `centre_mm` is the patient place of its middle."""

    centre_mm: Array
    picture: Picture


def match(picture: Picture, series: Series, usual: Pose, spread_mm: Array) -> tuple[Pose, float]:
    """The pose of the mean picture in a sagittal series, and how well it fits (a correlation, less what is unusual).

    spread_mm: standard deviation of the usual origin. Shift, scale and tilt are searched on the slice where
    the middle usually is, then the slice, then both again more finely there.
    """
    slices = nearest_sagittal(series, usual.origin_mm[0])[:SLICES]
    seen = [look(image, usual.origin_mm) for image in slices]
    coarse, _ = _search(picture, seen[0], usual, spread_mm, SCALES, TILTS)
    fixed = np.array([coarse.scale]), np.array([coarse.tilt])
    x_mm = np.array([image.x_mm for image in slices])
    scores = np.array([_search(picture, one, usual, spread_mm, *fixed)[1] for one in seen])
    scores -= PRIOR_WEIGHT * ((x_mm - usual.origin_mm[0]) / spread_mm[0]) ** 2
    scales, tilts = coarse.scale + FINE_SCALES, coarse.tilt + FINE_TILTS
    fine, score = _search(picture, seen[int(np.argmax(scores))], usual, spread_mm, scales, tilts)
    # Slices beside the middle one fit nearly as well, on both sides alike: their balance is finer than their gaps.
    weights = np.exp((scores - scores.max()) / SCORE_SPREAD)
    middle_x_mm = float(weights @ x_mm / weights.sum())
    return Pose(np.array([middle_x_mm, *fine.origin_mm[1:]]), fine.scale, fine.tilt), score


def look(image: Sagittal, centre_mm: Array) -> Picture:
    """A sagittal slice on the grid around a place: (2 * SEEN + 1), brightness made local, 0 off the image."""
    frame = image.frame
    grey = gaussian_filter(image.grey.astype(np.float32), [0.4 * GRID_MM / spacing for spacing in frame.spacing_mm])
    z, y = (np.arange(-half, half + 1) * GRID_MM for half in SEEN)
    column, row = frame.to_pixel((image.x_mm, centre_mm[1], centre_mm[2]))
    # Pixel steps of one mm along patient y and z, in the plane of the image.
    along_row, down_column = np.array(frame.row_direction), np.array(frame.column_direction)
    columns = column + (along_row[1] * y[None, :] - along_row[2] * z[:, None]) / frame.spacing_mm[1]
    rows = row + (down_column[1] * y[None, :] - down_column[2] * z[:, None]) / frame.spacing_mm[0]
    picture: Picture = map_coordinates(grey, [rows, columns], order=1, cval=0.0)
    inside = (rows >= 0) & (rows <= frame.shape[0] - 1) & (columns >= 0) & (columns <= frame.shape[1] - 1)
    return _made_local(picture, inside.astype(np.float32))


def _made_local(picture: Picture, inside: Picture) -> Picture:
    """Each pixel in standard deviations from the mean of its surroundings."""

    def around(values: Picture) -> Picture:
        blurred: Picture = gaussian_filter(values * inside, LOCAL_MM / GRID_MM)
        return blurred / np.maximum(gaussian_filter(inside, LOCAL_MM / GRID_MM), 1e-3)

    from_mean = picture - around(picture)
    deviation = np.sqrt(around(from_mean**2))
    local = np.clip(from_mean / np.maximum(deviation, 4.0), -3, 3) * inside
    return local.astype(np.float32)


def in_mean_spine(seen: Seen, pose: Pose) -> Picture:
    """A study's picture as the mean spine's grid sees it."""
    return _sample(seen.picture, pose.apply(_grid(*PICTURE)) - seen.centre_mm)


def _grid(half_rows: int, half_columns: int) -> Array:
    """(rows, columns, 3): points of a picture in mm from its middle, in the sagittal plane."""
    z, y = np.meshgrid(
        np.arange(half_rows, -half_rows - 1, -1) * GRID_MM,
        np.arange(-half_columns, half_columns + 1) * GRID_MM,
        indexing="ij",
    )
    return np.stack([np.zeros_like(y), y, z], axis=-1)


def _sample(picture: Picture, place_HW3: Array) -> Picture:
    """Values at places in mm from the picture's middle; 0 outside."""
    half_rows, half_columns = (np.array(picture.shape) - 1) / 2
    rows, columns = half_rows - place_HW3[..., 2] / GRID_MM, half_columns + place_HW3[..., 1] / GRID_MM
    sampled: Picture = map_coordinates(picture, [rows, columns], order=1, cval=0.0)
    return sampled


def _search(
    picture: Picture, seen: Picture, usual: Pose, spread_mm: Array, scales: Array, tilts: Array
) -> tuple[Pose, float]:
    """The pose whose picture correlates best with what is seen around the usual one, and its score."""
    rows, columns = ((np.arange(size) - (size - 1) / 2) * GRID_MM for size in seen.shape)
    far = (rows[:, None] / spread_mm[2]) ** 2 + (columns[None, :] / spread_mm[1]) ** 2
    # scipy.signal.fftconvolve would transform what is seen again for each pose, and takes seconds to import.
    size = [next_fast_len(side + other - 1, real=True) for side, other in zip(seen.shape, picture.shape, strict=True)]
    seen_fourier, energy_fourier = rfft2(seen, size), rfft2(seen**2, size)

    def correlate(fourier: npt.NDArray[np.complex64], turned: Picture) -> Picture:
        """(rows, columns) of what is seen: the sum of products with `turned` centred on each of them."""
        top, left = ((side - 1) // 2 for side in turned.shape)
        product = irfft2(fourier * rfft2(turned[::-1, ::-1], size), size)
        found: Picture = product[top : top + seen.shape[0], left : left + seen.shape[1]]
        return found

    best, best_score = usual, -np.inf
    for scale in scales:
        for tilt in tilts:
            turned = _posed(picture, float(scale), float(tilt))
            weight = (turned != 0).astype(np.float32)
            overlap, energy = correlate(seen_fourier, turned), correlate(energy_fourier, weight)
            # Where little is seen the energy is little too: half of a whole view's is the least that counts.
            least = 0.5 * float(weight.sum()) * float(np.mean(seen**2))
            # On a blank image there is no energy at all: every score is then 0, and the usual pose wins.
            score = overlap / np.sqrt(np.maximum(energy, max(least, 1e-9)) * float((turned**2).sum()))
            unusual = ((scale - 1) / SCALE_SPREAD) ** 2 + (tilt / TILT_SPREAD) ** 2
            score = score - PRIOR_WEIGHT * (far + unusual)
            row, column = np.unravel_index(int(np.argmax(score)), score.shape)
            if score[row, column] > best_score:
                best_score = float(score[row, column])
                shift = np.array([0.0, columns[column], -rows[row]])
                best = Pose(usual.origin_mm + shift, float(scale), float(tilt))
    return best, best_score


def _posed(picture: Picture, scale: float, tilt: float) -> Picture:
    """The mean picture, scaled and tilted about its middle."""
    room = [int(np.ceil(half * (1 + 2.5 * SCALE_SPREAD))) for half in PICTURE]
    return _sample(picture, Pose(np.zeros(3), scale, tilt).invert(_grid(*room)))


def volume_middle(series: Series) -> Array:
    """Middle of the box around the centres of a series' slices."""
    centres = np.array([frame.centre_mm for frame in series.frames.values()])
    middle: Array = (centres.min(axis=0) + centres.max(axis=0)) / 2
    return middle


def nearest_sagittal(series: Series, x_mm: float) -> list[Sagittal]:
    """A series' slices by the distance of their middles from a sagittal plane."""
    slices = [Sagittal(series.slices[place].grey, frame) for place, frame in series.frames.items()]
    return sorted(slices, key=lambda image: abs(image.x_mm - x_mm))
