"""One start of a training, from its processes to its result: the order that every training shares.

A script first checks everything that needs no torch, locks the run's folder (`runs.run_folder.hold_run`), and then
calls `run_training`, which takes these steps:

    processes, seed, model    the processes, and the same model in each of them
    resume or begin           a checkpoint that does not fit is refused before anything is written
    run.json                  the record of the run
    take_steps                step, evaluation, metrics.csv, checkpoint, stop
    final/                    the result; then the record says that the run is finished

Each kind of training has its own `Training` and its own `Trainer`.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from runs.checkpoints import find_checkpoints, save_checkpoint
from runs.divergence import DivergenceCheck
from runs.job_clock import JobClock, read_job_clock
from runs.loading import LostWorker, WaitEnded
from runs.metrics_log import MetricsLog
from runs.preemption import Preemption
from runs.processes.accelerators import build_accelerator, precision_in_words
from runs.processes.collectives import gather_objects
from runs.processes.launch import Launch, threads_per_process
from runs.processes.launch_environment import ignored_in_words, ignored_variables
from runs.provenance import build_run_record
from runs.resuming import resume
from runs.run_folder import read_short_starts, remove_run, write_record
from runs.run_record import final_sha256
from runs.settings import RunSettings
from runs.shutdown import Stopped, orderly_end


class Trainer(Protocol):
    """The part of a training that takes its steps."""

    model: nn.Module
    optimizer: Any
    divergence: DivergenceCheck
    steps: int
    checkpointing_steps: int
    evaluation_steps: int | None
    #: The columns of metrics.csv, in order; `throughput` is the one of the samples per second.
    columns: tuple[str, ...]
    throughput: str
    samples_per_step: int

    def batches_after(self, step: int, should_end: Callable[[], bool]) -> AbstractContextManager[Iterator[list[Any]]]:
        """Open the stream of the batches of all steps after `step`: for each step a list of the batches that it takes.

        A wait for batches raises WaitEnded as soon as `should_end` returns true.
        """

    def step(self, step: int, batches: Iterator[Any]) -> dict[str, Any]:
        """Update the weights once and return the step's row of metrics.csv. Raises Diverged before a bad update."""

    def evaluate(self, preemption: Preemption) -> dict[str, float]:
        """Return the metrics of the held-out studies; none if the run is asked to stop meanwhile."""


@dataclass(frozen=True)
class Session:
    """One start of a run: its folders, its processes, and the requests to stop it."""

    run: Path
    logs: Path
    accelerator: Accelerator
    record: dict[str, Any]
    preemption: Preemption


class Training(Protocol):
    """The parts of a training that differ between kinds of training.

    settings: the resolved settings, to be recorded. dataset_fingerprint: the fingerprint of the training data.
    facts: what else ``run.json`` says of this training.
    """

    settings: dict[str, Any]
    dataset_fingerprint: str
    facts: dict[str, Any]

    def build_model(self) -> nn.Module:
        """Return the model on the CPU, ready to train. The seed is set before."""

    def plan(self, model: Any, processes: int) -> dict[str, Any]:
        """Return the settings and fingerprints that a resumed run must share with its checkpoint."""

    def build_trainer(self, accelerator: Accelerator, model: Any) -> Any:
        """Return the `Trainer` of a model that is on its device."""

    def describe(self, trainer: Any) -> str:
        """Return one line for the log: what is trained, on what, for how long."""

    def finish(self, trainer: Any, session: Session) -> None:
        """Write ``final/`` after the last step. Every process calls it; the first one writes."""


def run_training(
    training: Training, settings: RunSettings, launch: Launch, run: Path, logs: Path, trackers: tuple[str, ...]
) -> bool:
    """Train from the first step, or from a checkpoint, to the result. Every process calls it.

    Args:
        training: what is particular to this training.
        settings: the settings that every training has.
        launch: what the launcher was configured to start.
        run: the run's folder, which the caller has locked.
        logs: the folder of the run's logs.
        trackers: the trackers to log to.

    Returns whether the run is finished: False if it was asked to stop, and has written a checkpoint. Raises ValueError
    if the settings, the data, the checkpoint or the processes do not fit together, or if the training diverged.
    """
    torch.set_num_threads(threads_per_process())
    checkpoints = find_checkpoints(run, settings.resume_from_checkpoint)
    ignored = ignored_variables()
    accelerator = build_accelerator(launch, settings.mixed_precision, trackers, logs, settings.join_timeout)
    if ignored.get("ACCELERATE_MIXED_PRECISION", "").strip() == accelerator.mixed_precision:
        del ignored["ACCELERATE_MIXED_PRECISION"]  # the launcher's configuration says the same as the flag
    clock = read_job_clock(settings.stop_margin) if accelerator.is_main_process else JobClock()
    for note in (*launch.notes, *ignored_in_words(ignored), *clock.notes):
        accelerator.print(f"note: {note}", flush=True)
    torch.manual_seed(settings.seed)  # adapters, and towers without weights, start alike in every process
    model = training.build_model().to(accelerator.device)
    plan = training.plan(model, accelerator.num_processes)
    trainer: Trainer = training.build_trainer(accelerator, model)

    # Before anything is written: a checkpoint that does not fit leaves the run as it was.
    start, checkpoint = resume(checkpoints, model, trainer.optimizer, accelerator.scaler, plan)
    hosts = gather_objects(socket.gethostname())
    short_starts = gather_objects(read_short_starts(run) if start else 0)[0]  # before the record is written anew
    record: dict[str, Any] = {}
    if accelerator.is_main_process:
        if settings.overwrite:
            remove_run(run, logs)
        record = build_run_record(
            training.settings,
            training.dataset_fingerprint,
            trainer.steps,
            accelerator,
            launch,
            ignored | dict(clock.ignored),
        )
        record |= {"processes_a_machine": hosts.count(hosts[0]), "short_starts": short_starts, **training.facts}
        write_record(run, record)
        print(f"{_processes_in_words(accelerator, record['sharded'])}\n{training.describe(trainer)}", flush=True)
    accelerator.wait_for_everyone()
    _announce_start(accelerator, settings, checkpoint)
    if trackers:
        # The trackers drop the steps that are taken again.
        options = {"tensorboard": {"purge_step": start + 1}, "wandb": {"name": settings.run}}
        accelerator.init_trackers(settings.run, init_kwargs=options)

    save = partial(
        save_checkpoint,
        run,
        model=model,
        optimizer=trainer.optimizer,
        scaler=accelerator.scaler,
        plan=plan,
        limit=settings.checkpoints_total_limit,
    )
    log = MetricsLog(accelerator, logs, start, trainer.columns)
    preemption = Preemption(run, settings.stop_margin, accelerator, clock)
    is_finished = False
    with closing(log), orderly_end(accelerator, preemption, run, start, short_starts):
        take_steps(trainer, start, accelerator, log, save, preemption)
        with preemption.patient():
            training.finish(trainer, Session(run, logs, accelerator, record, preemption))
        if accelerator.is_main_process:
            write_record(run, record | {"finished": True, "final_sha256": final_sha256(run / "final")})
            print(f"wrote {run / 'final'}", flush=True)
            if cost := log.evaluation_cost():
                print(cost, flush=True)
        is_finished = True
    accelerator.end_training()
    return is_finished


