"""What each part of the training is worth: the default against conditions that differ in one thing, on the phantom.

    python -m benchmarks.ablations
    python -m benchmarks.ablations --folder data/demo    # with the cohorts and the base of `make demo`
    python -m benchmarks.ablations --conditions "mixup 0.3" "cutmix 0.3" --seeds 5

A base is trained from nothing on a first cohort; every condition starts from it, learns on a second cohort from other
scanners, and is scored on that cohort's held-out studies. Each result is a line of <folder>/ablations.jsonl, so that
the same command goes on after an interruption, and adds what is new. The table at the end is Markdown.
"""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import PositiveInt

from benchmarks.ablation_conditions import CONDITIONS, Condition, named
from benchmarks.ablation_run import Plan, run_condition, write_unmirrored
from vl_model.evaluation.bootstrap import Interval, mean_intervals, paired_mean_differences
from vl_model.evaluation.grader import HEADS
from vl_model.evaluation.metrics import StudySums
from vl_model.towers.model_names import LOCAL_DIR
from vl_model.towers.open_clip_towers import WEIGHTS_FILE
from workspace.cli import SettingsParser, run_command
from workspace.layout import DataRoot, data_root
from workspace.whole_files import replacing

PROG = "-m benchmarks.ablations"
RESULTS = "ablations.jsonl"
TWO_PROCESSES = ("--config_file", "accelerate_configs/cpu_2.yaml")
Line = dict[str, Any]


@dataclass(frozen=True)
class Job:
    condition: Condition
    seed: int


def main() -> None:
    parser = SettingsParser(PROG, __doc__)
    parser.add_argument("--folder", type=str, default="data/ablations", help="cohorts, base and results")
    parser.add_argument("--conditions", type=str, nargs="*", default=[c.name for c in CONDITIONS], help="by name")
    parser.add_argument("--seeds", type=PositiveInt, default=3)
    parser.add_argument("--steps", type=PositiveInt, default=120)
    parser.add_argument("--batch_size", type=PositiveInt, default=32, help="sites a step")
    parser.add_argument("--workers", type=PositiveInt, default=2, help="conditions at a time, of one thread each")
    parser.add_argument("--studies", type=PositiveInt, nargs=2, default=[80, 160], help="of the two cohorts, if new")
    settings = parser.parse_args()
    conditions = named(settings.conditions)
    folder = Path(settings.folder)
    second, base = prepare(folder, *settings.studies)
    plan = plan_of(folder, second, base, settings.steps, settings.batch_size)
    measure(folder / RESULTS, plan, conditions, settings.seeds, settings.workers)


def prepare(folder: Path, first_studies: int, second_studies: int) -> tuple[DataRoot, str]:
    """The second cohort, prepared, and the name of a base trained on the first: what is there already is taken."""
    run = folder / "first" / "train" / "checkpoints" / "base"
    if not (run / "final").is_dir():
        make_cohort(folder / "first", first_studies, "first", seed=1)
        recipe = ("--run", "base", "--config", "recipes/demo_base.yaml", "--resume_from_checkpoint", "latest")
        launch = ("-m", "accelerate.commands.accelerate_cli", "launch", *TWO_PROCESSES)
        call(*launch, "train_vl.py", "--root", str(folder / "first"), *recipe)
    second = folder / "second"
    if not (second / "train" / "processed_data" / "dataset.json").is_file():
        make_cohort(second, second_studies, "second", seed=2)
    return data_root(str(second)), f"{LOCAL_DIR}{(run / 'final').resolve()}"


def make_cohort(root: Path, studies: int, scanners: str, seed: int) -> None:
    size = ("--train", str(studies), "--test", "0", "--seed", str(seed), "--scanners", scanners)
    call("-m", "data_prep.phantom", "--root", str(root), *size, "--workers", "2")
    call("prepare_data.py", "--root", str(root), "--workers", "2")


