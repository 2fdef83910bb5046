"""Slice images of marked studies -> augmented batches for the locator's networks.

All random choices depend on (seed, step, position in the global batch) alone: N processes together draw the batches of
one process, and a resumed run draws those that an uninterrupted run would have drawn.

Dimensions: B images, C channels (landmarks), P = H * W + 1 outcomes, H and W pixels.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from locator.image_variety import crop, lose_neighbours, vary_grey_values
from locator.network import MIRRORED_AXIAL, target_heatmaps
from locator.training_data import CachedImages
from runs.random_streams import Stream, random_stream

#: Standard deviation, in pixels, of the normal distribution around a landmark in its target heatmap.
LANDMARK_SIGMA = 1.3
#: Rotations (radians), logarithms of the scale and of the ratio of width to height, and shifts (pixels) are drawn
#: uniformly up to these.
MAX_ROTATION, MAX_LOG_SCALE, MAX_LOG_ASPECT = 0.3, 0.3, 0.1
MAX_SHIFT = {"sagittal": (14.0, 20.0), "axial": (9.0, 9.0)}  # columns, rows


@dataclass(frozen=True)
class ImageBatch:
    """Images with values from 0 to 1, their target heatmaps, and which landmarks are marked."""

    image_B3HW: Tensor
    target_BCP: Tensor
    known_BC: Tensor

    def to(self, device: torch.device) -> "ImageBatch":
        return ImageBatch(self.image_B3HW.to(device), self.target_BCP.to(device), self.known_BC.to(device))


@dataclass(frozen=True)
class ImageBatches:
    """Draws one process's part of each global batch from the rows `row_N` of the cached images of an orientation."""

    orientation: str
    cache: CachedImages
    row_N: npt.NDArray[np.int64]
    batch_size: int
    seed: int
    process: int = 0
    processes: int = 1

    def draw(self, step: int) -> ImageBatch:
        positions = range(self.process * self.batch_size, (self.process + 1) * self.batch_size)
        is_axial = int(self.orientation == "axial")
        generators = [
            random_stream(self.seed, Stream.LOCATOR_IMAGE, step, position, is_axial) for position in positions
        ]
        rows = [int(self.row_N[generator.integers(len(self.row_N))]) for generator in generators]
        return augment(read_images(self.cache, rows), generators, self.orientation)


@dataclass(frozen=True)
class LabelledImages:
    """Images with the pixels of their landmarks, before the target heatmaps are drawn.

    Attributes:
        image_B3HW: Grey values from 0 to 1.
        point_BC2: (column, row) of each channel's landmark.
        presence_BC: The target probability that the landmark lies in this slice.
        known_BC: Whether the landmark is marked.
    """

    image_B3HW: Tensor
    point_BC2: Tensor
    presence_BC: Tensor
    known_BC: Tensor

    def to_batch(self) -> ImageBatch:
        shape = self.image_B3HW.shape[2], self.image_B3HW.shape[3]
        target = target_heatmaps(self.point_BC2, self.presence_BC, shape, LANDMARK_SIGMA)
        return ImageBatch(self.image_B3HW, target, self.known_BC.float())


def read_images(cache: CachedImages, rows: list[int]) -> LabelledImages:
    """Read rows of the cache, without augmentation."""
    image = torch.from_numpy(cache.grey_N3HW[rows].astype(np.float32) / 255)
    arrays = (torch.from_numpy(array[rows]) for array in (cache.point_NC2, cache.presence_NC, cache.known_NC))
    return LabelledImages(image, *arrays)


def augment(labelled: LabelledImages, generators: list[np.random.Generator], orientation: str) -> ImageBatch:
    """Mirror, shift, rotate and scale images at random, change their grey values and their field of view."""
    mirrored = mirror(labelled, np.array([generator.random() < 0.5 for generator in generators]), orientation)
    transforms = np.stack([_draw_transform(generator, MAX_SHIFT[orientation]) for generator in generators])
    image, point = transform_images(mirrored.image_B3HW, mirrored.point_BC2, transforms)
    varied = [
        vary_grey_values(lose_neighbours(one, generator), generator)
        for one, generator in zip(image, generators, strict=True)
    ]
    cropped = [crop(*own) for own in zip(varied, point, mirrored.presence_BC, generators, strict=True)]
    image, presence = (torch.stack(parts) for parts in zip(*cropped, strict=True))
    return replace(mirrored, image_B3HW=image, point_BC2=point, presence_BC=presence).to_batch()


def mirror(labelled: LabelledImages, flip_B: npt.NDArray[np.bool_], orientation: str) -> LabelledImages:
    """Mirror the patient, left to right, in the images that `flip_B` selects.

    The three slices of a sagittal image are reversed; an axial image is flipped and its left and right landmarks are
    exchanged.
    """
    flip = torch.from_numpy(flip_B)
    image = labelled.image_B3HW
    if orientation == "sagittal":
        return replace(labelled, image_B3HW=torch.where(flip[:, None, None, None], image.flip(1), image))
    last_column = image.shape[3] - 1
    other = list(MIRRORED_AXIAL)
    point = labelled.point_BC2[:, other] * torch.tensor([-1.0, 1.0]) + torch.tensor([last_column, 0.0])
    return LabelledImages(
        torch.where(flip[:, None, None, None], image.flip(3), image),
        torch.where(flip[:, None, None], point, labelled.point_BC2),
        torch.where(flip[:, None], labelled.presence_BC[:, other], labelled.presence_BC),
        torch.where(flip[:, None], labelled.known_BC[:, other], labelled.known_BC),
    )


def _draw_transform(generator: np.random.Generator, max_shift: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Draw an affine transform, (2, 3), from output to input pixels, with the origin at the middle of the image."""
    rotation = generator.uniform(-MAX_ROTATION, MAX_ROTATION)
    scale = np.exp(generator.uniform(-MAX_LOG_SCALE, MAX_LOG_SCALE))
    wider = np.exp(generator.uniform(-MAX_LOG_ASPECT, MAX_LOG_ASPECT) / 2)
    cosine, sine = scale * np.cos(rotation), scale * np.sin(rotation)
    across, down = (generator.uniform(-size, size) for size in max_shift)
    return np.array([[cosine * wider, -sine * wider, across], [sine / wider, cosine / wider, down]])


def transform_images(
    image_B3HW: Tensor, point_BC2: Tensor, transform_B23: npt.NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Resample images by the transforms of `_draw_transform`, and return them with the new pixels of their points."""
    height, width = image_B3HW.shape[2:]
    transform = torch.from_numpy(transform_B23).float()
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    rotation_B22, shift_B2 = transform[:, :, :2], transform[:, :, 2]
    theta = torch.cat([rotation_B22 * half[None, None, :] / half[None, :, None], (shift_B2 / half)[..., None]], dim=2)
    grid = F.affine_grid(theta, list(image_B3HW.shape), align_corners=True)
    from_middle = point_BC2 - half - shift_B2[:, None]
    point = torch.einsum("bij,bcj->bci", torch.linalg.inv(rotation_B22), from_middle) + half
    return F.grid_sample(image_B3HW, grid, align_corners=True), point
