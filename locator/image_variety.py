"""Random changes of slice images, so that a locator meets scanners and fields of view that its cohort does not have.

Grey values: uneven coil sensitivity, another contrast, coarse pixels, blur, noise, and voids around metal. Fields of
view: a dark border where the image ends, and the landmarks beyond it are absent.

Dimensions: C channels (landmarks), H and W pixels.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

#: Number of knots of the curve that changes the grey values, and its largest weight against the identity.
KNOTS, LARGEST_BEND = 8, 0.9
#: The largest logarithm of the exponent of the grey scale.
LARGEST_LOG_GAMMA = 0.8
#: The largest logarithm of the ratio of brightness at opposite edges, and the largest one between the middle and the
#: edges: a surface coil shows what lies far from it several times darker.
LARGEST_BIAS, LARGEST_FALL = 2.0, 1.2
#: The largest standard deviation of the noise, as a share of the range of grey values.
LARGEST_NOISE = 0.09
#: Coarse pixels are up to this many times as large as the grid's.
LARGEST_PIXEL = 2.2
#: Shares of images with another contrast, coarse pixels, blur, a void, and a dark border.
BENT, COARSE, BLURRED, VOID, CROPPED = 0.35, 0.35, 0.2, 0.1, 0.3
#: Share of neighbouring slices that are missing.
LOST = 0.3
#: The largest share of the image's rows or columns that a dark border takes on one side.
LARGEST_BORDER = 0.3
#: Radii of a void, in pixels.
VOID_RADIUS = (3.0, 12.0)


def lose_neighbours(image_3HW: Tensor, generator: np.random.Generator) -> Tensor:
    """Let the middle slice stand in for a neighbour, as at the end of a stack and in a stack with gaps."""
    before, after = (0 if generator.random() >= LOST else 1 for _ in range(2))
    return image_3HW[[before, 1, 2 - after]]


def vary_grey_values(image_3HW: Tensor, generator: np.random.Generator) -> Tensor:
    """Change the grey values of an image at random.

    The curve may reverse the order of tissues, as fat suppression does: edges are kept, brightness is not.
    """
    image = _bend(_shade(image_3HW, generator), generator)
    if generator.random() < VOID:
        image = image * _void(image.shape[1:], generator)
    if generator.random() < COARSE:
        image = _coarsen(image, float(generator.uniform(1.2, LARGEST_PIXEL)))
    if generator.random() < BLURRED:
        image = F.avg_pool2d(image[None], 3, 1, 1)[0]
    noise = LARGEST_NOISE * generator.random() ** 2
    return image + noise * torch.from_numpy(generator.standard_normal(image.shape, dtype=np.float32))


def _shade(image_3HW: Tensor, generator: np.random.Generator) -> Tensor:
    """Multiply an image by a smooth coil sensitivity, and scale it so that its brightest percent is white."""
    height, width = image_3HW.shape[1:]
    across, down = generator.triangular(-LARGEST_BIAS / 2, 0, LARGEST_BIAS / 2, 2)
    fall = generator.triangular(0, 0, LARGEST_FALL)
    column, row = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None]
    shaded = image_3HW * (column * across + row * down - fall * (column**2 + row**2) / 2).exp()
    brightest = np.percentile(shaded[:, ::4, ::4].numpy(), generator.uniform(97.0, 99.9))
    return (shaded / max(float(brightest), 1e-3)).clamp(0, 1)


def _bend(image_3HW: Tensor, generator: np.random.Generator) -> Tensor:
    """Apply a random curve to the grey values."""
    monotonic = np.linspace(0, 1, KNOTS) ** np.exp(generator.uniform(-LARGEST_LOG_GAMMA, LARGEST_LOG_GAMMA))
    bend = generator.uniform(0, LARGEST_BEND) if generator.random() < BENT else 0.0
    knots = torch.from_numpy((1 - bend) * monotonic + bend * generator.random(KNOTS)).float()
    at_knot = image_3HW * (KNOTS - 1)
    below = at_knot.floor().clamp_max(KNOTS - 2).long()
    return torch.lerp(knots[below], knots[below + 1], at_knot - below)


def _coarsen(image_3HW: Tensor, factor: float) -> Tensor:
    """Resample an image to pixels that are larger by a factor, and back."""
    height, width = image_3HW.shape[1:]
    size = (round(height / factor), round(width / factor))
    small = F.interpolate(image_3HW[None], size, mode="bilinear", antialias=True)
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)[0]


def _void(shape: torch.Size, generator: np.random.Generator) -> Tensor:
    """Return a factor, (H, W), that is 0 in a few ellipses, as around screws."""
    height, width = shape
    row, column = torch.arange(height)[:, None], torch.arange(width)
    factor = torch.ones(height, width)
    for _ in range(int(generator.integers(1, 4))):
        y, x = generator.uniform(0, height), generator.uniform(width * 0.25, width * 0.75)
        tall, wide = generator.uniform(*VOID_RADIUS, 2)
        distance = ((row - y) / tall) ** 2 + ((column - x) / wide) ** 2
        factor = torch.minimum(factor, (distance - 0.8).clamp(0, 1))
    return factor


def crop(
    image_3HW: Tensor, point_C2: Tensor, presence_C: Tensor, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Let some images end early: what lies beyond is dark, and its landmarks are absent.

    Args:
        image_3HW: The image.
        point_C2: (column, row) of each landmark.
        presence_C: The target probability of each landmark.
        generator: Of the random choices.

    Returns:
        The image and the target probabilities.
    """
    height, width = image_3HW.shape[1:]
    size = np.array([width, height])
    share_22: npt.NDArray[np.float64] = generator.uniform(0, LARGEST_BORDER, (2, 2))  # columns, rows; both ends
    share_22 *= generator.random((2, 2)) < 0.5
    if generator.random() >= CROPPED:
        return image_3HW, presence_C
    first, last = np.round(share_22[:, 0] * size).astype(int), np.round((1 - share_22[:, 1]) * size).astype(int)
    cropped = torch.zeros_like(image_3HW)
    inside = (slice(None), slice(first[1], last[1]), slice(first[0], last[0]))
    cropped[inside] = image_3HW[inside]
    visible_C = ((point_C2 >= torch.from_numpy(first)) & (point_C2 < torch.from_numpy(last))).all(dim=1)
    return cropped, presence_C * visible_C
