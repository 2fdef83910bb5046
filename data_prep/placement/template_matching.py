"""Template matching: the pose of the lumbar spine in sagittal slices, found with a mean image of it.

The complete lumbar spine is matched at once, which makes an error by one level unlikely: normalised
cross-correlation over translations (by Fourier transform), for a grid of scales and tilts. Poses that
are far from the expected one are penalised.

Grid images have pixels of `GRID_MM`: rows run to -z (caudal), columns to +y (posterior).
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

GridImage = npt.NDArray[np.float32]

GRID_MM = 2.0
#: Half height (z) and half width (y) of a patch, the part of a slice that is searched, in pixels.
PATCH_HALF = (70, 50)
#: Half height and half width of the template: the lumbar spine, half a vertebra beyond its ends, and its surroundings.
TEMPLATE_HALF = (50, 24)
#: Brightness is normalised over this distance, because surface coils brighten the back.
LOCAL_MM = 16.0
SCALES = np.arange(0.82, 1.2, 0.06)
TILTS = np.deg2rad(np.arange(-15.0, 16.0, 5.0))
FINE_SCALES = np.arange(-0.04, 0.05, 0.02)
FINE_TILTS = np.deg2rad(np.arange(-4.0, 5.0, 2.0))
#: Standard deviations of scale and tilt among patients.
SCALE_DEVIATION, TILT_DEVIATION = 0.08, np.deg2rad(6.0)
#: Penalty on the correlation (at most 1) of a pose that lies one standard deviation from the expected one.
PRIOR_WEIGHT = 0.02
#: A slice whose score is lower than the best by this much has a weight of 1/e in the midline's position.
SCORE_SCALE = 0.05
#: Distance, in mm, of a pose with miscounted levels from the true one.
NEXT_LEVEL_MM = (22.0, 46.0)
#: Number of slices that are searched for the midline, by their distance from its expected position.
SLICES = 7


@dataclass(frozen=True)
class Sagittal:
    """A sagittal slice with geometry."""

    grey: Grey
    frame: Frame

    @property
    def x_mm(self) -> float:
        """Patient x of the middle of the slice."""
        return float(self.frame.centre_mm[0])


@dataclass(frozen=True)
class Patch:
    """A part of a sagittal slice on the grid, with locally normalised brightness; `centre_mm` is its centre, LPS."""

    centre_mm: Array
    image: GridImage


@dataclass(frozen=True)
class Match:
    """A pose that was found by its template.

    Attributes:
        pose: The pose.
        score: The correlation, less the penalty for the distance from the expected pose.
        next_score: The best score of a pose that lies about one level higher or lower.
    """

    pose: Pose
    score: float
    next_score: float


def match(template: GridImage, series: Series, expected: Pose, deviation_mm: Array) -> Match:
    """Find the pose of the template in a sagittal series.

    Translation, scale and tilt are searched on the slice at the expected midline, then the slices are compared, then
    translation, scale and tilt are searched more finely on the best slice.

    Args:
        template: The mean image of the spine.
        series: The series to search, with at least one slice with geometry.
        expected: The mean pose in such volumes.
        deviation_mm: Standard deviation of the expected pose's origin, (3,).

    Returns:
        The pose, with its score and that of its nearest alternative.
    """
    slices = nearest_sagittal(series, expected.origin_mm[0])[:SLICES]
    patches = [resample(image, expected.origin_mm) for image in slices]
    coarse, coarse_score, score_of_row = _search(template, patches[0], expected, deviation_mm, SCALES, TILTS)
    margin = coarse_score - _next_level_score(score_of_row, coarse.origin_mm[2] - expected.origin_mm[2])
    fixed = np.array([coarse.scale]), np.array([coarse.tilt])
    x_mm = np.array([image.x_mm for image in slices])
    scores = np.array([_search(template, patch, expected, deviation_mm, *fixed)[1] for patch in patches])
    scores -= PRIOR_WEIGHT * ((x_mm - expected.origin_mm[0]) / deviation_mm[0]) ** 2
    scales, tilts = coarse.scale + FINE_SCALES, coarse.tilt + FINE_TILTS
    fine, score, _ = _search(template, patches[int(np.argmax(scores))], expected, deviation_mm, scales, tilts)
    # Slices on both sides of the midline have similar scores: their weighted mean is finer than the slice spacing.
    weights = np.exp((scores - scores.max()) / SCORE_SCALE)
    middle_x_mm = float(weights @ x_mm / weights.sum())
    return Match(Pose(np.array([middle_x_mm, *fine.origin_mm[1:]]), fine.scale, fine.tilt), score, score - margin)


def _next_level_score(score_of_row: Array, height_mm: float) -> float:
    """Return the best score of a pose that lies `NEXT_LEVEL_MM` above or below a height over the patch's centre."""
    rows_mm = (np.arange(len(score_of_row), dtype=float)[::-1] - (len(score_of_row) - 1) / 2) * GRID_MM
    distance_mm = np.abs(rows_mm - height_mm)
    is_next = (distance_mm >= NEXT_LEVEL_MM[0]) & (distance_mm <= NEXT_LEVEL_MM[1])
    return float(score_of_row[is_next].max(initial=-1.0))


