"""Measure a run on real foraminal sites, from the DICOM files to a table of the metric, beside others' predictions.

    python -m benchmarks.real_foraminal --root ROOT --out docs/results/real_foraminal.txt
    python -m benchmarks.real_foraminal --root ROOT --others A.csv B.csv --note "other work ran beside it"
    python -m benchmarks.real_foraminal --root ROOT --run wide --training "--config recipes/demo_base.yaml"
    python -m benchmarks.real_foraminal --root ROOT --run narrow --training "--view_mm 32" --other_runs wide --fold 1

ROOT is a data root whose dataset/ has the images and tables of graded foraminal sites. The benchmark prepares it,
trains a run on all folds but one, evaluates the run on that fold, and prints the foraminal part of the competition's
metric with 95 % intervals over studies: of the best constant per column, of both heads of the run, of the linear probe
of other runs that the benchmark has evaluated (`--other_runs`), and of any predictions of the same sites in the format
of a submission (`--others`). All are compared on the same rows, and differences are paired by study. The heads are also
graded where a locator or an atlas puts the sites of new studies.

A stage that is up to date is not repeated, so the same command continues after an interruption. The files it writes
beside the run hold data; its print holds figures only, and no identifier of a study.
"""

import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command_line import TWO_PROCESSES, run_command_line
from benchmarks.foraminal_table import Submitted, foraminal_rows, table_lines
from benchmarks.machine import machine_lines
from data_prep.conversion.pairs import read_dataset
from runs.run_record import read_run_record
from vl_model.data.site_table import row_keys
from vl_model.evaluation.embeddings import fingerprint
from vl_model.evaluation.known_labels import known_labels
from vl_model.evaluation.predictions import read_predictions
from vl_model.loaded_run import read_report
from vl_model.report.report_text import places_lines
from vl_model.scoring.prediction_table import read_prediction_table
from workspace.cli import run_command, usable_cores
from workspace.json_files import read_object
from workspace.layout import DataRoot, data_root
from workspace.root_settings import RootSettings
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings
from workspace.whole_files import replacing

PROG = "-m benchmarks.real_foraminal"
TRAINING = (
    "--model lumbar-tiny --tune full --learning_rate 1e-3 --num_train_epochs 8 --per_device_train_batch_size 32 "
    "--mixed_precision fast --checkpointing_steps 100 --checkpoints_total_limit 1 --report_to none"
)
#: Flags that the benchmark itself gives to train_vl.py.
OWN_FLAGS = ("--root", "--run", "--held_out_folds", "--resume_from_checkpoint", "--overwrite")
#: The competition's identifiers of studies are larger.
SMALLEST_IDENTIFIER = 1_000_000
STAGES = ("prepare", "train", "evaluate")


@dataclass(frozen=True)
class Settings(RootSettings):
    """Settings of the benchmark of real foraminal sites."""

    run: str = "real-foraminal"
    """The name of the run."""
    training: str = TRAINING
    """The flags of train_vl.py, in one word of the command line: "--model lumbar-tiny --tune full"."""
    processes: PositiveInteger = 2
    """The number of training processes on the CPUs: 1, or 2 through accelerate_configs/cpu_2.yaml."""
    fold: NonNegativeInteger = 0
    """The held-out fold."""
    other_runs: tuple[str, ...] = ()
    """Runs of the benchmark with the same held-out fold, whose linear probes join the others."""
    others: tuple[str, ...] = ()
    """CSV files of others' predictions with the columns row_id, normal_mild, moderate and severe."""
    out: str | None = None
    """The file to which the print is written too."""
    data: str = "RSNA 2024, foraminal sites, 250-pixel copies"
    """What the data is, for the first line of the print."""
    note: str | None = None
    """What readers of the figures should know, for the head of the print."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root = data_root(settings.root)
    training = training_words(settings.training)
    if settings.processes > 2:
        raise SettingError("processes", f"{settings.processes}: 1 or 2; accelerate_configs has a file for two")
    others: dict[str, Submitted] = {
        Path(name).stem: read_prediction_table(Path(name)).by_site() for name in settings.others
    }
    if len(others) < len(settings.others):
        raise SettingError("others", f"{', '.join(settings.others)}: two files have the same name")
    for name in settings.other_runs:
        if name in others or name == settings.run or settings.other_runs.count(name) > 1:
            raise SettingError("other_runs", f"{name!r}: names two predictions; give one of them another name")
    others |= {name: probe_by_site(root, name, settings.fold) for name in settings.other_runs}
    head = [settings.data, *machine_lines("torch", "open_clip_torch", "scikit-learn")]
    seconds = run_stages(root, settings.run, training, settings.processes, settings.fold)

    dataset = read_dataset(root.processed("train"))
    predictions = read_predictions(root.logs(settings.run) / "predictions.csv")
    rows = foraminal_rows(known_labels(root, dataset), dataset.fold_of, settings.fold, predictions, others)
    lines = [
        *head,
        *([settings.note] if settings.note else []),
        f"train_vl.py {shlex.join(training)}, {settings.processes} process{'es' if settings.processes > 1 else ''}",
        "seconds by the clock: " + ", ".join(stage_words(stage, seconds) for stage in STAGES),
        "",
        *table_lines(rows),
        "",
        "where the run's own placer puts the sites of new studies (`places` of the report), beside readers' marks:",
        *places_lines(read_report(root.logs(settings.run), settings.run)),
    ]
    check_without_studies(lines, dataset.fold_of)
    print("\n".join(lines))
    if settings.out:
        with replacing(Path(settings.out)) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def stage_words(stage: str, seconds: Mapping[str, float]) -> str:
    return f"{stage} {seconds[stage]:.0f}" if stage in seconds else f"{stage} done before"


def check_without_studies(lines: Iterable[str], study_ids: Iterable[int]) -> None:
    """Raise ValueError if a study's identifier is in the print, as part of the name of a file or of a note may be."""
    numbers = {int(number) for line in lines for number in re.findall(r"\d+", line)}
    # A phantom's studies may have small numbers, which are no identifiers of anything.
    if any(study in numbers for study in study_ids if study >= SMALLEST_IDENTIFIER):
        raise ValueError("the print contains the identifier of a study; change the names of files, or the note")


