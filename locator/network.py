"""The locator's two networks: slice images -> for each landmark a heatmap, and the probability that it is absent.

Both are U-Nets; `locator.encoders` has their encoders. The possible outcomes of a channel are the pixels of the image
and one more, "absent". One softmax runs over all of them (cross-entropy over pixels, not regression of coordinates).
The sum of a heatmap is therefore the probability that the landmark lies in this slice, and the heatmap's width
expresses how uncertain the position is.

Dimensions: B images, C channels (landmarks), P = H * W + 1 outcomes, H and W pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_prep.sites import Condition, Level, Side, Site
from locator.encoders import ENCODER_DEPTH, SMALL, EncoderKind
from locator.slices import AXIAL_SHAPE, SAGITTAL_SHAPE

#: Landmarks of a sagittal slice: per level the canal, and the foramen of the side on which the slice lies.
SAGITTAL_CHANNELS = tuple(
    (condition, level)
    for condition in (Condition.SPINAL_CANAL_STENOSIS, Condition.NEURAL_FORAMINAL_NARROWING)
    for level in Level
)
#: Landmarks of an axial slice, all of the level that the slice passes through.
AXIAL_CHANNELS = (
    (Condition.SPINAL_CANAL_STENOSIS, None),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.RIGHT),
    (Condition.SUBARTICULAR_STENOSIS, Side.LEFT),
    (Condition.SUBARTICULAR_STENOSIS, Side.RIGHT),
)
#: For each axial channel, the channel of the same landmark on the other side.
MIRRORED_AXIAL = (0, 2, 1, 4, 3)

DECODER_CHANNELS = (64, 48, 32, 16)


def axial_site(channel: int, level: Level) -> Site:
    condition, side = AXIAL_CHANNELS[channel]
    return Site(condition, side, level)


class HeatmapNetwork(nn.Module):
    """U-Net from images to the logits of each channel's pixels and of its outcome "absent"."""

    def __init__(self, channels: int, pixels: int, kind: EncoderKind = SMALL) -> None:
        super().__init__()
        self.kind = kind
        self.unet = smp.Unet(
            f"tu-{kind.name}",
            encoder_depth=ENCODER_DEPTH,
            encoder_weights=None,
            decoder_channels=DECODER_CHANNELS,
            in_channels=3,
            classes=channels,
        )
        # The later stages do not contribute to the output: their weights would have no gradient, which fails under DDP.
        del self.unet.encoder.model.blocks[kind.stages :]
        # At initialisation all pixels have about equal logits; this makes "present" and "absent" equally probable.
        self.absent_C = nn.Parameter(torch.full((channels,), float(pixels)).log())

        if kind.is_pretrained:
            self.encoder.requires_grad_(False)
        self.train()

    @property
    def encoder(self) -> nn.Module:
        """The encoder, as timm builds it."""
        encoder = self.unet.encoder.model
        assert isinstance(encoder, nn.Module)
        return encoder

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a pretrained encoder keeps its weights and its batch statistics."""
        super().train(mode)
        if self.kind.is_pretrained:
            self.encoder.eval()
        return self

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return logits, (B, C, H * W + 1); the last one is that of "absent"."""
        logits_BCP = self.unet(standardise(image_B3HW)).flatten(2).float()
        return torch.cat([logits_BCP, self.absent_C[None, :, None].expand(len(logits_BCP), -1, 1)], dim=2)

    @torch.no_grad()
    def heatmaps(self, image_B3HW: Tensor) -> Tensor:
        """Return probabilities, (B, C, H, W), that a channel's landmark lies in this slice, at this pixel."""
        prob_BCP = self(image_B3HW).softmax(dim=2)[..., :-1]
        return prob_BCP.unflatten(2, image_B3HW.shape[2:])