def call(*arguments: str) -> None:
    """One of our own commands. Raises ValueError where it fails; it has said why."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if subprocess.run([sys.executable, *arguments], env=environment, stdout=sys.stderr).returncode:
        raise ValueError(f"python {' '.join(arguments)}: failed; the same command goes on from here")


def plan_of(folder: Path, second: DataRoot, base: str, steps: int, batch_size: int) -> Plan:
    processed, unmirrored = second.processed("train"), folder / "unmirrored.npy"
    if not unmirrored.is_file():
        with replacing(unmirrored) as partial:
            write_unmirrored(processed, partial)
    return Plan(str(processed.resolve()), base, str(unmirrored.resolve()), steps, batch_size, "fast")


def measure(results: Path, plan: Plan, conditions: Sequence[Condition], seeds: int, workers: int) -> None:
    """Do what `results` does not hold yet, line by line, seed after seed; then print the table of what it holds."""
    jobs = [Job(condition, seed) for seed in range(seeds) for condition in conditions]
    lines = read_results(results, plan)
    missing = [job for job in jobs if not is_done(job, lines)]
    print(f"{len(missing)} of {len(jobs)} results to compute", file=sys.stderr, flush=True)
    with results.open("a", encoding="utf-8") as file:
        for done, line in enumerate(computed(plan, missing, workers), start=1):
            lines[line["condition"], line["seed"]] = line
            file.write(json.dumps({"plan": identity(plan), **line}) + "\n")
            file.flush()
            seconds = line["training_seconds"] + line["evaluation_seconds"]
            said = f"{done}/{len(missing)} {line['condition']}, seed {line['seed']}: {seconds:.0f} s"
            print(said, file=sys.stderr, flush=True)
    print_table(plan, conditions, seeds, lines)


def computed(plan: Plan, jobs: Sequence[Job], workers: int) -> Iterator[Line]:
    """The jobs' lines as they come, from processes of one thread each; with one worker, from this process."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if workers == 1:
        yield from (run_condition(plan, job.condition, job.seed) for job in jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_condition, plan, job.condition, job.seed) for job in jobs]
        try:
            yield from (future.result() for future in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def is_done(job: Job, lines: dict[tuple[str, int], Line]) -> bool:
    """Whether there is a line for it, of a condition that still is what it was."""
    line = lines.get((job.condition.name, job.seed))
    if line is None:
        return False
    # What came later than the line was as in the default.
    return asdict(CONDITIONS[0]) | line["settings"] == asdict(job.condition)


def identity(plan: Plan) -> Line:
    """What results must share to be compared; where the files lie is no part of it."""
    crops = json.loads((Path(plan.processed) / "crops.json").read_text(encoding="utf-8"))["fingerprint"]
    weights = Path(plan.base.removeprefix(LOCAL_DIR)) / WEIGHTS_FILE
    kept = ("steps", "batch_size", "precision", "held_out_folds")
    return {name: value for name, value in asdict(plan).items() if name in kept} | {
        "crops": crops,
        "base": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def read_results(path: Path, plan: Plan) -> dict[tuple[str, int], Line]:
    """Lines of this plan. One that was cut off by a kill is computed again."""
    lines: dict[tuple[str, int], Line] = {}
    wanted = json.loads(json.dumps(identity(plan)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return lines
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    for number, row in enumerate(text.split("\n")[:-1], start=1):
        try:
            line = json.loads(row)
            if line["plan"] == wanted:
                lines[line["condition"], line["seed"]] = line
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{path}: line {number} is not one of its results; take it out") from None
    return lines


def print_table(plan: Plan, conditions: Sequence[Condition], seeds: int, lines: dict[tuple[str, int], Line]) -> None:
    """Means over seeds, intervals over studies, differences paired by study and seed; lower is better."""
    studies = len(next(iter(lines.values()))["study"])
    print(
        f"\n{studies} held-out studies of the second cohort, {plan.steps} steps of {plan.batch_size} sites, mean of "
        f"{seeds} seed{'s' if seeds > 1 else ''}. The competition's metric, lower is better;\nin brackets the 95 % "
        "interval over studies; behind it the difference of each seed.\n"
    )
    titles = [f"{head.replace('_', ' ')}{column}" for head in HEADS for column in ("", " minus default")]
    print("| | " + " | ".join(titles) + " | seconds |")
    print("|---" * (len(titles) + 2) + "|")
    default = {head: sums_of(conditions[0], seeds, lines, head) for head in HEADS}
    for condition in conditions:
        cells = []
        for head in HEADS:
            own = sums_of(condition, seeds, lines, head)
            cells.append(said(mean_intervals(own)["score"], "{:.3f}"))
            difference = paired_mean_differences(own, default[head])["score"]
            cells.append(
                "" if condition is conditions[0] else f"{said(difference, '{:+.3f}')}; {each(own, default[head])}"
            )
        seconds = np.mean([lines[condition.name, seed]["training_seconds"] for seed in range(seeds)])
        print(f"| {condition.name} | " + " | ".join(cells) + f" | {seconds:.0f} |")


def sums_of(condition: Condition, seeds: int, lines: dict[tuple[str, int], Line], head: str) -> list[StudySums]:
    found = [lines[condition.name, seed] for seed in range(seeds)]
    return [
        StudySums(np.array(line["study"]), np.array(line["loss"][head]), np.array(line["weight"])) for line in found
    ]


def said(interval: Interval, form: str) -> str:
    return f"{form.format(interval.value)} ({form.format(interval.low)} to {form.format(interval.high)})"


def each(ours: Sequence[StudySums], theirs: Sequence[StudySums]) -> str:
    pairs = zip(ours, theirs, strict=True)
    return " ".join(f"{paired_mean_differences([one], [other])['score'].value:+.3f}" for one, other in pairs)


if __name__ == "__main__":
    run_command(PROG, main)
