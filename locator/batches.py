"""Pictures of marked studies -> varied batches for the locator's networks.

Everything random is a function of (seed, step, place in the global batch): N processes see, together, the batches of
one, and a resumed run sees those that the unbroken one would have seen.

Dimensions: B pictures, C channels, H and W pixels.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from locator.network import MIRRORED_AXIAL, target_places
from locator.training_data import Cut
from runs.random_streams import Stream, random_stream

#: The blob that stands for a point, as a normal curve of this deviation (pixels).
POINT_SIGMA = 1.3
#: Turns (radians), log of scales, and shifts (pixels) are drawn evenly up to these.
TURN, LOG_SCALE = 0.2, 0.17
SHIFT = {"sagittal": (10.0, 14.0), "axial": (9.0, 9.0)}  # columns, rows
#: Knots of the curve that grey values are put through, and how far from the straight line it may lead.
KNOTS, LARGEST_BEND = 8, 0.9
#: Logarithm of the brightness at opposite edges; deviation of noise, in shares of the whole range.
LARGEST_BIAS, LARGEST_NOISE = 0.8, 0.09


@dataclass(frozen=True)
class PictureBatch:
    """Pictures from 0 to 1, and what the network should say of them."""

    picture_B3HW: Tensor
    target_BCP: Tensor
    known_BC: Tensor

    def to(self, device: torch.device) -> "PictureBatch":
        return PictureBatch(self.picture_B3HW.to(device), self.target_BCP.to(device), self.known_BC.to(device))


@dataclass(frozen=True)
class PictureBatches:
    """Draws a process' share of global batches from the pictures `row_N` of a cut; `name` is its orientation."""

    name: str
    cut: Cut
    row_N: npt.NDArray[np.int64]
    batch_size: int
    seed: int
    process: int = 0
    processes: int = 1

    def draw(self, step: int) -> PictureBatch:
        places = range(self.process * self.batch_size, (self.process + 1) * self.batch_size)
        is_axial = int(self.name == "axial")
        generators = [random_stream(self.seed, Stream.LOCATOR_IMAGE, step, place, is_axial) for place in places]
        rows = [int(self.row_N[generator.integers(len(self.row_N))]) for generator in generators]
        return vary(load(self.cut, rows), generators, self.name)


@dataclass(frozen=True)
class Loaded:
    """Pictures as they are, with their points."""

    picture_B3HW: Tensor
    point_BC2: Tensor
    share_BC: Tensor
    known_BC: Tensor

    def batch(self) -> PictureBatch:
        shape = self.picture_B3HW.shape[2], self.picture_B3HW.shape[3]
        target = target_places(self.point_BC2, self.share_BC, shape, POINT_SIGMA)
        return PictureBatch(self.picture_B3HW, target, self.known_BC.float())


def load(cut: Cut, rows: list[int]) -> Loaded:
    picture = torch.from_numpy(cut.grey_N3HW[rows].astype(np.float32) / 255)
    arrays = (torch.from_numpy(array[rows]) for array in (cut.point_NC2, cut.share_NC, cut.known_NC))
    return Loaded(picture, *arrays)


def vary(loaded: Loaded, generators: list[np.random.Generator], name: str) -> PictureBatch:
    """Moved, turned, scaled, mirrored, and brightness changed beyond recognition of the scanner."""
    turned = mirrored(loaded, np.array([generator.random() < 0.5 for generator in generators]), name)
    moves = np.stack([_draw_move(generator, SHIFT[name]) for generator in generators])
    picture, point = moved(turned.picture_B3HW, turned.point_BC2, moves)
    picture = torch.stack([_recoloured(one, generator) for one, generator in zip(picture, generators, strict=True)])
    return replace(turned, picture_B3HW=picture, point_BC2=point).batch()


def mirrored(loaded: Loaded, flip_B: npt.NDArray[np.bool_], name: str) -> Loaded:
    """The patient's mirror image: sagittal slices the other way round; axial ones flipped, their sides exchanged."""
    flip = torch.from_numpy(flip_B)
    picture = loaded.picture_B3HW
    if name == "sagittal":
        return replace(loaded, picture_B3HW=torch.where(flip[:, None, None, None], picture.flip(1), picture))
    last_column = picture.shape[3] - 1
    other = list(MIRRORED_AXIAL)
    point = loaded.point_BC2[:, other] * torch.tensor([-1.0, 1.0]) + torch.tensor([last_column, 0.0])
    return Loaded(
        torch.where(flip[:, None, None, None], picture.flip(3), picture),
        torch.where(flip[:, None, None], point, loaded.point_BC2),
        torch.where(flip[:, None], loaded.share_BC[:, other], loaded.share_BC),
        torch.where(flip[:, None], loaded.known_BC[:, other], loaded.known_BC),
    )


def _draw_move(generator: np.random.Generator, shift: tuple[float, float]) -> npt.NDArray[np.float64]:
    """(2, 3): output pixels, from the picture's middle, to input pixels."""
    turn, scale = generator.uniform(-TURN, TURN), np.exp(generator.uniform(-LOG_SCALE, LOG_SCALE))
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    across, down = (generator.uniform(-size, size) for size in shift)
    return np.array([[cosine, -sine, across], [sine, cosine, down]])


def moved(picture_B3HW: Tensor, point_BC2: Tensor, move_B23: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Pictures read at moved places, and where their points come to lie."""
    height, width = picture_B3HW.shape[2:]
    move = torch.from_numpy(move_B23).float()
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    turn_B22, shift_B2 = move[:, :, :2], move[:, :, 2]
    theta = torch.cat([turn_B22 * half[None, None, :] / half[None, :, None], (shift_B2 / half)[..., None]], dim=2)
    grid = F.affine_grid(theta, list(picture_B3HW.shape), align_corners=True)
    from_middle = point_BC2 - half - shift_B2[:, None]
    point = torch.einsum("bij,bcj->bci", torch.linalg.inv(turn_B22), from_middle) + half
    return F.grid_sample(picture_B3HW, grid, align_corners=True), point


def _recoloured(picture_3HW: Tensor, generator: np.random.Generator) -> Tensor:
    """A random bias field, a random curve of grey values, blur and noise.

    The curve may turn tissues' order round, as fat suppression does: edges remain, brightness does not.
    """
    height, width = picture_3HW.shape[1:]
    across, down = generator.uniform(-LARGEST_BIAS / 2, LARGEST_BIAS / 2, 2)
    bias = (torch.linspace(-1, 1, width) * across + torch.linspace(-1, 1, height)[:, None] * down).exp()
    picture = (picture_3HW * bias).clamp(0, 1)
    straight = np.linspace(0, 1, KNOTS) ** np.exp(generator.uniform(-0.5, 0.5))
    bend = generator.uniform(0, LARGEST_BEND) if generator.random() < 0.6 else 0.0
    knots = torch.from_numpy((1 - bend) * straight + bend * generator.random(KNOTS)).float()
    place = picture * (KNOTS - 1)
    below = place.floor().clamp_max(KNOTS - 2).long()
    picture = torch.lerp(knots[below], knots[below + 1], place - below)
    if generator.random() < 0.3:
        picture = F.avg_pool2d(picture[None], 3, 1, 1)[0]
    noise = generator.uniform(0, LARGEST_NOISE)
    return picture + noise * torch.from_numpy(generator.standard_normal(picture.shape, dtype=np.float32))