class LocatorNetwork(nn.Module):
    """The networks of both orientations, which are trained together.

    If the training data shows one orientation only, the other network stays as it is and is not used.
    """

    def __init__(self, sagittal_pixels: int, axial_pixels: int, sagittal_encoder: EncoderKind = SMALL) -> None:
        super().__init__()
        self.sagittal = HeatmapNetwork(len(SAGITTAL_CHANNELS), sagittal_pixels, sagittal_encoder)
        self.axial = HeatmapNetwork(len(AXIAL_CHANNELS), axial_pixels)

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of the images, (B, 3, H, W), of each orientation that is given."""
        return {orientation: self.of(orientation)(image_B3HW) for orientation, image_B3HW in images.items()}

    def of(self, orientation: str) -> HeatmapNetwork:
        network = {"sagittal": self.sagittal, "axial": self.axial}[orientation]
        assert isinstance(network, HeatmapNetwork)
        return network


def standardise(image_B3HW: Tensor) -> Tensor:
    """Scale grey values of any range to mean 0 and standard deviation 1 per image.

    Photographs have about the same mean and deviation after ImageNet's normalisation, which a pretrained encoder knows.
    """
    image = image_B3HW.float()
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    deviation = image.std(dim=(1, 2, 3), keepdim=True)
    return (image - mean) / deviation.clamp_min(1e-3)


def target_heatmaps(point_BC2: Tensor, presence_BC: Tensor, shape: tuple[int, int], sigma: float) -> Tensor:
    """Return the target distribution of each channel over its pixels and "absent", (B, C, H * W + 1).

    Args:
        point_BC2: (column, row) of each landmark. A landmark outside the image is absent.
        presence_BC: The target probability that the landmark lies in this slice; the rest is that of "absent".
        shape: (H, W).
        sigma: Standard deviation of the normal distribution around the landmark, in pixels.
    """
    height, width = shape
    rows = torch.arange(height, device=point_BC2.device, dtype=point_BC2.dtype)
    columns = torch.arange(width, device=point_BC2.device, dtype=point_BC2.dtype)
    near_row_BCH = torch.exp(-0.5 * ((rows - point_BC2[..., 1:2]) / sigma) ** 2)
    near_column_BCW = torch.exp(-0.5 * ((columns - point_BC2[..., 0:1]) / sigma) ** 2)
    blob_BCP = (near_row_BCH[..., :, None] * near_column_BCW[..., None, :]).flatten(2)
    edge = torch.tensor([width, height], device=point_BC2.device) - 0.5
    inside_BC = ((point_BC2 > -0.5) & (point_BC2 < edge)).all(dim=2)
    presence_BC = torch.where(inside_BC, presence_BC, torch.zeros_like(presence_BC))
    blob_BCP = blob_BCP / blob_BCP.sum(dim=2, keepdim=True).clamp_min(1e-9)
    return torch.cat([blob_BCP * presence_BC[..., None], (1 - presence_BC)[..., None]], dim=2)


def heatmap_loss(logits_BCP: Tensor, target_BCP: Tensor, known_BC: Tensor, count: Tensor) -> Tensor:
    """Return the cross-entropy, summed over the channels whose landmark is marked and divided by `count`.

    `count` is the number of those channels. Processes whose gradients are averaged divide by the mean of their counts,
    so that each marked landmark has the same weight.
    """
    loss_BC = -(target_BCP * logits_BCP.log_softmax(dim=2)).sum(dim=2)
    return (loss_BC * known_BC).sum() / count


def new_network(sagittal_encoder: EncoderKind = SMALL) -> LocatorNetwork:
    """Return networks with random weights."""
    sagittal, axial = (height * width for height, width in (SAGITTAL_SHAPE, AXIAL_SHAPE))
    return to_channels_last(LocatorNetwork(sagittal, axial, sagittal_encoder))


def to_channels_last(network: LocatorNetwork) -> LocatorNetwork:
    """Convert weights to the memory layout in which convolutions are fastest on a CPU."""
    return network.to(memory_format=torch.channels_last)


def save_weights(network: LocatorNetwork, path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


def load_weights(network: LocatorNetwork, path: Path) -> None:
    """Load what `save_weights` wrote.

    Raises:
        ValueError: The file is missing, damaged, or holds the weights of another network.
    """
    try:
        weights: Mapping[str, Tensor] = load_file(path)
        network.load_state_dict(dict(weights))
    except FileNotFoundError:
        raise ValueError(f"{path}: this file is missing; train_locator.py writes it") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not the weights of this locator ({reason}); train the locator again") from None
