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

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.folders import is_id
from workspace.cli import run_command, usable_cores
from workspace.json_files import read_object
from workspace.layout import home_expanded
from workspace.setting_error import SettingError
from workspace.setting_types import NonNegativeInteger, PositiveInteger, PositiveNumber
from workspace.settings_parser import read_settings
from workspace.whole_files import ESCAPED, replacing

PROG = "-m offline.submit"
SCHEMA_VERSION = 1
SUBMISSION = "submission.csv"
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
class Share:
    """The studies of one process: a folder with links to them, their part of the sample, and where it writes."""

    folder: Path
    gpu: int | None

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def sample(self) -> Path:
        return self.folder / "sample.csv"

    @property
    def out(self) -> Path:
        return self.folder / "out"


def main() -> int:
    settings = read_settings(PROG, __doc__, Settings)
    started = time.monotonic()
    bundle, data, working = (home_expanded(getattr(settings, name), name) for name in ("bundle", "data", "working"))
    card = read_object(bundle / "bundle.json", "offline.bundle", SCHEMA_VERSION)
    if not (data / "test_images").is_dir():
        raise SettingError("data", f"{str(data)!r}: has no folder test_images")
    row_ids = _row_ids(data / "sample_submission.csv")
    gpus = _gpus(settings.gpus)
    count = settings.processes or max(gpus, 1)
    shares = _divide(data, row_ids, working / ".shares", [number if number < gpus else None for number in range(count)])
    budget = [] if settings.time_budget is None else ["--time_budget", f"{settings.time_budget:g}"]
    flags = [*budget, "--studies_per_batch", str(settings.studies_per_batch)]
    processes = [_start(bundle, card, data, share, max(usable_cores() // count, 1), flags) for share in shares]
    try:
        _join_until_done(processes, shares, working / SUBMISSION)
    finally:
        for process in processes:
            process.kill()
    _join_tables(shares, working)
    shutil.rmtree(working / ".shares", ignore_errors=True)
    failed = [process.returncode for process in processes if process.returncode]
    print(f"{working / SUBMISSION}: {len(row_ids)} rows in {time.monotonic() - started:.0f} s, by {count} processes")
    if failed:
        print(f"{len(failed)} of {count} processes failed (status {failed[0]}): their other studies have constants")
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


def _row_ids(sample: Path) -> list[str]:
    if not sample.is_file():
        raise SettingError("data", f"{str(sample.parent)!r}: has no {sample.name}")
    with sample.open(newline="", encoding="utf-8-sig") as file:
        return [row["row_id"] for row in csv.DictReader(file)]


def _divide(data: Path, row_ids: Sequence[str], folder: Path, gpus: Sequence[int | None]) -> list[Share]:
    """Divide the studies among processes: links to the folders of their images, and samples of their rows."""
    shutil.rmtree(folder, ignore_errors=True)
    images = data / "test_images"
    named = dict.fromkeys(row_id.partition("_")[0] for row_id in row_ids)
    found = [path.name for path in sorted(images.iterdir()) if is_id(path.name) and path.is_dir()]
    studies = list(dict.fromkeys([*found, *named]))
    shares = [Share(folder / str(number), gpu) for number, gpu in enumerate(gpus)]
    for number, share in enumerate(shares):
        own = set(studies[number :: len(shares)])
        share.images.mkdir(parents=True)
        for name in found:
            if name in own:
                (share.images / name).symlink_to((images / name).resolve(), target_is_directory=True)
        rows = [row_id for row_id in row_ids if row_id.partition("_")[0] in own]
        share.sample.write_text("\n".join(["row_id", *rows, ""]), encoding="utf-8")
    return [share for share in shares if any(share.images.iterdir())]


def _start(
    bundle: Path, card: Mapping[str, Any], data: Path, share: Share, workers: int, flags: Sequence[str]
) -> "subprocess.Popen[bytes]":
    """Start predict_vl.py for a share of the studies."""
    words = ["--root", bundle / "root", "--run", card["run"], "--images", share.images, "--out", share.out]
    words += ["--sample_submission", share.sample, "--workers", workers, *flags]
    words += ["--base", bundle / card["base"]] if card["base"] else []
    descriptions = data / "test_series_descriptions.csv"
    words += ["--series_descriptions", descriptions] if descriptions.is_file() else []
    visible = {} if share.gpu is None else {"CUDA_VISIBLE_DEVICES": str(share.gpu)}
    environment = {**os.environ, "OMP_NUM_THREADS": str(workers), **visible}
    return subprocess.Popen([sys.executable, "-m", "predict_vl", *map(str, words)], env=environment)


def _join_until_done(processes: Sequence["subprocess.Popen[bytes]"], shares: Sequence[Share], submission: Path) -> None:
    """Put what the processes have graded into the submission, again and again until all have ended."""
    seen: dict[Path, int] = {}
    while True:
        is_done = all(process.poll() is not None for process in processes)
        written = {path: path.stat().st_mtime_ns for share in shares if (path := share.out / SUBMISSION).is_file()}
        if written != seen:
            seen = written
            _join(submission, list(written))
        if is_done:
            return
        time.sleep(LOOK)


def _join(submission: Path, parts: Sequence[Path]) -> None:
    """Replace rows of a submission by those of parts of it, by rename; its order stays."""
    line_of = _lines(submission)
    for part in parts:
        line_of |= {row_id: line for row_id, line in _lines(part).items() if row_id in line_of}
    with replacing(submission) as partial:
        partial.write_text("".join(line_of.values()), encoding="utf-8")


def _lines(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {line.partition(",")[0]: line for line in file}


def _join_tables(shares: Sequence[Share], working: Path) -> None:
    """Write each table of all processes below one header, as far as it is there."""
    for name in TABLES:
        parts = [path for share in shares if (path := share.out / name).is_file()]
        if parts:
            with replacing(working / name) as partial, partial.open("w", encoding="utf-8", errors=ESCAPED) as file:
                for number, part in enumerate(parts):
                    with part.open(encoding="utf-8", newline="") as lines:
                        header = next(lines, "")
                        file.writelines(lines if number else (header, *lines))


if __name__ == "__main__":
    run_command(PROG, main)
