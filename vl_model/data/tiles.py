"""The model's tiles from stored crops, by one resampling that cuts, shifts, rotates, scales and resizes.

A crop is, by default, 64 mm wide (`data_prep.conversion.crop_geometry.FIELD_MM`) with the site at its centre. The
model's tile is the middle 48 mm; the margin provides the pixels that shifts and rotations move into the tile.

Dimensions: B sites, T tiles per site, 3 slices, H and W pixels of the crop, h and w pixels of the model's tile.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.conversion.crop_geometry import FIELD_MM, VIEW_MM
from vl_model.data.augmentation import Augmentation


@dataclass(frozen=True)
class TileChanges:
    """The changes of each tile: float32 of shape (B, T); `shift_mm` (B, T, 2) as (column, row)."""

    shift_mm: Tensor
    angle: Tensor  # radians
    scale: Tensor
    gain: Tensor
    bias: Tensor
    gamma: Tensor

    def to(self, device: torch.device) -> "TileChanges":
        return TileChanges(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw_changes(augmentation: Augmentation, generators: list[np.random.Generator], tiles: int) -> TileChanges:
    """Draw the changes of `tiles` tiles of each site, from one generator per site."""
    normal_BT7 = torch.from_numpy(np.stack([generator.standard_normal((tiles, 7)) for generator in generators])).float()
    return TileChanges(
        shift_mm=normal_BT7[..., 0:2] * augmentation.jitter_mm,
        angle=normal_BT7[..., 2] * math.radians(augmentation.angle_degrees),
        scale=(normal_BT7[..., 3] * augmentation.log_scale).exp(),
        gain=(normal_BT7[..., 4] * augmentation.log_gain).exp(),
        bias=normal_BT7[..., 5] * augmentation.bias,
        gamma=(normal_BT7[..., 6] * augmentation.log_gamma).exp(),
    )


def tiles_for_model(
    crops_BT3HW: Tensor,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    view_mm: float = VIEW_MM,
    changes: TileChanges | None = None,
    field_mm: float = FIELD_MM,
) -> Tensor:
    """Resample uint8 crops to normalised float32 tiles_BT3hw.

    Without `changes`, and at the crop's own resolution, a tile is exactly the middle of its crop.

    Args:
        crops_BT3HW: stored crops, uint8.
        image_size: width and height of a tile in pixels.
        mean: of the three channels, subtracted.
        std: of the three channels, divided by.
        view_mm: width of the part of the crop that a tile shows.
        changes: augmentation of each tile; None: none.
        field_mm: width of the crops.
    """
    batch_shape = crops_BT3HW.shape[:2]
    crops_N3HW = crops_BT3HW.flatten(0, 1).float() / 255
    affine_N23 = _affine(changes, batch_shape, view_mm, field_mm).to(crops_N3HW.device)
    grid_Nhw2 = F.affine_grid(affine_N23, [len(crops_N3HW), 3, image_size, image_size], align_corners=False)
    tiles_N3hw = F.grid_sample(crops_N3HW, grid_Nhw2, mode="bilinear", padding_mode="zeros", align_corners=False)
    if changes is not None:
        gain, bias, gamma = (value.reshape(-1, 1, 1, 1) for value in (changes.gain, changes.bias, changes.gamma))
        tiles_N3hw = (gain * tiles_N3hw.clamp(min=1e-6) ** gamma + bias).clamp(0, 1)
    mean_311 = torch.tensor(mean, device=tiles_N3hw.device).view(3, 1, 1)
    std_311 = torch.tensor(std, device=tiles_N3hw.device).view(3, 1, 1)
    return ((tiles_N3hw - mean_311) / std_311).unflatten(0, batch_shape)


def _affine(changes: TileChanges | None, batch_shape: torch.Size, view_mm: float, field_mm: float) -> Tensor:
    """Return the affine maps (N, 2, 3) from tile coordinates to crop coordinates, both from -1 to 1."""
    view = view_mm / field_mm
    if changes is None:
        identity_23 = torch.tensor([[view, 0.0, 0.0], [0.0, view, 0.0]])
        return identity_23.expand(batch_shape.numel(), 2, 3)
    scale, angle = view * changes.scale, changes.angle
    shift = changes.shift_mm / (field_mm / 2)
    across = torch.stack([scale * angle.cos(), -scale * angle.sin(), shift[..., 0]], dim=-1)
    down = torch.stack([scale * angle.sin(), scale * angle.cos(), shift[..., 1]], dim=-1)
    return torch.stack([across, down], dim=-2).flatten(0, 1)
