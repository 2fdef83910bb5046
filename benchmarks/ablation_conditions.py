"""The conditions that the ablations compare: the default, and others that each differ from it in one respect.

On phantoms the default is that of ``recipes/demo.yaml``: adapters of rank 16 on both towers, and the defaults of
`train_vl.py` for the loss and the batches. On sites with one view, as the real foraminal ones are, it trains every
weight; there, conditions about several views are left out and others added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from data_prep.conversion.crop_geometry import VIEW_MM
from vl_model.data.augmentation import Augmentation
from vl_model.model.settings import LoraSettings
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
        view_mm: Width of a tile.
        lora: The adapters, if `tune` is "lora".
        length: The number of steps, as a multiple of the default's.
        base: The base of this condition; None: that of all.
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
    view_mm: float = VIEW_MM
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(rank=16, alpha=32, towers="both"))
    length: int = 1
    base: str | None = None


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

ONE_VIEW = Condition(
    "default", augmentation=Augmentation(drop_view=0.0), tune="full", learning_rate=5e-4, views=1, learns_pooling=True
)


def _one_view(name: str, **changes: Any) -> Condition:
    return replace(ONE_VIEW, name=name, **changes)


def _augmented(name: str, **changes: Any) -> Condition:
    return _one_view(name, augmentation=replace(ONE_VIEW.augmentation, **changes))


ONE_VIEW_CONDITIONS = (
    ONE_VIEW,
    _one_view("tiles of 32 mm", view_mm=32.0),
    _one_view("tiles of 64 mm", view_mm=64.0),
    _one_view("tiles of 96 mm", view_mm=96.0),
    _one_view("adapters, 2e-3", tune="lora", learning_rate=2e-3),
    _one_view("adapters of rank 64, 2e-3", tune="lora", learning_rate=2e-3, lora=LoraSettings(64, 128, towers="both")),
    _one_view("adapters, image tower", tune="lora", learning_rate=2e-3, lora=LoraSettings(16, 32, towers="image")),
    _one_view("frozen towers, a head", tune="head", learning_rate=2e-3),
    _one_view("cross-entropy of severities", loss=LossSettings("cross_entropy")),
    _one_view("InfoNCE", loss=LossSettings("infonce")),
    _augmented("mixup 0.3", mixup=0.3),
    _augmented("cutmix 0.3", cutmix=0.3),
    _one_view("label smoothing 0.1", loss=LossSettings(label_smoothing=0.1)),
    _one_view("severity sampling 0.5", severity_sampling=0.5),
    _augmented("no jitter", jitter_mm=0.0),
    _augmented("jitter 2 mm", jitter_mm=2.0),
    _augmented("neighbouring slices 0.4", jitter_slice=0.4),
    _one_view("right sides not mirrored", is_mirrored=False),
    _one_view("mirrored captions merged", loss=LossSettings(merge_mirrored=True)),
    _one_view("learning rate 2e-4", learning_rate=2e-4),
    _one_view("learning rate 1e-3", learning_rate=1e-3),
    _one_view("twice as many steps", length=2),
)


def named(names: Sequence[str], conditions: Sequence[Condition] = CONDITIONS) -> list[Condition]:
    """Return the default, which all others are compared with, and the conditions of these names.

    Raises:
        ValueError: There is no condition of a name.
    """
    known = {condition.name: condition for condition in conditions}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"--conditions {unknown[0]!r}: unknown condition; the conditions are {', '.join(map(repr, known))}"
        )
    return [known[name] for name in dict.fromkeys([conditions[0].name, *names])]
