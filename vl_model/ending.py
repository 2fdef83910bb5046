"""How a training ends: after its last step, early because it was asked to, or broken off because it diverged."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from vl_model.checkpoints import complete_checkpoints
from vl_model.preemption import Preemption
from vl_model.run_folder import amend_record

#: A loss this many times its first is no learning any more; about what all terms cost who gives all captions the same.
EXPLODED_TIMES, GUESSING_LOSS = 10.0, 5.0


class Stopped(Exception):
    """The run was asked to stop, and has left a state; says after what."""


class Diverged(ValueError):
    """The loss or its gradient is no longer finite in `step`, or far beyond where it began."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def check_finite(step: int, loss: float, gradient_norm: float, *, is_scaled: bool) -> None:
    """Raises Diverged; `is_scaled`: in fp16, whose scaler skips a step of infinite gradients itself."""
    if not math.isfinite(loss) or not (math.isfinite(gradient_norm) or is_scaled):
        raise Diverged(
            step,
            f"step {step}: the loss is {loss} and its gradient's norm {gradient_norm}; lower --learning_rate, "
            "or give --mixed_precision no",
        )


def check_exploded(step: int, loss: float, first_loss: float) -> None:
    """Raises Diverged where a finite loss is far beyond where it began, and beyond what knowing nothing costs."""
    bound = EXPLODED_TIMES * max(first_loss, GUESSING_LOSS)
    if loss > bound:
        raise Diverged(
            step, f"step {step}: the loss is {loss:.1f}, after {first_loss:.1f} at first; lower --learning_rate"
        )


@contextmanager
def orderly_end(accelerator: Accelerator, preemption: Preemption, run: Path) -> Iterator[None]:
    """Around a training and what follows it; SIGTERM is noted meanwhile instead of ending the process.

    Where the block was asked to stop, its rest is left out, a line says how to go on, and ``run.json`` what asked: a
    batch script starts a run again that the clock stopped, and leaves alone what a person did. Raises ValueError where
    the loss diverged, with what lies in `run` to go on from. No state is written then: of the step that failed the
    forward pass has moved batch statistics already, and weights on the brink are no better than an older state's.
    """
    try:
        with preemption.listening():
            yield
    except Stopped as stop:
        if accelerator.is_main_process:
            amend_record(run, {"stopped_by": preemption.reason})
        accelerator.print(
            f"stopped by {preemption.reason} {stop}; a state is on disk: "
            "the same command with --resume_from_checkpoint latest goes on",
            flush=True,
        )
    except Diverged as stop:
        raise ValueError(f"{stop}; {_last_state(run, stop.step)}") from None


def _last_state(run: Path, before: int) -> str:
    """In words, the newest state of `run` before that step; later ones are another future's."""
    names = [folder.name for step, folder in complete_checkpoints(run) if step < before]
    return f"--resume_from_checkpoint {names[-1]} goes on from the last state" if names else "no state was written yet"
