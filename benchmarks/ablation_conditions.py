"""What the ablations compare: the default, and each other condition that differs from it in one thing.

The default is ``recipes/demo.yaml``'s: adapters of rank 16 on both towers, and every setting of the loss and the
batches as `train_vl.py` has it.
"""

from dataclasses import dataclass, field
from typing import Literal

from vl_model.data.augmentation import Augmentation
from vl_model.training.settings import LossSettings


@dataclass(frozen=True)
class Condition:
    """One way to train, and what the model sees in training and evaluation alike.

    views: at most so many of a site's two, the one that it is marked in first. is_mirrored: right-sided tiles, onto
    the left. learns_pooling: else the plain mean of tiles. is_trained: else the base as it is. averaging: decay of the
    moving average of the weights that is evaluated in their place; 0: the weights themselves.
    """

    name: str
    loss: LossSettings = field(default_factory=LossSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    severity_sampling: float = 0.0
    tune: Literal["lora", "full", "head"] = "lora"
    learning_rate: float = 2e-3
    views: int = 2
    is_mirrored: bool = True
    learns_pooling: bool = True
    is_trained: bool = True
    averaging: float = 0.0


CONDITIONS = (
    Condition("default"),
    Condition("InfoNCE", loss=LossSettings("infonce")),
    Condition("SigLIP", loss=LossSettings("siglip")),
    Condition("cross-entropy of severities", loss=LossSettings("cross_entropy")),
    Condition("plain mean of tiles", learns_pooling=False),
    Condition("first view only, one tile", views=1, augmentation=Augmentation(drop_view=0.0)),
    Condition("no view dropped", augmentation=Augmentation(drop_view=0.0)),
    Condition("right sides not mirrored", is_mirrored=False),
    Condition("mirrored captions merged", loss=LossSettings(merge_mirrored=True)),
    Condition("mixup 0.3", augmentation=Augmentation(mixup=0.3)),
    Condition("cutmix 0.3", augmentation=Augmentation(cutmix=0.3)),
    Condition("label smoothing 0.1", loss=LossSettings(label_smoothing=0.1)),
    Condition("severity sampling 0.5", severity_sampling=0.5),
    Condition("full fine-tune, 3e-4", tune="full", learning_rate=3e-4),
    Condition("full fine-tune, 1e-3", tune="full", learning_rate=1e-3),
    Condition("averaged weights, 0.95", averaging=0.95),
    Condition("averaged weights, 0.99", averaging=0.99),
    Condition("frozen towers, a head", tune="head"),
    Condition("bare base", is_trained=False),
)


def named(names: list[str]) -> list[Condition]:
    """Those of these names, the default first, because all others are compared with it. Raises ValueError."""
    known = {condition.name: condition for condition in CONDITIONS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--conditions {unknown[0]!r}: the conditions are {', '.join(map(repr, known))}")
    return [known[name] for name in dict.fromkeys([CONDITIONS[0].name, *names])]
