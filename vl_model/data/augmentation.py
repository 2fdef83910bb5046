"""The augmentation of tiles in training. Nothing here imports torch: ``--help`` reads it."""

from dataclasses import dataclass, field

from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeNumber, Share

NOT_A_FLAG = {"flag": False}


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of the tiles.

    Grey values run from 0 to 1, and become gain * value ** gamma + bias.
    """

    augment: bool = True
    """Vary the tiles at random in training: their position, angle, scale and grey values."""
    jitter_mm: NonNegativeNumber = 1.0  # a locator's own error, so that its positions are met in training
    """The standard deviation of the random shift of each tile, in millimetres along each axis."""
    jitter_slice: Share = 0.0
    """The probability that a tile is moved to the slice before or after its own, as a locator may choose it."""
    drop_view: Share = 0.1
    """The probability that a site that is shown in several views loses one of them, with all its tiles."""
    drop_tile: Share = 0.0
    """The probability that a site with several tiles loses one of them (--tiles_per_view of prepare_data.py)."""
    mixup: Share = 0.0
    """The probability that a site is blended with the same site of another study."""
    cutmix: Share = 0.0
    """The probability that a box of a site's tiles is replaced by that of another study."""
    angle_degrees: float = field(default=6.0, metadata=NOT_A_FLAG)
    log_scale: float = field(default=0.06, metadata=NOT_A_FLAG)
    log_gain: float = field(default=0.15, metadata=NOT_A_FLAG)
    bias: float = field(default=0.05, metadata=NOT_A_FLAG)
    log_gamma: float = field(default=0.15, metadata=NOT_A_FLAG)

    def check(self) -> None:
        """Raise SettingError if the settings contradict each other (`vl_model.data.mixing`)."""
        if self.mixup + self.cutmix > 1:
            raise SettingError(
                "mixup",
                f"{self.mixup} cutmix {self.cutmix}: their sum must be at most 1, because a site gets only one of them",
            )
        if not self.augment and (self.mixup or self.cutmix):
            raise SettingError("augment", "false: without augmentation, mixup and cutmix must be 0")
