"""Measure the effect of each part of the training: compare the default with conditions that
differ from it in one respect.

    python -m benchmarks.ablations
    python -m benchmarks.ablations --folder data/demo    # uses the cohorts and the base of `make demo`
    python -m benchmarks.ablations --conditions "mixup 0.3" "cutmix 0.3" --seeds 5
    python -m benchmarks.ablations --root ROOT --base local-dir:PATH --other_bases "random weights=local-dir:OTHER"

The benchmark measures the competition's metric of every condition on held-out studies, against the default. With --root
and --base these are the studies of fold 0 of a prepared data root whose sites have one view, as real foraminal sites
have; conditions on wide tiles need its crops to be wide enough. Otherwise they are phantom studies: a base is trained
from random weights on a first phantom cohort; every condition starts from this base, is trained on a second cohort from
other scanners, and is scored on the held-out studies of that cohort. Each result is a line of <folder>/ablations.jsonl,
so that the same command continues after an interruption and computes only what is missing. It prints a table in
Markdown. On phantoms a condition takes 0.5 to 2 minutes per seed on one core; all of them with three seeds take about
an hour on two cores, after the cohorts and the base have been made.
"""

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation_conditions import CONDITIONS, ONE_VIEW_CONDITIONS, Condition, named
from benchmarks.ablation_run import Plan, run_condition, write_unmirrored
from benchmarks.command_line import TWO_PROCESSES, run_command_line
from vl_model.evaluation.grader import HEADS
from vl_model.scoring.intervals import Interval, mean_intervals, paired_mean_differences
from vl_model.scoring.metrics import StudySums
from vl_model.towers.model_names import LOCAL_DIR
from vl_model.towers.open_clip_towers import WEIGHTS_FILE
from workspace.cli import run_command
from workspace.layout import DataRoot, data_root
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings
from workspace.whole_files import replacing

PROG = "-m benchmarks.ablations"
RESULTS = "ablations.jsonl"
Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    condition: Condition
    seed: int


