"""Grade a competition's test studies with a bundle, one process per GPU; `start.py` of the bundle calls this.

    python -m offline.submit --bundle BUNDLE --data /kaggle/input/COMPETITION --working /kaggle/working --gpus 2

`--data` holds ``test_images/<study>/<series>/*.dcm``, ``sample_submission.csv`` and, if there is one,
``test_series_descriptions.csv``. `--working` receives ``submission.csv``, which holds the constants at first and is
replaced whole while the processes grade, and ``fallbacks.csv``, ``probabilities.csv`` and ``faults.csv`` at the end.
Each process has a share of the studies. The exit status is 1 if one of them failed: its other studies have constants.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.studies.image_tree import Share, share_of_folders
from workspace.cli import run_command, usable_cores
from workspace.json_files import read_object
from workspace.layout import home_expanded
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger, PositiveNumber
from workspace.settings_parser import read_settings
from workspace.whole_files import ESCAPED, replacing

PROG = "-m offline.submit"
SCHEMA_VERSION = 1
SUBMISSION, SAMPLE = "submission.csv", "sample_submission.csv"
#: Tables of the processes, which are joined at the end.
TABLES = ("probabilities.csv", "fallbacks.csv", "faults.csv")
#: Seconds between two looks at what the processes have written.
LOOK = 1.0


@dataclass(frozen=True)
class Settings:
    """Settings of a submission."""

    bundle: str
    """The folder of the bundle."""
    data: str
    """The folder of the competition's data."""
    working: str
    """The folder to write into."""
    gpus: NonNegativeInteger = 0
    """How many GPUs are promised. If fewer are there, this is said, and as many processes grade as there are."""
    processes: PositiveInteger | None = None
    """The number of processes, if it is not to be that of the GPUs."""
    time_budget: PositiveNumber | None = None
    """Seconds after which no further studies are read."""
    studies_per_batch: PositiveInteger = 8
    """The number of studies after which a process writes its submission again."""


@dataclass(frozen=True)
class Work:
    """What one process does: its share of the studies, and the folder that it writes into."""

    share: Share
    studies: frozenset[str]
    out: Path
    gpu: int | None


