"""The settings that every training has. Nothing here imports torch: ``--help`` reads them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jsonargparse.typing import PositiveFloat

from workspace.root_settings import RunNameSettings
from workspace.setting_types import NonNegativeNumber, PositiveInteger, PositiveNumber, Seed, Share


@dataclass(frozen=True)
class RunSettings(RunNameSettings):
    """The run: its name, its checkpoints and its logs."""

    overwrite: bool = False
    """Delete a run of this name first."""
    resume_from_checkpoint: str | None = None
    """The checkpoint from which to resume the run: latest, or a folder checkpoint-<step>. With latest, a
    run without a checkpoint starts at its first step."""
    checkpointing_steps: PositiveInteger | None = None
    """Write a checkpoint every N steps. By default once per epoch."""
    checkpoints_total_limit: PositiveInteger | None = 2
    """Keep the newest N checkpoints and delete older ones."""
    stop_margin: NonNegativeNumber = 120.0
    """Write a checkpoint and stop this many seconds before $SLURM_JOB_END_TIME. SIGTERM, or a file named STOP in the
    run's folder under checkpoints/, stops the run in the same way."""
    join_timeout: PositiveNumber = 180.0
    """How many seconds the processes of a run wait for each other at its start."""
    report_to: Literal["tensorboard", "wandb", "all", "none"] = "tensorboard"
    """The tracker to log to; all: every tracker that is installed. Without a network, set WANDB_MODE=offline."""
    mixed_precision: Literal["auto", "fast", "no", "fp16", "bf16"] = "auto"
    """The numerical precision. On a GPU, auto and fast are bf16 from compute capability 8 on, else fp16. On a CPU, auto
    is fp32, and fast is bf16 if the CPU has instructions for it."""
    seed: Seed = 0
    """The seed of every random choice."""


@dataclass(frozen=True)
class OptimizationSettings:
    """Optimizer."""

    learning_rate: PositiveNumber = 3e-4
    """The highest learning rate. It rises linearly to this value, then falls to zero along half a cosine."""
    warmup_ratio: Share = 0.05
    """The share of the steps in which the learning rate rises."""
    weight_decay: NonNegativeNumber = 0.1
    """AdamW's weight decay. It applies to matrices only."""
    max_grad_norm: Annotated[float, PositiveFloat] = 1.0
    """The largest norm of the gradients. Larger gradients are scaled down to it."""