def take_steps(
    trainer: Trainer,
    start: int,
    accelerator: Accelerator,
    log: MetricsLog,
    save: Callable[[int], object],
    preemption: Preemption,
) -> None:
    """Take the steps `start` + 1 to the last.

    `save(step)` writes a checkpoint; every process calls it when one is due, and when the run stops early. Raises
    Stopped if the run was asked to stop, LostWorker if a worker of its loader was lost, and Diverged before the update
    that would have ruined the weights.
    """
    steps = trainer.steps
    trainer.divergence.first_loss = log.first("loss")
    if start and _is_due(start, trainer.evaluation_steps, steps) and log.is_missing("held_out_severity"):
        # The run was asked to stop when this evaluation was due. It is done now, so that the log of the resumed run
        # equals that of an unbroken run.
        log.amend(start, trainer.evaluate(preemption))
    if preemption.reason:
        raise Stopped(f"after step {start} of {steps}", start)
    hidden = not accelerator.is_main_process
    with (
        trainer.batches_after(start, preemption.should_end_wait) as stream,
        tqdm(range(start + 1, steps + 1), initial=start, total=steps, unit="step", disable=hidden) as bar,
    ):
        began = time.perf_counter()
        batches = _await_batches(stream, preemption) if start < steps else []
        if preemption.should_stop():
            _stop(start, steps, preemption)
        for step in bar:
            row = trainer.step(step, iter(batches))
            row[trainer.throughput] = trainer.samples_per_step / (time.perf_counter() - began)
            if _is_due(step, trainer.evaluation_steps, steps):
                row |= trainer.evaluate(preemption)
            log.write(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            is_saved = _is_due(step, trainer.checkpointing_steps, steps)
            if is_saved:
                _save(step, save, accelerator, preemption)
            began = time.perf_counter()
            # Before the exchange: a process whose next batch does not come can still stop together with the others.
            batches = _await_batches(stream, preemption) if step < steps else []
            if preemption.should_stop():
                if not is_saved:
                    _save(step, save, accelerator, preemption)
                _stop(step, steps, preemption)


def _await_batches(stream: Iterator[list[Any]], preemption: Preemption) -> list[Any]:
    """Return the batches of the next step; none if the run has to stop, which all processes then have to agree on."""
    try:
        return [] if preemption.reason else next(stream)
    except WaitEnded:
        return []
    except LostWorker as lost:
        preemption.failure = lost
        return []


def _save(step: int, save: Callable[[int], object], accelerator: Accelerator, preemption: Preemption) -> None:
    with preemption.patient():
        save(step)
        accelerator.wait_for_everyone()


def _stop(step: int, steps: int, preemption: Preemption) -> NoReturn:
    """Raise Stopped, or the error of this process that stopped the run."""
    after = f"after step {step} of {steps}" if step else "before the first step"
    if preemption.failure:
        raise LostWorker(f"{preemption.failure}; stopped {after}: --resume_from_checkpoint latest goes on from there")
    raise Stopped(after, step)


def _is_due(step: int, every: int | None, steps: int) -> bool:
    return every is not None and (step % every == 0 or step == steps)


def _processes_in_words(accelerator: Accelerator, is_sharded: bool) -> str:
    processes = f"{accelerator.num_processes} process{'es' if accelerator.num_processes > 1 else ''}"
    sharded = ", sharded weights" if is_sharded else ""
    precision = precision_in_words(accelerator.mixed_precision)
    return f"{processes}, device {accelerator.device.type}, precision {precision}{sharded}"


def _announce_start(accelerator: Accelerator, settings: RunSettings, checkpoint: Path | None) -> None:
    if checkpoint:
        accelerator.print(f"resumed from {checkpoint.name}")
    elif settings.resume_from_checkpoint:
        accelerator.print(f"{settings.run!r} has no checkpoint yet: it starts at the first step")