def main() -> int:
    settings = read_settings(PROG, __doc__, Settings)
    started = time.monotonic()
    bundle, data, working = (home_expanded(getattr(settings, name), name) for name in ("bundle", "data", "working"))
    card = read_object(bundle / "bundle.json", "offline.bundle", SCHEMA_VERSION)
    if not (data / "test_images").is_dir():
        raise SettingError("data", f"{str(data)!r}: has no folder test_images")
    if not (working / SUBMISSION).is_file():
        raise SettingError("working", f"{str(working)!r}: has no {SUBMISSION}; start.py of the bundle writes it first")
    gpus = _gpus(settings.gpus)
    count = settings.processes or max(gpus, 1)
    of = [number if number < gpus else None for number in range(count)]
    works = _divide(data / "test_images", working / ".shares", of)
    budget = [] if settings.time_budget is None else ["--time_budget", f"{settings.time_budget:g}"]
    flags = [*budget, "--studies_per_batch", str(settings.studies_per_batch)]
    processes = [_start(bundle, card, data, work, max(usable_cores() // count, 1), flags) for work in works]
    try:
        _join_until_done(processes, works, working / SUBMISSION)
    finally:
        for process in processes:
            process.kill()
    _join_tables(works, working)
    shutil.rmtree(working / ".shares", ignore_errors=True)
    failed = [process.returncode for process in processes if process.returncode]
    taken = time.monotonic() - started
    print(f"{working / SUBMISSION}: graded in {taken:.0f} s by {len(works)} process{'es' if len(works) > 1 else ''}")
    if failed:
        print(
            f"{len(failed)} of {len(works)} processes failed (status {failed[0]}): their other studies have constants"
        )
    return 1 if failed else 0


def _gpus(promised: int) -> int:
    """Return how many of the promised GPUs are there; say so if it is fewer."""
    if not promised:
        return 0
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < promised:
        place = "GPU" if there else "CPU"
        instead = f"one process for each of the {there}" if there > 1 else f"one process, on the {place}"
        print(f"{promised} GPUs were promised, and {there} are there: {instead}", flush=True)
    return min(promised, there)


def _divide(images: Path, folder: Path, gpus: Sequence[int | None]) -> list[Work]:
    """Divide the folders of studies among processes; a process without any is left out."""
    shutil.rmtree(folder, ignore_errors=True)
    shares = [Share(number, len(gpus)) for number in range(len(gpus))]
    names = [frozenset(path.name for path in share_of_folders(images, share)) for share in shares]
    parts = zip(shares, names, gpus, strict=True)
    return [Work(share, own, folder / str(share.number), gpu) for share, own, gpu in parts if own]


def _start(
    bundle: Path, card: Mapping[str, Any], data: Path, work: Work, workers: int, flags: Sequence[str]
) -> "subprocess.Popen[bytes]":
    """Start predict_vl.py for a share of the studies."""
    words: list[object] = ["--root", bundle / "root", "--run", card["run"], "--images", data / "test_images"]
    words += ["--share", f"{work.share.number + 1}/{work.share.count}", "--out", work.out, "--workers", workers, *flags]
    words += ["--base", bundle / card["base"]] if card["base"] else []
    for setting, name in (("sample_submission", SAMPLE), ("series_descriptions", "test_series_descriptions.csv")):
        words += [f"--{setting}", data / name] if (data / name).is_file() else []
    visible = {} if work.gpu is None else {"CUDA_VISIBLE_DEVICES": str(work.gpu)}
    environment = {**os.environ, "OMP_NUM_THREADS": str(workers), **visible}
    return subprocess.Popen([sys.executable, "-m", "predict_vl", *map(str, words)], env=environment)


def _join_until_done(processes: Sequence["subprocess.Popen[bytes]"], works: Sequence[Work], submission: Path) -> None:
    """Put what the processes have graded into the submission, again and again until all have ended."""
    seen: dict[Path, int] = {}
    while True:
        is_done = all(process.poll() is not None for process in processes)
        written = {path: path.stat().st_mtime_ns for work in works if (path := work.out / SUBMISSION).is_file()}
        if written != seen:
            seen = written
            _join(submission, [work for work in works if work.out / SUBMISSION in written])
        if is_done:
            return
        time.sleep(LOOK)


def _join(submission: Path, works: Sequence[Work]) -> None:
    """Replace each process's rows of the submission by what it has written, by rename; the order stays."""
    line_of = _lines(submission)
    for work in works:
        own = _lines(work.out / SUBMISSION).items()
        line_of |= {row: line for row, line in own if row in line_of and row.partition("_")[0] in work.studies}
    with replacing(submission) as partial:
        partial.write_text("".join(line_of.values()), encoding="utf-8")


def _lines(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {line.partition(",")[0]: line for line in file}


def _join_tables(works: Sequence[Work], working: Path) -> None:
    """Write the tables of all processes: the rows of each one's studies, and once those of studies without a folder."""
    of_others = [frozenset().union(*(other.studies for other in works if other is not work)) for work in works]
    for name in TABLES:
        found = [(work.out / name, work.studies, others) for work, others in zip(works, of_others, strict=True)]
        parts = [part for part in found if part[0].is_file()]
        if parts:
            with replacing(working / name) as partial, partial.open("w", encoding="utf-8", errors=ESCAPED) as file:
                for number, (path, own, others) in enumerate(parts):
                    with path.open(encoding="utf-8", newline="") as lines:
                        for line in lines:
                            study = line.partition(",")[0]
                            if study in own or not study or (not number and study not in others):
                                file.write(line)


if __name__ == "__main__":
    run_command(PROG, main)