def resample(image: Sagittal, centre_mm: Array) -> GridImage:
    """Resample a sagittal slice on the grid around a position and normalise its brightness locally.

    The shape is 2 * `PATCH_HALF` + 1; values off the image are 0.
    """
    frame = image.frame
    grey = gaussian_filter(image.grey.astype(np.float32), [0.4 * GRID_MM / spacing for spacing in frame.spacing_mm])
    z, y = (np.arange(-half, half + 1) * GRID_MM for half in PATCH_HALF)
    column, row = frame.to_pixel((image.x_mm, centre_mm[1], centre_mm[2]))
    # The header's directions as they are: the orthonormalised ones of `Frame.to_pixel` would change an atlas's digits.
    along_row, down_column = np.array(frame.row_direction), np.array(frame.column_direction)
    columns = column + (along_row[1] * y[None, :] - along_row[2] * z[:, None]) / frame.spacing_mm[1]
    rows = row + (down_column[1] * y[None, :] - down_column[2] * z[:, None]) / frame.spacing_mm[0]
    resampled: GridImage = map_coordinates(grey, [rows, columns], order=1, cval=0.0)
    inside = (rows >= 0) & (rows <= frame.shape[0] - 1) & (columns >= 0) & (columns <= frame.shape[1] - 1)
    return _locally_normalised(resampled, inside.astype(np.float32))


def _locally_normalised(image: GridImage, inside: GridImage) -> GridImage:
    """Return each pixel in standard deviations from the mean of its surroundings; 0 outside the slice."""

    def around(values: GridImage) -> GridImage:
        blurred: GridImage = gaussian_filter(values * inside, LOCAL_MM / GRID_MM)
        return blurred / np.maximum(gaussian_filter(inside, LOCAL_MM / GRID_MM), 1e-3)

    from_mean = image - around(image)
    deviation = np.sqrt(around(from_mean**2))
    local = np.clip(from_mean / np.maximum(deviation, 4.0), -3, 3) * inside
    return local.astype(np.float32)


def in_mean_spine(patch: Patch, pose: Pose) -> GridImage:
    """Resample a study's patch on the template's grid, with the spine in the mean pose."""
    return _sample(patch.image, pose.apply(_grid(*TEMPLATE_HALF)) - patch.centre_mm)


def _grid(half_rows: int, half_columns: int) -> Array:
    """Return the pixel positions of a grid image, (rows, columns, 3), in mm from its centre, in the sagittal plane."""
    z, y = np.meshgrid(
        np.arange(half_rows, -half_rows - 1, -1) * GRID_MM,
        np.arange(-half_columns, half_columns + 1) * GRID_MM,
        indexing="ij",
    )
    return np.stack([np.zeros_like(y), y, z], axis=-1)


