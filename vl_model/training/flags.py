"""The flags of train_vl.py that say what is trained, on what, and how."""

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt

from workspace.cli import LoaderWorkers, NonNegativeFinite, PositiveFinite, Seed, SettingsParser

DEFAULT_MODEL, DEFAULT_PRETRAINED = "ViT-B-16", "openai"


def add_training_flags(parser: SettingsParser) -> None:
    """All of them, in the order of ``--help``."""
    for add_flags in (_add_model, _add_length, _add_optimizer, _add_loss, _add_tiles, _add_computation):
        add_flags(parser)


def _add_model(parser: SettingsParser) -> None:
    add = parser.add_argument
    add(
        "--model", type=str, default=DEFAULT_MODEL, help="open_clip name, local-dir:PATH, hf-hub:NAME, hf:PATH, hf:NAME"
    )
    add("--pretrained", type=str | None, help=f"a tag or a weights file; for {DEFAULT_MODEL} {DEFAULT_PRETRAINED}")
    add(
        "--tune",
        choices=("lora", "full", "head"),
        default="lora",
        help="adapters on a frozen base, every weight, or what stands behind a frozen base",
    )
    add("--lora_rank", type=PositiveInt, default=8)
    add("--lora_alpha", type=PositiveInt, default=16)
    add("--lora_dropout", type=ClosedUnitInterval, default=0.0)
    add("--lora_towers", choices=("image", "both"), default="image")
    add("--lora_last_blocks", type=PositiveInt | None, help="adapters in so many last blocks only; default in all")


def _add_length(parser: SettingsParser) -> None:
    """How long, and on what."""
    add = parser.add_argument
    add("--num_train_epochs", type=PositiveInt, default=10)
    add("--max_train_steps", type=NonNegativeInt | None, help="instead of epochs; 0 writes the bare base as a run")
    add("--per_device_train_batch_size", type=PositiveInt, default=64, help="sites, not tiles, a process and step")
    add("--gradient_accumulation_steps", type=PositiveInt, default=1, help="adds no negatives, but see")
    add("--cache_negatives", type=bool, default=False, help="one pool of all of a step's batches, embedded twice")
    add("--held_out_folds", type=int, nargs="*", default=[0], help="folds that training never sees")
    add("--held_out_sites", type=PositiveInt, default=300, help="how many of their sites are evaluated on the way")
    add("--evaluation_steps", type=PositiveInt | None, help="between evaluations; default once an epoch")


def _add_optimizer(parser: SettingsParser) -> None:
    add = parser.add_argument
    add("--learning_rate", type=PositiveFinite, default=3e-4)
    add("--warmup_ratio", type=ClosedUnitInterval, default=0.05, help="share of the steps in which the rate rises")
    add("--weight_decay", type=NonNegativeFinite, default=0.1)
    add("--max_grad_norm", type=PositiveFloat, default=1.0)


def _add_loss(parser: SettingsParser) -> None:
    add = parser.add_argument
    add(
        "--loss",
        choices=("all_captions", "infonce", "siglip", "cross_entropy"),
        default="all_captions",
        help="every image against all captions; for comparison those with one caption an image, and severities alone",
    )
    add(
        "--loss_weights",
        type=NonNegativeFinite,
        nargs=3,
        default=[0.5, 1.0, 0.25],
        help="of all_captions: captions, severities, images",
    )
    add("--label_smoothing", type=ClosedUnitInterval, default=0.0, help="share of a grade that its neighbours get")
    add("--merge_mirrored", type=bool, default=False, help="left and right captions are positives of each other")


def _add_tiles(parser: SettingsParser) -> None:
    """What is shown, how often, and how it varies."""
    add = parser.add_argument
    add("--augment", type=bool, default=True, help="vary the tiles in training")
    add("--jitter_mm", type=NonNegativeFinite, default=1.0, help="scatter of tiles, as a locator errs")
    add("--drop_view", type=ClosedUnitInterval, default=0.1, help="how often a site is seen without one of its views")
    add("--mixup", type=ClosedUnitInterval, default=0.0, help="how often a site is blended with another study's")
    add("--cutmix", type=ClosedUnitInterval, default=0.0, help="how often it gets a part of another study's")
    add(
        "--severity_sampling",
        type=ClosedUnitInterval,
        default=0.0,
        help="0: grades as often as they occur; 1: all alike; the loss takes the difference out again",
    )


def _add_computation(parser: SettingsParser) -> None:
    add = parser.add_argument
    add("--mixed_precision", choices=("auto", "fast", "no", "fp16", "bf16"), default="auto")
    add("--gradient_checkpointing", type=bool, default=False, help="less memory: compute the towers' blocks twice")
    add("--compile", type=bool, default=False, help="the towers' blocks, by torch.compile; resumes to rounding only")
    add("--seed", type=Seed, default=0)
    add("--dataloader_num_workers", type=LoaderWorkers, default=0)