@dataclass(frozen=True)
class Settings:
    """Settings of the ablations."""

    folder: str = "data/ablations"
    """The folder for the cohorts, the base and the results."""
    conditions: tuple[str, ...] = ()
    """The names of the conditions. By default all of them."""
    seeds: PositiveInteger = 3
    """The number of seeds per condition."""
    first_seed: NonNegativeInteger = 0
    """The first of the seeds, so that further seeds can be computed elsewhere."""
    steps: PositiveInteger = 120
    """The number of training steps per condition."""
    batch_size: PositiveInteger = 32
    """The number of sites per step."""
    workers: PositiveInteger = 2
    """The number of parallel processes, with one thread each."""
    studies: tuple[PositiveInteger, PositiveInteger] = (80, 160)
    """The numbers of studies of the two cohorts, which are written if they do not exist yet."""
    root: str | None = None
    """A prepared data root whose sites have one view, instead of the two cohorts."""
    base: str | None = None
    """The base of the conditions, as train_vl.py's model; it needs root."""
    other_bases: tuple[str, ...] = ()
    """Further conditions that differ from the default in the base: NAME=MODEL."""
    probe_studies: PositiveInteger | None = None
    """The largest number of training studies from which the linear probe learns. By default all."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    folder = Path(settings.folder)
    if (settings.root is None) != (settings.base is None):
        raise SettingError("root", f"{settings.root}, with base {settings.base}: each needs the other")
    if settings.root and settings.base:
        known = (*ONE_VIEW_CONDITIONS, *with_other_bases(settings.other_bases))
        root, base = data_root(settings.root), settings.base
    elif settings.other_bases:
        raise SettingError("other_bases", f"{settings.other_bases[0]!r}: needs root and base")
    else:
        known = CONDITIONS
        root, base = prepare(folder, *settings.studies)
    conditions = named(settings.conditions or [condition.name for condition in known], known)
    plan = plan_of(folder, root, base, settings.steps, settings.batch_size)
    plan = replace(plan, held_out_folds=(0,) if settings.root else plan.held_out_folds)
    plan = replace(plan, probe_studies=settings.probe_studies)
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    measure(folder / RESULTS, plan, conditions, seeds, settings.workers)


def with_other_bases(bases: Sequence[str]) -> Iterator[Condition]:
    """Yield the conditions that differ from the default in the base. Raises SettingError if one is not NAME=MODEL."""
    for words in bases:
        name, _, base = words.partition("=")
        if not (name and base):
            raise SettingError("other_bases", f"{words!r}: expected NAME=MODEL")
        yield replace(ONE_VIEW_CONDITIONS[0], name=name, base=base)


def prepare(folder: Path, first_studies: int, second_studies: int) -> tuple[DataRoot, str]:
    """Make what does not exist yet: the base, trained on the first cohort, and the second cohort, prepared.

    Returns:
        The data root of the second cohort, and the name of the base.
    """
    run = folder / "first" / "train" / "checkpoints" / "base"
    if not (run / "final").is_dir():
        make_cohort(folder / "first", first_studies, "first", seed=1)
        recipe = ("--run", "base", "--config", "recipes/demo_base.yaml", "--resume_from_checkpoint", "latest")
        launch = ("-m", "accelerate.commands.accelerate_cli", "launch", *TWO_PROCESSES)
        run_command_line(*launch, "train_vl.py", "--root", str(folder / "first"), *recipe)
    second = folder / "second"
    if not (second / "train" / "processed_data" / "dataset.json").is_file():
        make_cohort(second, second_studies, "second", seed=2)
    return data_root(str(second)), f"{LOCAL_DIR}{(run / 'final').resolve()}"


def make_cohort(root: Path, studies: int, scanners: str, seed: int) -> None:
    size = ("--train", str(studies), "--test", "0", "--seed", str(seed), "--scanners", scanners)
    run_command_line("-m", "data_prep.phantom", "--root", str(root), *size, "--workers", "2")
    run_command_line("prepare_data.py", "--root", str(root), "--workers", "2")


def plan_of(folder: Path, root: DataRoot, base: str, steps: int, batch_size: int) -> Plan:
    processed, unmirrored = root.processed("train"), folder / "unmirrored.npy"
    if not unmirrored.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(unmirrored) as partial:
            write_unmirrored(processed, partial)
    return Plan(str(processed.resolve()), base, str(unmirrored.resolve()), steps, batch_size, "fast")


def measure(path: Path, plan: Plan, conditions: Sequence[Condition], seeds: range, workers: int) -> None:
    """Compute the results that the file `path` does not hold yet, seed by seed, and print a table of all of them."""
    jobs = [Job(condition, seed) for seed in seeds for condition in conditions]
    results = read_results(path, plan)
    missing = [job for job in jobs if not is_done(job, results)]
    print(f"{len(missing)} of {len(jobs)} results to compute", file=sys.stderr, flush=True)
    with path.open("a", encoding="utf-8") as file:
        for done, result in enumerate(compute(plan, missing, workers), start=1):
            if (reason := result.get("refused")) is not None:
                print(f"{done}/{len(missing)} {result['condition']} is left out: {reason}", file=sys.stderr, flush=True)
                continue
            results[result["condition"], result["seed"]] = result
            file.write(json.dumps({"plan": identity(plan), **result}) + "\n")
            file.flush()
            seconds = result["training_seconds"] + result["evaluation_seconds"]
            progress = f"{done}/{len(missing)} {result['condition']}, seed {result['seed']}: {seconds:.0f} s"
            print(progress, file=sys.stderr, flush=True)
    measured = [one for one in conditions if all((one.name, seed) in results for seed in seeds)]
    if conditions[0] not in measured:
        raise ValueError(f"{conditions[0].name}: the base does not allow this condition, to which others are compared")
    print_table(plan, measured, seeds, results)


def compute(plan: Plan, jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Yield the jobs' results as they finish, in processes of one thread each; one worker is this process itself.

    A condition that the base does not allow, such as adapters on convolutions, has its reason under `refused` instead.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if workers == 1:
        yield from (run_job(plan, job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_job, plan, job) for job in jobs]
        try:
            yield from (future.result() for future in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_job(plan: Plan, job: Job) -> Result:
    try:
        return run_condition(plan, job.condition, job.seed)
    except SettingError as error:
        return {"condition": job.condition.name, "seed": job.seed, "refused": str(error)}


def is_done(job: Job, results: dict[tuple[str, int], Result]) -> bool:
    """Return whether there is a result of this job whose condition has had the same settings."""
    result = results.get((job.condition.name, job.seed))
    if result is None:
        return False
    # Settings that are newer than the result then had the default's value.
    return as_written(Condition("default")) | result["settings"] == as_written(job.condition)


def as_written(condition: Condition) -> dict[str, Any]:
    """Return a condition's settings as a file of results holds them: JSON has lists for tuples."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(condition)))
    return settings


