"""Speed of the conversion from DICOM to PNG against a plain implementation, size of the files, scaling, and memory.

    python -m benchmarks.prepare            # some minutes on two or more cores
    python -m benchmarks.prepare --quick    # fewer slices and repetitions

The benchmark measures slices per second and the size of the PNG files on one core, against the few lines of pydicom,
numpy and Pillow that a user would write; the speed of prepare_data.py from its start to its end, against the same
lines; the speed of complete conversions in two processes against one; and the growth
of memory with the number of studies. What is compared runs alternately, several times, and the fastest time counts,
because other programs may be using the machine. Rates of one core are by CPU time. Slices have 512 x 512 pixels and
values of the full range of 12 bits: ellipses over a smooth signal of up to 4,000, with Rician noise (as in magnitude
images) of sigma 3, 15 and 60.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from pydicom import dcmread

from benchmarks.copied_cohort import write_copied_cohort
from benchmarks.machine import describe_machine
from benchmarks.noisy_cohort import write_cohort, write_noisy_series
from data_prep.conversion.convert import convert_cohort, learn_from
from data_prep.conversion.executors import IN_PROCESS, Pool, open_pool
from data_prep.conversion.png import write_png
from data_prep.conversion.study_regions import crop_of, find_regions
from data_prep.dicom.headers import read_header
from data_prep.dicom.pixels import open_images
from data_prep.phantom.protocols import Compression
from data_prep.placement.atlas import example_of, learn_atlas
from data_prep.placement.regions import marked_positions
from data_prep.sites import Severity, Site, View
from data_prep.studies.cohorts import split_cohort
from data_prep.studies.studies import StudyFolder, read_study
from workspace.layout import DataRoot

NOISE = (3, 15, 60)
#: Number of DICOM files in the competition's training set.
REAL_FILES = 147_218
#: Aims: the peak of a worker's memory, and the growth of the parent's memory per slice.
WORKER_LIMIT_MB, PARENT_LIMIT_BYTES = 400, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the slices and repetitions")
    parser.add_argument("--growth", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.growth:
        measure_growth(Path(settings.growth[0]), int(settings.growth[1]))
        return
    turns = 2 if settings.quick else 6
    describe_machine("numpy", "pydicom", "isal", "Pillow", "pylibjpeg-rle")
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-", dir=fast_disk()) as folder:
        compare_with_plain(Path(folder), slices=8 if settings.quick else 24, turns=turns)
        measure_command(Path(folder), studies=12 if settings.quick else 40, originals=6, turns=max(turns // 3, 1))
        measure_scaling(Path(folder), studies=6 if settings.quick else 16, turns=max(turns // 2, 1))
        measure_memory(Path(folder), few=10, many=60 if settings.quick else 160)


def fast_disk() -> str | None:
    """Return a folder in memory if there is enough of it, so that the disk is not measured; otherwise None."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4e9 else None


def print_row(quantity: str, value: str, aim: str = "", met: bool | None = None) -> None:
    """Print one row of the table of results."""
    verdict = "" if met is None else "met" if met else "missed"
    print(f"  {quantity:<58} {value:>18}  {aim:<24} {verdict}".rstrip(), flush=True)


# One core, against a plain implementation


def compare_with_plain(folder: Path, slices: int, turns: int) -> None:
    print(f"\nOne core, CPU time, {slices} slices of one series, best of {turns} repetitions")
    for compression in (Compression.NONE, Compression.RLE):
        for sigma in NOISE:
            root = folder / f"{compression}-{sigma}"
            write_noisy_series(root / "1" / "1", slices, sigma, compression)
            series = StudyFolder(1, root, {1: root / "1" / "1"}, {1: View.SAGITTAL_T2_STIR})
            plain_out, our_out = folder / "plain", folder / "ours"
            plain, ours = best_of(
                turns, partial(convert_plainly, series, plain_out), partial(convert_ours, series, our_out)
            )
            assert_same_as_reference(series, our_out)
            ratio = sum(size(path) for path in our_out.iterdir()) / sum(size(path) for path in plain_out.iterdir())
            name = f"{compression}, sigma {sigma}"
            fast = (">= 12", plain / ours >= 12) if sigma == 15 else ("", None)
            small = ("<= 1.25", ratio <= 1.25) if sigma == 15 else ("", None)
            print_row(f"{name}: plain, slices/s", f"{slices / plain:.0f}")
            print_row(f"{name}: ours, slices/s", f"{slices / ours:.0f}")
            print_row(f"{name}: ours relative to plain, slices/s", f"{plain / ours:.1f}", *fast)
            print_row(f"{name}: size of the files relative to zlib 6", f"{ratio:.2f}", *small)
    print("  The pixels of all our PNG files equal those of a reference implementation.")