def training_words(flags: str) -> list[str]:
    """Return the words of `--training`. Raises SettingError if they are not flags, or among those of the benchmark."""
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise SettingError("training", f"{flags!r}: cannot be divided into words ({error})") from None
    if not words or not words[0].startswith("--"):
        raise SettingError("training", f"{flags!r}: expected flags of train_vl.py, as '--num_train_epochs 2'")
    for word in words:
        if word.partition("=")[0] in OWN_FLAGS:
            raise SettingError("training", f"{flags!r}: {word} is set by the benchmark")
    return words


def probe_by_site(root: DataRoot, run: str, fold: int) -> Submitted:
    """Return the metric-optimal probabilities of another run's linear probe. Raises SettingError if it has none."""
    trained = run_fingerprint(root, run, fold, "other_runs")
    if trained is None or evaluated_fingerprint(root, run) != trained:
        raise SettingError("other_runs", f"{run!r}: has not been trained and evaluated; run the benchmark for it first")
    table, prob_N3 = read_predictions(root.logs(run) / "predictions.csv")["linear_probe", "metric_optimal"]
    return dict(zip(row_keys(table), prob_N3.tolist(), strict=True))


def run_stages(root: DataRoot, run: str, training: list[str], processes: int, fold: int) -> dict[str, float]:
    """Prepare, train and evaluate what is not up to date; return the seconds that each stage has taken so far.

    Raises ValueError if a stage fails, or if the run was trained in another way.
    """
    record = StageRecord(root.logs(run) / "real_foraminal.json", {"training": training, "processes": processes})
    place = ("--root", str(root.path))
    with record.timed("prepare", lambda: dataset_fingerprint(root)):
        run_command_line("prepare_data.py", *place, "--split", "train", "--workers", str(usable_cores()))
    with record.timed("train", lambda: run_fingerprint(root, run, fold)):
        if run_fingerprint(root, run, fold) is None:
            launch = ("-m", "accelerate.commands.accelerate_cli", "launch", *TWO_PROCESSES) if processes > 1 else ()
            flags = (*training, "--held_out_folds", str(fold), "--resume_from_checkpoint", "latest")
            run_command_line(*launch, "train_vl.py", *place, "--run", run, *flags)
    if run_fingerprint(root, run, fold) is None:
        raise ValueError(f"run {run!r}: its training was stopped at a checkpoint; the same command continues it")
    with record.timed("evaluate", lambda: evaluated_fingerprint(root, run)):
        if evaluated_fingerprint(root, run) != run_fingerprint(root, run, fold):
            run_command_line("eval_vl.py", *place, "--run", run)
    return record.seconds


def dataset_fingerprint(root: DataRoot) -> str | None:
    """Return the fingerprint of the prepared training split; None if it is not prepared."""
    processed = root.processed("train")
    return read_dataset(processed).fingerprint if (processed / "dataset.json").is_file() else None


def run_fingerprint(root: DataRoot, run: str, fold: int, setting: str = "run") -> dict[str, str] | None:
    """Return the fingerprint of a finished run and the data set; None if its training has not ended.

    Raises ValueError if it was trained on another data set, or with another held-out fold.
    """
    if not (root.run(run) / "final").is_dir():
        return None
    record, dataset = read_run_record(root.run(run)), dataset_fingerprint(root)
    if record.dataset_fingerprint != dataset or record.held_out_folds != (fold,):
        raise SettingError(setting, f"{run!r}: was trained on other data or held out another fold; give another name")
    return fingerprint(root.run(run) / "final", record.dataset_fingerprint)


def evaluated_fingerprint(root: DataRoot, run: str) -> dict[str, str] | None:
    """Return the fingerprint of the run and the data set that the run's report is about; None without a report."""
    report, predictions = (root.logs(run) / name for name in ("report.json", "predictions.csv"))
    if not (report.is_file() and predictions.is_file()):
        return None
    found: dict[str, str] = read_object(report, "eval_vl.py")["fingerprint"]
    return {name: found[name] for name in ("checkpoint", "dataset")}


class StageRecord:
    """The seconds of each stage, in a file, so that they outlast an interruption.

    Raises ValueError if the file is about a training of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, object]) -> None:
        self._path, self._settings = path, settings
        self.seconds: dict[str, float] = {}
        if path.is_file():
            content = read_object(path, "the benchmark")
            if content["settings"] != settings:
                words = shlex.join(content["settings"]["training"])
                raise SettingError("run", f"{path.parent.name!r}: was trained with {words}; give another name")
            self.seconds = content["seconds"]

    @contextmanager
    def timed(self, stage: str, result: Callable[[], object]) -> Iterator[None]:
        """Add the time of a stage to its seconds, unless it left the same result as before and was up to date."""
        before, began = result(), time.perf_counter()
        try:
            yield
        finally:
            after = result()
            if after is None or after != before:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._path) as partial:
                    partial.write_text(json.dumps({"settings": self._settings, "seconds": self.seconds}) + "\n")


if __name__ == "__main__":
    run_command(PROG, main)