def identity(plan: Plan) -> Result:
    """Return what results must share to be comparable; the paths of the files do not matter."""
    crops = json.loads((Path(plan.processed) / "crops.json").read_text(encoding="utf-8"))["fingerprint"]
    weights = Path(plan.base.removeprefix(LOCAL_DIR)) / WEIGHTS_FILE
    names = ("steps", "batch_size", "precision", "held_out_folds", "probe_studies")
    return {name: value for name, value in asdict(plan).items() if name in names and value is not None} | {
        "crops": crops,
        "base": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def read_results(path: Path, plan: Plan) -> dict[tuple[str, int], Result]:
    """Read the results of this plan; an incomplete last line, left by a kill, is deleted and computed again."""
    results: dict[tuple[str, int], Result] = {}
    own = json.loads(json.dumps(identity(plan)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return results
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            result = json.loads(line)
            if result["plan"] == own:
                results[result["condition"], result["seed"]] = result
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{path}: line {number} is not a result of this benchmark; delete the line") from None
    return results


def print_table(
    plan: Plan, conditions: Sequence[Condition], seeds: range, results: dict[tuple[str, int], Result]
) -> None:
    """Print means over seeds, intervals over studies, and differences paired by study and seed."""
    studies = len(next(iter(results.values()))["study"])
    print(
        f"\n{studies} held-out studies, {plan.steps} steps of {plan.batch_size} sites, "
        f"{told_seeds(seeds)}. The scores are those parts of the competition's metric that are "
        "graded; lower is better.\n"
        "The 95 % interval over studies is in brackets; the difference for each seed follows it.\n"
    )
    titles = [f"{head.replace('_', ' ')}{column}" for head in HEADS for column in ("", " minus default")]
    print("| | " + " | ".join(titles) + " | seconds |")
    print("|---" * (len(titles) + 2) + "|")
    default = {head: sums_of(conditions[0], seeds, results, head) for head in HEADS}
    for condition in conditions:
        cells = []
        for head in HEADS:
            own = sums_of(condition, seeds, results, head)
            cells.append(format_interval(mean_intervals(own)["graded_parts"], "{:.3f}"))
            difference = paired_mean_differences(own, default[head])["graded_parts"]
            cells.append(
                ""
                if condition is conditions[0]
                else f"{format_interval(difference, '{:+.3f}')}; {differences_by_seed(own, default[head])}"
            )
        seconds = np.mean([results[condition.name, seed]["training_seconds"] for seed in seeds])
        print(f"| {condition.name} | " + " | ".join(cells) + f" | {seconds:.0f} |")


def sums_of(condition: Condition, seeds: range, results: dict[tuple[str, int], Result], head: str) -> list[StudySums]:
    """Return the results of a condition and head, one per seed."""
    return [
        StudySums(np.array(result["study"]), np.array(result["loss"][head]), np.array(result["weight"]))
        for result in (results[condition.name, seed] for seed in seeds)
    ]


def told_seeds(seeds: range) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of the seeds {seeds[0]} to {seeds[-1]}"


def format_interval(interval: Interval, form: str) -> str:
    return f"{form.format(interval.value)} ({form.format(interval.low)} to {form.format(interval.high)})"


def differences_by_seed(own: Sequence[StudySums], default: Sequence[StudySums]) -> str:
    pairs = zip(own, default, strict=True)
    return " ".join(f"{paired_mean_differences([one], [other])['graded_parts'].value:+.3f}" for one, other in pairs)


if __name__ == "__main__":
    run_command(PROG, main)
