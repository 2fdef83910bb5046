"""The end of a training: after its last step, early because it was asked to stop, or because it diverged."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from accelerate import Accelerator

from runs.divergence import Diverged
from runs.loading import LostWorker
from runs.preemption import CLOCK, Preemption
from runs.processes.peers import lost_peers_named
from runs.run_folder import LOCK_FILE, amend_record, complete_checkpoints
from workspace.cli import EXIT_BAD_INPUT

_HOW_TO_RESUME = "to resume, give the same command with --resume_from_checkpoint latest"

#: After how many starts in a row that the clock ended after one step at most a run is taken to get nowhere.
SHORT_STARTS = 2


class Stopped(Exception):
    """The run was asked to stop after `step`, and has written a checkpoint, if a step is done.

    The message says after which.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@contextmanager
def orderly_end(
    accelerator: Accelerator, preemption: Preemption, run: Path, start: int, short_starts: int
) -> Iterator[None]:
    """Context manager around a training: SIGTERM sets a flag instead of ending the process.

    Args:
        accelerator, preemption: the processes, and the requests to stop them.
        run: the run's folder.
        start: the step that the run resumed from.
        short_starts: how many starts in a row, before this one, the clock ended after one step at most.

    If the block raises Stopped, the rest of it is skipped, a line says how to resume, and ``run.json`` records what
    stopped the run: a batch script starts a run again that was stopped by the clock, and not one that a person stopped.

    Raises ValueError if the clock ends start after start like that, since the run would never be finished, and if the
    training diverged, naming the checkpoint to resume from. No checkpoint is written then: the
    forward pass of the failed step has changed batch statistics already, and weights that are about to diverge are no
    better than those of an older checkpoint. Raises LostPeer if another process of the run is gone. A process that was
    asked to stop while it waits for another one, in vain, ends at once.
    """
    try:
        with (
            lost_peers_named(lambda: _last_checkpoint(run)),
            preemption.listening(partial(_end_a_vain_wait, run, accelerator.is_main_process)),
        ):
            yield
    except Stopped as stop:
        is_short = preemption.reason == CLOCK and stop.step - start <= 1
        short_starts = short_starts + 1 if is_short else 0
        if accelerator.is_main_process:
            amend_record(run, {"stopped_by": preemption.reason, "short_starts": short_starts})
        state = "the checkpoint is written" if complete_checkpoints(run) else "there is nothing to write yet"
        accelerator.print(f"stopped by {preemption.reason} {stop}; {state}: {_HOW_TO_RESUME}", flush=True)
        if short_starts >= SHORT_STARTS:
            raise ValueError(
                f"{preemption.reason} has stopped {short_starts} starts in a row after one step at most; give the job "
                "more time, or the run a smaller --stop_margin"
            ) from None
    except LostWorker:
        if accelerator.is_main_process:  # as if it were another process's worker
            amend_record(run, {"stopped_by": preemption.reason, "short_starts": 0})
        raise
    except Diverged as stop:
        raise ValueError(f"{stop}; {_last_checkpoint(run, stop.step)}") from None


def _end_a_vain_wait(run: Path, is_main: bool, reason: str) -> NoReturn:
    """End this process, which another thread keeps in a wait for another process that does not answer."""
    status = {"SIGTERM": 128 + signal.SIGTERM, "Ctrl-C": 128 + signal.SIGINT}.get(reason, EXIT_BAD_INPUT)
    print(
        f"stopped by {reason} while this process waited for another process of the run, which does not answer; "
        f"{_last_checkpoint(run)}",
        file=sys.__stderr__,  # the messages of all processes but the first are held back (`launch.follow`)
        flush=True,
    )
    with suppress(OSError):
        if is_main:
            (run / LOCK_FILE).unlink()
    os._exit(status)


def _last_checkpoint(run: Path, before: int | None = None) -> str:
    """Return how to resume from the newest checkpoint before that step; later ones belong to an earlier attempt."""
    names = [folder.name for step, folder in complete_checkpoints(run) if before is None or step < before]
    if not names:
        return "there is no checkpoint yet"
    return f"--resume_from_checkpoint {names[-1]} resumes from the last checkpoint"
