"""The locator's two networks: what they see -> where in the picture each point lies, or that it is not in it.

Both are U-Nets with a small encoder. A channel's outcomes are the picture's pixels and one more, "not here": one
softmax over all of them (a cross-entropy over places, not a regression), so that its mass in the picture is the
probability that this very slice is the point's own, and its spread says how sure the place is.

Dimensions: B pictures, C channels (points), H and W pixels.
"""

from collections.abc import Mapping
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_prep.sites import Condition, Level, Side, Site

#: Points that a sagittal slice may show: of each level the canal, and the foramen of the slice's own side.
SAGITTAL_CHANNELS = tuple(
    (condition, level)
    for condition in (Condition.SPINAL_CANAL_STENOSIS, Condition.NEURAL_FORAMINAL_NARROWING)
    for level in Level
)
#: Points that an axial slice may show, of the level that it goes through.
AXIAL_CHANNELS = (
    (Condition.SPINAL_CANAL_STENOSIS, None),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT),
    (Condition.NEURAL_FORAMINAL_NARROWING, Side.RIGHT),
    (Condition.SUBARTICULAR_STENOSIS, Side.LEFT),
    (Condition.SUBARTICULAR_STENOSIS, Side.RIGHT),
)
#: The axial channels of the mirror image.
MIRRORED_AXIAL = (0, 2, 1, 4, 3)

ENCODER, ENCODER_DEPTH, DECODER_CHANNELS = "tu-mobilenetv3_small_100", 4, (64, 48, 32, 16)
#: Of the encoder's stages these many reach that depth.
ENCODER_STAGES = 4


def axial_site(channel: int, level: Level) -> Site:
    condition, side = AXIAL_CHANNELS[channel]
    return Site(condition, side, level)


class PointNetwork(nn.Module):
    """Pictures -> logits of each channel's pixels, and of its "not here"."""

    def __init__(self, channels: int, pixels: int) -> None:
        super().__init__()
        self.unet = smp.Unet(
            ENCODER,
            encoder_depth=ENCODER_DEPTH,
            encoder_weights=None,
            decoder_channels=DECODER_CHANNELS,
            in_channels=3,
            classes=channels,
        )
        # The later stages would be computed and thrown away: their weights never see a gradient, which fails DDP.
        del self.unet.encoder.model.blocks[ENCODER_STAGES:]
        # At the start, when all pixels are alike, "here" and "not here" are even.
        self.absent_C = nn.Parameter(torch.full((channels,), float(pixels)).log())

    def forward(self, picture_B3HW: Tensor) -> Tensor:
        """(B, C, H * W + 1) logits, the last of them "not here"."""
        logits_BCP = self.unet(standardised(picture_B3HW)).flatten(2).float()
        return torch.cat([logits_BCP, self.absent_C[None, :, None].expand(len(logits_BCP), -1, 1)], dim=2)

    @torch.no_grad()
    def places(self, picture_B3HW: Tensor) -> Tensor:
        """(B, C, H, W) probabilities that a channel's point is at a pixel of this very slice."""
        prob_BCP = self(picture_B3HW).softmax(dim=2)[..., :-1]
        return prob_BCP.unflatten(2, picture_B3HW.shape[2:])


class LocatorNetwork(nn.Module):
    """The networks of both orientations, trained together."""

    def __init__(self, sagittal_pixels: int, axial_pixels: int) -> None:
        super().__init__()
        self.sagittal = PointNetwork(len(SAGITTAL_CHANNELS), sagittal_pixels)
        self.axial = PointNetwork(len(AXIAL_CHANNELS), axial_pixels)

    def forward(self, sagittal_B3HW: Tensor, axial_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        return self.sagittal(sagittal_B3HW), self.axial(axial_B3HW)


def standardised(picture_B3HW: Tensor) -> Tensor:
    """Grey values of any scale -> mean 0 and deviation 1 over each picture."""
    picture = picture_B3HW.float()
    mean = picture.mean(dim=(1, 2, 3), keepdim=True)
    deviation = picture.std(dim=(1, 2, 3), keepdim=True)
    return (picture - mean) / deviation.clamp_min(1e-3)


def target_places(point_BC2: Tensor, share_BC: Tensor, shape: tuple[int, int], sigma: float) -> Tensor:
    """(B, C, H * W + 1): `share` of each channel's mass around its point, the rest on "not here".

    point_BC2: (column, row) in pixels; sigma: in pixels. A point off the picture is not here.
    """
    height, width = shape
    rows = torch.arange(height, device=point_BC2.device, dtype=point_BC2.dtype)
    columns = torch.arange(width, device=point_BC2.device, dtype=point_BC2.dtype)
    near_row_BCH = torch.exp(-0.5 * ((rows - point_BC2[..., 1:2]) / sigma) ** 2)
    near_column_BCW = torch.exp(-0.5 * ((columns - point_BC2[..., 0:1]) / sigma) ** 2)
    blob_BCP = (near_row_BCH[..., :, None] * near_column_BCW[..., None, :]).flatten(2)
    edge = torch.tensor([width, height], device=point_BC2.device) - 0.5
    inside_BC = ((point_BC2 > -0.5) & (point_BC2 < edge)).all(dim=2)
    share_BC = torch.where(inside_BC, share_BC, torch.zeros_like(share_BC))
    blob_BCP = blob_BCP / blob_BCP.sum(dim=2, keepdim=True).clamp_min(1e-9)
    return torch.cat([blob_BCP * share_BC[..., None], (1 - share_BC)[..., None]], dim=2)


def place_loss(logits_BCP: Tensor, target_BCP: Tensor, known_BC: Tensor, count: Tensor) -> Tensor:
    """Cross-entropy summed over the channels whose point is known, and divided by `count`: how many of them there are.

    Processes whose gradients are averaged divide by their mean count, so that each known point weighs the same.
    """
    loss_BC = -(target_BCP * logits_BCP.log_softmax(dim=2)).sum(dim=2)
    return (loss_BC * known_BC).sum() / count


def to_channels_last(network: LocatorNetwork) -> LocatorNetwork:
    """The layout of convolutions on the CPU that is fastest: a quarter of their time."""
    return network.to(memory_format=torch.channels_last)


def save_network(network: LocatorNetwork, path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, path)


def load_weights(network: LocatorNetwork, path: Path) -> None:
    """Raises ValueError where the file is missing, damaged, or of another network."""
    try:
        weights: Mapping[str, Tensor] = load_file(path)
        network.load_state_dict(dict(weights))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; train_locator.py writes it") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not the weights of this locator ({reason}); train it again") from None
