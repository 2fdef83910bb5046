"""The conditions that the ablations compare: the default, and others that each differ from it in one respect.

The default is that of ``recipes/demo.yaml``: adapters of rank 16 on both towers, and the defaults of `train_vl.py` for
the loss and the batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from vl_model.data.augmentation import Augmentation
from vl_model.training.settings import LossSettings


@dataclass(frozen=True)
class Condition:
    """One way to train a model. `views` and `is_mirrored` apply to both training and evaluation.

    Attributes:
        name: The name of the condition, for flags and tables.
        loss: The settings of the loss.
        augmentation: The augmentation of tiles.
        severity_sampling: 0 to sample severities as often as they occur, 1 to sample all of them equally often.
        tune: Which weights are trained.
        learning_rate: The highest learning rate.
        views: The largest number of views per site; the first one is the view in which readers mark the site.
        is_mirrored: Whether tiles of right sides are mirrored onto the left.
        learns_pooling: Whether the pooling of tiles is trained; otherwise it is their mean.
        is_trained: Whether the model is trained; otherwise the base is evaluated.
        averaging: Decay of the moving average of the weights that is evaluated in their place; 0 for no averaging.
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


def named(names: Sequence[str]) -> list[Condition]:
    """Return the default, which all others are compared with, and the conditions of these names.

    Raises:
        ValueError: There is no condition of a name.
    """
    known = {condition.name: condition for condition in CONDITIONS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"--conditions {unknown[0]!r}: unknown condition; the conditions are {', '.join(map(repr, known))}"
        )
    return [known[name] for name in dict.fromkeys([CONDITIONS[0].name, *names])]
