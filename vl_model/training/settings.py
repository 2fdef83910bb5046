"""The settings of a contrastive training, in groups. Nothing here imports torch: ``--help`` reads them."""

from dataclasses import dataclass
from typing import Literal

from vl_model.data.augmentation import Augmentation
from vl_model.data.dropped_sites import DEFAULT_SHARE, DropRequest
from workspace.layout import home_expanded
from workspace.setting_error import SettingError
from workspace.setting_types import LoaderWorkers, NonNegativeInteger, NonNegativeNumber, PositiveInteger, Share


@dataclass(frozen=True)
class DurationSettings:
    """Duration and batches."""

    num_train_epochs: PositiveInteger = 10
    """The number of epochs."""
    max_train_steps: NonNegativeInteger | None = None
    """The number of steps; if it is given, num_train_epochs is ignored. 0 writes the base as a run, untrained."""
    per_device_train_batch_size: PositiveInteger = 64
    """The number of sites per process and batch."""
    gradient_accumulation_steps: PositiveInteger = 1
    """The number of batches per step. Their gradients are averaged, and each batch is contrasted with itself only,
    unless cache_negatives is true."""
    cache_negatives: bool = False
    """Contrast all batches of a step with each other, as one large batch (GradCache). Each image is embedded twice."""
    severity_sampling: Share = 0.0
    """How much more often rare severities are drawn. 0: as often as they occur; 1: all equally often. The loss corrects
    for it, so that probabilities remain those of the cohort."""


@dataclass(frozen=True)
class HeldOutSettings:
    """Held-out studies."""

    held_out_folds: tuple[int, ...] = (0,)
    """The folds whose studies are not trained on; none, if no number follows."""
    fold: NonNegativeInteger | None = None
    """Hold out this fold alone, in a run called RUN-FOLD; eval_vl.py --folds all joins the runs of all folds."""
    held_out_sites: PositiveInteger = 300
    """The number of held-out sites that are evaluated during training."""
    evaluation_steps: PositiveInteger | None = None
    """Evaluate every N steps. By default once per epoch."""

    def check(self) -> None:
        """Raise SettingError if a fold is held out alone and others are named as well."""
        if self.fold is not None and self.held_out_folds not in (HeldOutSettings.held_out_folds, (self.fold,)):
            raise SettingError(
                "fold", f"{self.fold}: holds out this fold alone, but held_out_folds is {list(self.held_out_folds)}"
            )


@dataclass(frozen=True)
class SuspectLabelSettings:
    """Suspect labels."""

    drop_suspects: str | None = None
    """A table of suspect labels (suspect_labels.csv, which eval_vl.py writes). The sites at its head are left out of
    training, and of nothing else."""
    drop_share: Share | None = None
    """The share of all graded sites that is left out, those most suspect. By default 0.01."""
    drop_first: PositiveInteger | None = None
    """The number of sites that are left out, instead of a share."""

    def request(self) -> DropRequest | None:
        """Return what is to be left out, or None. Raises SettingError if the settings contradict each other."""
        for name, value in (("drop_share", self.drop_share), ("drop_first", self.drop_first)):
            if value is not None and self.drop_suspects is None:
                raise SettingError(name, f"{value:g}: of which table? name it with --drop_suspects, or leave this out")
        if self.drop_suspects is None:
            return None
        if self.drop_share is not None and self.drop_first is not None:
            raise SettingError("drop_first", f"{self.drop_first}: and --drop_share: say one of the two")
        share = DEFAULT_SHARE if self.drop_share is None else self.drop_share
        return DropRequest(home_expanded(self.drop_suspects, "drop_suspects"), share, self.drop_first)


@dataclass(frozen=True)
class LossSettings:
    """Loss."""

    loss: Literal["all_captions", "infonce", "siglip", "cross_entropy"] = "all_captions"
    """The loss. all_captions contrasts every image with all 75 captions. The others are for comparison: one positive
    caption per image (infonce, siglip), or the severities of the image's own site only (cross_entropy)."""
    loss_weights: tuple[NonNegativeNumber, NonNegativeNumber, NonNegativeNumber] = (0.5, 1.0, 0.25)
    """The weights of the three terms of all_captions: captions, severities, images."""
    label_smoothing: Share = 0.0
    """The share of a site's severity that is given to the neighbouring severities."""
    merge_mirrored: bool = False
    """Count the captions of the left and the right side as positives of each other."""

    def check(self, **shares: float) -> None:
        """Raise SettingError if a setting is not one that this loss can use.

        Args: what else gives an image shares of several severities, such as mixup, by the name of its setting.
        """
        if not sum(self.loss_weights) > 0:
            raise SettingError("loss_weights", "0 0 0: nothing would be learned; one of them must be above zero")
        if self.label_smoothing and not self.takes_shares:
            raise SettingError(
                "label_smoothing",
                f"{self.label_smoothing}: the loss {self.loss} has one positive caption per image; "
                "set it to 0, or choose all_captions or cross_entropy",
            )
        if self.merge_mirrored and self.loss != "all_captions":
            raise SettingError(
                "merge_mirrored",
                f"true: the loss {self.loss} cannot be combined with it; set it to false, or choose all_captions",
            )
        for name, share in shares.items():
            if share and not self.takes_shares:
                raise SettingError(
                    name,
                    f"{share}: the loss {self.loss} cannot be combined with it; set it to 0, or choose all_captions or "
                    "cross_entropy",
                )

    @property
    def takes_shares(self) -> bool:
        """Whether an image may have shares of several severities, and severities may be resampled."""
        return self.loss in ("all_captions", "cross_entropy")


def check_loss(loss: LossSettings, augmentation: Augmentation, duration: DurationSettings) -> LossSettings:
    """Return the loss settings. Raises SettingError if they contradict each other or the other settings."""
    loss.check(mixup=augmentation.mixup, cutmix=augmentation.cutmix, severity_sampling=duration.severity_sampling)
    return loss


@dataclass(frozen=True)
class ComputationSettings:
    """Computation."""

    gradient_checkpointing: bool = False
    """Save memory: compute the towers' blocks again in the backward pass."""
    compile: bool = False
    """Compile the towers' blocks with torch.compile. A resumed run then equals an
    uninterrupted one only up to rounding."""
    dataloader_num_workers: LoaderWorkers = 0
    """The number of worker processes that load batches, per training process."""
