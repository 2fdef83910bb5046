"""How fast DICOM files become PNGs, against what one would write oneself; files' sizes; scaling; memory.

    python -m benchmarks.prepare            # some minutes; two cores or more
    python -m benchmarks.prepare --quick    # fewer slices, for a look

Everything that is compared runs side by side in one run, in turns, and the best turn of each counts: others may be
using the machine. Rates of one core are by CPU time. Slices are 512 x 512 and fill 12 bits: ellipses over smooth
signal up to 4,000, with the Rician noise of a magnitude image of sigma 3, 15 and 60.
"""

import argparse
import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from pydicom import dcmread

from benchmarks.machine import describe_machine
from benchmarks.noisy_cohort import write_cohort, write_noisy_series
from data_prep.conversion.convert import convert_cohort, learn_from
from data_prep.conversion.executors import IN_PROCESS, Pool, open_pool
from data_prep.conversion.png import write_png
from data_prep.phantom.protocols import Compression
from data_prep.sites import Severity, Site, View
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import StudyFolder, read_study
from workspace.layout import DataRoot

NOISE = (3, 15, 60)
REAL_FILES = 147_218
"""Of the competition's training set."""
WORKER_LIMIT_MB, PARENT_LIMIT_BYTES = 400, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the slices and turns")
    parser.add_argument("--growth", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.growth:
        measure_growth(Path(settings.growth[0]), int(settings.growth[1]))
        return
    turns = 2 if settings.quick else 6
    describe_machine("numpy", "pydicom", "isal", "Pillow", "pylibjpeg-rle")
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-", dir=fast_disk()) as folder:
        compare_with_plain(Path(folder), slices=8 if settings.quick else 24, turns=turns)
        measure_scaling(Path(folder), studies=6 if settings.quick else 16, turns=max(turns // 2, 1))
        measure_memory(Path(folder), few=10, many=60 if settings.quick else 160)


def fast_disk() -> str | None:
    """Memory where there is some, so that what is measured is not the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4e9 else None


def line(what: str, figure: str, target: str = "", good: bool | None = None) -> None:
    verdict = "" if good is None else "ok" if good else "MISS"
    print(f"  {what:<58} {figure:>18}  {target:<24} {verdict}", flush=True)


# One core against the plain way


def compare_with_plain(folder: Path, slices: int, turns: int) -> None:
    print(f"\nOne core, CPU time, {slices} slices of one series, best of {turns} turns")
    for compression in (Compression.NONE, Compression.RLE):
        for sigma in NOISE:
            root = folder / f"{compression}-{sigma}"
            write_noisy_series(root / "1" / "1", slices, sigma, compression)
            series = StudyFolder(1, root, {1: root / "1" / "1"}, {1: View.SAGITTAL_T2_STIR})
            plain_out, our_out = folder / "plain", folder / "ours"
            plain, ours = best_of(turns, partial(plainly, series, plain_out), partial(our_way, series, our_out))
            assert_same_as_reference(series, our_out)
            ratio = sum(size(path) for path in our_out.iterdir()) / sum(size(path) for path in plain_out.iterdir())
            name = f"{compression}, sigma {sigma}"
            fast = (">= 12", plain / ours >= 12) if sigma == 15 else ("", None)
            small = ("<= 1.25", ratio <= 1.25) if sigma == 15 else ("", None)
            line(f"{name}: plain, slices/s", f"{slices / plain:.0f}")
            line(f"{name}: ours, slices/s", f"{slices / ours:.0f}")
            line(f"{name}: times as many", f"{plain / ours:.1f}", *fast)
            line(f"{name}: size of the files against zlib 6", f"{ratio:.2f}", *small)
    print("  every PNG of ours has the pixels of a plain reference implementation")


def plainly(series: StudyFolder, out: Path) -> None:
    """What a user would write: each file read, windowed between its percentiles, saved by Pillow."""
    out.mkdir(exist_ok=True)
    for path in series.series[1].iterdir():
        image = dcmread(path).pixel_array
        low, high = np.percentile(image, (0.5, 99.5))
        grey = np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(out / f"{path.stem}.png")


def our_way(series: StudyFolder, out: Path) -> None:
    """As `records.convert_study` reads and writes images; regions and tiles are left out, as above."""
    out.mkdir(exist_ok=True)
    study, faults = read_study(series)
    assert not faults, faults
    for image in study.series[0].slices:
        write_png(out / f"{image.instance_number}.png", image.grey)


def assert_same_as_reference(series: StudyFolder, out: Path) -> None:
    """The window of a series from its sorted pixels, every image mapped by the formula."""
    images = {path.stem: dcmread(path).pixel_array for path in series.series[1].iterdir()}
    pixels = np.sort(np.concatenate([image.ravel() for image in images.values()]))
    low, high = np.quantile(pixels, (0.005, 0.995), method="inverted_cdf").astype(np.float32)
    assert sorted(images) == sorted(path.stem for path in out.iterdir())
    for name, image in images.items():
        expected = np.rint(np.clip((image.astype(np.float32) - low) * (np.float32(255) / (high - low)), 0, 255))
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"{name}.png")), expected)


# Processes


def measure_scaling(folder: Path, studies: int, turns: int) -> None:
    """Whole conversions, with regions, tiles and tables, of a cohort as large as the real one's images."""
    cohort = write_cohort(folder / "cohort", studies, slices=25, shape=(512, 512))
    files = sum(1 for _ in (folder / "cohort" / "dataset" / "train_images").rglob("*.dcm"))
    atlas = learn_from(cohort)

    def convert(pool: Pool) -> tuple[float, float]:
        """Seconds by the clock, and by the processors: this process's and the busiest worker's."""
        shutil.rmtree(folder / "out", ignore_errors=True)
        begin, used = time.perf_counter(), processor_seconds()
        convert_cohort(cohort, folder / "out", atlas=atlas, caption=caption, pool=pool)
        ours, *workers = [now - then for now, then in zip(processor_seconds(), used, strict=True)]
        return time.perf_counter() - begin, ours + max(workers, default=0.0)

    print(f"\nWhole conversions, {files} RLE slices of sigma 15, best of {turns} turns")
    with open_pool(2) as pool, quiet():
        list(pool.map(abs, range(200), description="starting", name=str, weight=lambda _: 1))
        one, two = zip(*[(convert(IN_PROCESS), convert(pool)) for _ in range(turns)], strict=True)
    scaling = {}
    for place, clock in enumerate(("by the clock", "by CPU time")):
        single, double = (min(turn[place] for turn in times) for times in (one, two))
        scaling[clock] = single / double
        line(f"one process, slices/s {clock}", f"{files / single:.0f}")
        line(f"two processes, slices/s {clock}", f"{files / double:.0f}")
        line(f"two against one, {clock}", f"{single / double:.2f}", ">= 1.7", single / double >= 1.7)
    print("  (by the clock only where nothing else runs; CPU time leaves out waiting for each other, and for cores)")
    rate = files / min(turn[1] for turn in one) * 16 * scaling["by CPU time"] / 2
    line(f"the real set's {REAL_FILES:,} files on 16 cores, extrapolated", f"{REAL_FILES / rate / 60:.1f} min")


def processor_seconds() -> list[float]:
    """Of this process and of each of its workers, in the order of their start."""
    here = psutil.Process()
    workers = sorted(here.children(), key=lambda process: (process.create_time(), process.pid))
    return [sum(process.cpu_times()[:2]) for process in (here, *workers)]


# Memory


def measure_memory(folder: Path, few: int, many: int) -> None:
    """Each conversion in a process of its own, because a peak does not go down again."""
    print(f"\nMemory of two workers and their parent, cohorts of {few} and {many} studies of 75 small slices")
    peaks = {}
    for studies in (few, many):
        write_cohort(folder / f"memory-{studies}", studies, slices=25, shape=(64, 64))
        command = [sys.executable, "-m", "benchmarks.prepare", "--growth", str(folder / f"memory-{studies}"), "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[studies] = [int(number) for number in done.stdout.split()[-2:]]
    growth = (peaks[many][0] - peaks[few][0]) * 1024 / (75 * (many - few))
    line("the parent's growth, bytes a slice", f"{growth:.0f}", f"< {PARENT_LIMIT_BYTES}", growth < PARENT_LIMIT_BYTES)
    for studies in (few, many):
        line(f"a worker's peak, MB, {studies} studies", f"{peaks[studies][1] / 1024:.0f}")
    command = [sys.executable, "-m", "benchmarks.prepare", "--growth", str(folder / "cohort"), "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1]) / 1024
    line("a worker's peak, MB, slices of 512 x 512", f"{peak:.0f}", f"< {WORKER_LIMIT_MB}", peak < WORKER_LIMIT_MB)


def measure_growth(root: Path, workers: int) -> None:
    """Convert, and print this process's peak and the largest worker's, in kB."""
    cohort = split_cohort(DataRoot(root), "train")
    with open_pool(workers) as pool, quiet():
        atlas = learn_from(cohort, pool=pool)
        convert_cohort(cohort, root / "out", atlas=atlas, caption=caption, pool=pool)
    print(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    )


def caption(site: Site, severity: Severity | None) -> str:
    return site.words if severity is None else f"{site.words}: {severity.key}"


# Measuring


def best_of(turns: int, *ways: Callable[[], None]) -> list[float]:
    """The least CPU seconds of each way, turn about."""
    best = [float("inf")] * len(ways)
    for _ in range(turns):
        for number, way in enumerate(ways):
            gc.collect()
            begin = time.process_time()
            way()
            best[number] = min(best[number], time.process_time() - begin)
    return best


def size(path: Path) -> int:
    return path.stat().st_size


@contextmanager
def quiet() -> Iterator[None]:
    """Without bars of progress."""
    bars, sys.stderr = sys.stderr, open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = bars


if __name__ == "__main__":
    main()
