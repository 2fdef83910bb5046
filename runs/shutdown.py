"""How a training ends: after its last step, early because it was asked to, or broken off because it diverged."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from runs.checkpoints import complete_checkpoints
from runs.preemption import Preemption
from runs.run_folder import amend_record

#: A loss this many times its first is no learning any more; about what all terms cost who gives all captions the same.
EXPLODED_TIMES, GUESSING_LOSS = 10.0, 5.0
#: Steps in a row that fp16's scaler may skip: it starts at 65536 and is halved by each, so some 16 at first are usual.
SKIPPED_STEPS = 50


class Stopped(Exception):
    """The run was asked to stop, and has left a state; says after what."""


class Diverged(ValueError):
    """The loss or its gradient is no longer finite in `step`, or far beyond where it began."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class FiniteCheck:
    """Of each step's loss and gradient; `is_scaled`: in fp16, whose scaler skips a step of infinite gradients itself.

    How many were skipped in a row is no part of a state: a run that goes on and skips them all is found out as late.
    """

    def __init__(self, *, is_scaled: bool) -> None:
        self._may_skip = SKIPPED_STEPS if is_scaled else 0
        self._skipped = 0

    def __call__(self, step: int, loss: float, gradient_norm: float) -> None:
        """Raises Diverged, also where steps were skipped for so long that no scale can be the cause."""
        self._skipped = 0 if math.isfinite(gradient_norm) else self._skipped + 1
        if not math.isfinite(loss) or self._skipped > self._may_skip:
            like = (
                f" moves no weight, like the {self._may_skip} before it" if self._skipped > self._may_skip > 0 else ""
            )
            raise Diverged(
                step,
                f"step {step}{like}: the loss is {loss} and its gradient's norm {gradient_norm}; lower "
                "--learning_rate, or give --mixed_precision no",
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