def _sample(image: GridImage, point_HW3: Array) -> GridImage:
    """Return the values of a grid image at points in mm from its centre; 0 outside."""
    half_rows, half_columns = (np.array(image.shape) - 1) / 2
    rows, columns = half_rows - point_HW3[..., 2] / GRID_MM, half_columns + point_HW3[..., 1] / GRID_MM
    sampled: GridImage = map_coordinates(image, [rows, columns], order=1, cval=0.0)
    return sampled


def _search(
    template: GridImage, patch: GridImage, expected: Pose, deviation_mm: Array, scales: Array, tilts: Array
) -> tuple[Pose, float, Array]:
    """Search a patch around the expected pose for the template.

    Returns:
        The pose with the best score, the score, and the best score of any pose in each row of the patch.
    """
    rows, columns = ((np.arange(size) - (size - 1) / 2) * GRID_MM for size in patch.shape)
    far = (rows[:, None] / deviation_mm[2]) ** 2 + (columns[None, :] / deviation_mm[1]) ** 2
    # scipy.signal.fftconvolve would transform the patch again for each pose, and its import takes seconds.
    size = [next_fast_len(side + other - 1, real=True) for side, other in zip(patch.shape, template.shape, strict=True)]
    patch_fourier, energy_fourier = rfft2(patch, size), rfft2(patch**2, size)

    def correlate(fourier: npt.NDArray[np.complex64], posed: GridImage) -> GridImage:
        """Return for each pixel of the patch the sum of products with `posed` centred on it."""
        top, left = ((side - 1) // 2 for side in posed.shape)
        product = irfft2(fourier * rfft2(posed[::-1, ::-1], size), size)
        found: GridImage = product[top : top + patch.shape[0], left : left + patch.shape[1]]
        return found

    best, best_score = expected, -np.inf
    score_of_row = np.full(patch.shape[0], -np.inf)
    for scale in scales:
        for tilt in tilts:
            posed = _posed(template, float(scale), float(tilt))
            weight = (posed != 0).astype(np.float32)
            overlap, energy = correlate(patch_fourier, posed), correlate(energy_fourier, weight)
            # Beside the image the energy is small and would inflate the score: half of the mean energy is the minimum.
            least = 0.5 * float(weight.sum()) * float(np.mean(patch**2))
            # A blank image has no energy: every correlation is then 0, and the expected pose has the best score.
            score = overlap / np.sqrt(np.maximum(energy, max(least, 1e-9)) * float((posed**2).sum()))
            unusual = ((scale - 1) / SCALE_DEVIATION) ** 2 + (tilt / TILT_DEVIATION) ** 2
            score = score - PRIOR_WEIGHT * (far + unusual)
            score_of_row = np.maximum(score_of_row, score.max(axis=1))
            row, column = np.unravel_index(int(np.argmax(score)), score.shape)
            if score[row, column] > best_score:
                best_score = float(score[row, column])
                shift = np.array([0.0, columns[column], -rows[row]])
                best = Pose(expected.origin_mm + shift, float(scale), float(tilt))
    return best, best_score, score_of_row


def _posed(template: GridImage, scale: float, tilt: float) -> GridImage:
    """Return the template, scaled and tilted about its centre."""
    room = [int(np.ceil(half * (1 + 2.5 * SCALE_DEVIATION))) for half in TEMPLATE_HALF]
    return _sample(template, Pose(np.zeros(3), scale, tilt).invert(_grid(*room)))


def volume_middle(series: Series) -> Array:
    """Return the centre of the bounding box of the centres of a series' slices, in mm."""
    centres = np.array([frame.centre_mm for frame in series.frames.values()])
    middle: Array = (centres.min(axis=0) + centres.max(axis=0)) / 2
    return middle


def nearest_sagittal(series: Series, x_mm: float) -> list[Sagittal]:
    """Return a series' slices with geometry, sorted by the distance of their centres from the sagittal plane at x."""
    slices = [Sagittal(series.slices[index].grey, frame) for index, frame in series.frames.items()]
    return sorted(slices, key=lambda image: abs(image.x_mm - x_mm))