def convert_plainly(series: StudyFolder, out: Path) -> None:
    """Convert as a user would write it: read each file, window it between its percentiles, save it with Pillow."""
    out.mkdir(exist_ok=True)
    for path in series.series[1].iterdir():
        image = dcmread(path).pixel_array
        low, high = np.percentile(image, (0.5, 99.5))
        grey = np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(out / f"{path.stem}.png")


def convert_ours(series: StudyFolder, out: Path) -> None:
    """Read and write images as `study_conversion.convert_study` does, without regions and tiles."""
    out.mkdir(exist_ok=True)
    study, faults = read_study(series)
    assert not faults, faults
    for image in study.series[0].slices:
        write_png(out / f"{image.instance_number}.png", image.grey)


def assert_same_as_reference(series: StudyFolder, out: Path) -> None:
    """Compare PNG files with a slow implementation: a window from sorted pixels, and the formula for every image."""
    images = {path.stem: dcmread(path).pixel_array for path in series.series[1].iterdir()}
    pixels = np.sort(np.concatenate([image.ravel() for image in images.values()]))
    low, high = np.quantile(pixels, (0.005, 0.995), method="inverted_cdf").astype(np.float32)
    assert sorted(images) == sorted(path.stem for path in out.iterdir())
    for name, image in images.items():
        expected = np.rint(np.clip((image.astype(np.float32) - low) * (np.float32(255) / (high - low)), 0, 255))
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"{name}.png")), expected)


# The whole command, against the plain implementation


def measure_command(folder: Path, studies: int, originals: int, turns: int) -> None:
    """Measure prepare_data.py from its start to its end with one worker, and the plain way, alternately."""
    few = max(studies // 4, 1)
    roots = {count: folder / f"command-{count}" for count in (few, studies)}
    slices = {
        count: write_copied_cohort(root, folder / "drawn", count, originals, seed=5) for count, root in roots.items()
    }
    study_folders = split_cohort(DataRoot(roots[studies]), "train").folders
    print(f"\nThe whole command, one worker, CPU time, {studies} studies of {slices[studies]} real-size slices")
    plain, whole, part = [float("inf")] * 3
    for _ in range(turns):
        begin = time.process_time()
        for study in study_folders:
            for series_id in study.series:
                convert_plainly(replace(study, series={1: study.series[series_id]}), folder / "plain-command")
        plain = min(plain, time.process_time() - begin)
        whole, part = min(whole, prepare(roots[studies])), min(part, prepare(roots[few]))
    per_slice = (whole - part) / (slices[studies] - slices[few])
    start = whole - per_slice * slices[studies]
    many = 10 * slices[studies]
    print_row("plain, slices/s", f"{slices[studies] / plain:.0f}")
    print_row("ours, slices/s", f"{slices[studies] / whole:.0f}")
    print_row("ours relative to plain, slices/s", f"{plain / whole:.1f}", ">= 4", plain / whole >= 4)
    ratio = 10 * plain / (start + per_slice * many)
    print_row(f"the same for {10 * studies} studies, extrapolated", f"{ratio:.1f}", ">= 6", ratio >= 6)
    print_row("start and end of the command, s", f"{start:.2f}")
    parts = measure_parts(study_folders[:few], folder / "parts")
    for name, seconds in parts.items():
        print_row(f"ms per slice: {name}", f"{seconds / slices[few] * 1000:.2f}")
    rest = per_slice - sum(parts.values()) / slices[few]
    print_row("ms per slice: merge, records and second reading", f"{max(rest, 0.0) * 1000:.2f}")
    print_row("ms per slice: plain", f"{plain / slices[studies] * 1000:.2f}")


def prepare(root: Path) -> float:
    """Run prepare_data.py on a root that has not been prepared; return its CPU time in seconds."""
    shutil.rmtree(root / "train", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "prepare_data.py", "--root", str(root), "--split", "train", "--workers", "1"]
    subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_parts(folders: Sequence[StudyFolder], out: Path) -> dict[str, float]:
    """Return the CPU time of each part of the conversion of some studies, in seconds."""
    spent: dict[str, float] = {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        spent[name] = spent.get(name, 0.0) + time.process_time() - begin

    examples = []
    for folder in folders:
        with part("headers and decoding"):
            for path in folder.series.values():
                for file in path.iterdir():
                    with open_images(file) as images:
                        read_header(images.headers[0], file)
                        images.signal(0)
        with part("windows and checks of the series"):
            study, _ = read_study(folder)
        with part("PNG"):
            for series in study.series:
                for image in series.slices:
                    write_png(out / f"{series.series_id}-{image.instance_number}.png", image.grey)
        with part("atlas"):
            positions, _ = marked_positions(study)
            examples.append(example_of(study, positions))
        with part("regions and crops"):
            regions, _ = find_regions(study, positions)
            for found in regions:
                crop_of(study, found)
    with part("atlas"):
        learn_atlas([example for example in examples if example is not None])
    spent["windows and checks of the series"] -= spent["headers and decoding"]  # which `read_study` includes
    return spent


# Processes


def measure_scaling(folder: Path, studies: int, turns: int) -> None:
    """Measure complete conversions, with regions, tiles and tables, of images as large as the competition's."""
    cohort = write_cohort(folder / "cohort", studies, slices=25, shape=(512, 512))
    files = sum(1 for _ in (folder / "cohort" / "dataset" / "train_images").rglob("*.dcm"))
    atlas = learn_from(cohort)

    def convert(pool: Pool) -> tuple[float, float]:
        """Convert; return the wall-clock time, and the CPU time of this process and the busiest worker, in seconds."""
        shutil.rmtree(folder / "out", ignore_errors=True)
        begin, cpu_begin = time.perf_counter(), cpu_seconds()
        convert_cohort(cohort, folder / "out", atlas=atlas, caption=caption, pool=pool)
        parent, *workers = [end - start for end, start in zip(cpu_seconds(), cpu_begin, strict=True)]
        return time.perf_counter() - begin, parent + max(workers, default=0.0)

    print(f"\nComplete conversions, {files} RLE slices of sigma 15, best of {turns} repetitions")
    with open_pool(2) as pool, quiet():
        list(pool.map(abs, range(200), description="starting", name=str, weight=lambda _: 1))
        one, two = zip(*[(convert(IN_PROCESS), convert(pool)) for _ in range(turns)], strict=True)
    scaling = {}
    for index, clock in enumerate(("by wall-clock time", "by CPU time")):
        single, double = (min(turn[index] for turn in times) for times in (one, two))
        scaling[clock] = single / double
        print_row(f"one process, slices/s {clock}", f"{files / single:.0f}")
        print_row(f"two processes, slices/s {clock}", f"{files / double:.0f}")
        print_row(f"two processes relative to one, {clock}", f"{single / double:.2f}", ">= 1.7", single / double >= 1.7)
    print("  (Wall-clock time is valid only on an idle machine; CPU time does not include waiting.)")
    rate = files / min(turn[1] for turn in one) * 16 * scaling["by CPU time"] / 2
    print_row(f"the competition's {REAL_FILES:,} files on 16 cores, extrapolated", f"{REAL_FILES / rate / 60:.1f} min")


def cpu_seconds() -> list[float]:
    """Return the CPU times of this process and of its workers, in the order of their start."""
    here = psutil.Process()
    workers = sorted(here.children(), key=lambda process: (process.create_time(), process.pid))
    return [sum(process.cpu_times()[:2]) for process in (here, *workers)]


# Memory


def measure_memory(folder: Path, few: int, many: int) -> None:
    """Measure each conversion in a new process, because a process's recorded peak never decreases."""
    print(f"\nMemory of two workers and their parent, cohorts of {few} and {many} studies of 75 small slices")
    peaks = {}
    for studies in (few, many):
        write_cohort(folder / f"memory-{studies}", studies, slices=25, shape=(64, 64))
        command = [sys.executable, "-m", "benchmarks.prepare", "--growth", str(folder / f"memory-{studies}"), "2"]
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[studies] = [int(number) for number in finished.stdout.split()[-2:]]
    growth = (peaks[many][0] - peaks[few][0]) * 1024 / (75 * (many - few))
    print_row(
        "growth of the parent, bytes per slice", f"{growth:.0f}", f"< {PARENT_LIMIT_BYTES}", growth < PARENT_LIMIT_BYTES
    )
    for studies in (few, many):
        print_row(f"peak of a worker, MB, {studies} studies", f"{peaks[studies][1] / 1024:.0f}")
    command = [sys.executable, "-m", "benchmarks.prepare", "--growth", str(folder / "cohort"), "2"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(finished.stdout.split()[-1]) / 1024
    print_row(
        "peak of a worker, MB, slices of 512 x 512", f"{peak:.0f}", f"< {WORKER_LIMIT_MB}", peak < WORKER_LIMIT_MB
    )


def measure_growth(root: Path, workers: int) -> None:
    """Convert a cohort, and print the peaks of this process and of its largest worker, in kB."""
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


def best_of(turns: int, *functions: Callable[[], None]) -> list[float]:
    """Call functions alternately; return the shortest CPU time of each, in seconds."""
    best = [float("inf")] * len(functions)
    for _ in range(turns):
        for number, function in enumerate(functions):
            gc.collect()
            begin = time.process_time()
            function()
            best[number] = min(best[number], time.process_time() - begin)
    return best


def size(path: Path) -> int:
    return path.stat().st_size


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars."""
    stderr, sys.stderr = sys.stderr, open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = stderr


if __name__ == "__main__":
    main()
