"""What more of the anatomy per site costs: three tiles per view against one, and finer and wider crops.

    python -m benchmarks.tiles            # ten minutes on two idle cores
    python -m benchmarks.tiles --quick    # a small cohort and a few steps

One phantom cohort is prepared with each choice of crops, and the tiny model is trained on it, every weight, in fp32, by
one process of one thread. Rates are by CPU time, because other programs may be using the machine; the choices are
measured in turn, and the best of several turns counts. Peaks of memory are the training process's largest resident set.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.comparison import REPOSITORY, Job, best, print_row, train_ours
from benchmarks.machine import describe_machine
from data_prep.conversion.crop_geometry import CropGeometry
from data_prep.conversion.pairs import read_dataset
from data_prep.phantom import write_cohort
from vl_model.data.site_rows import group_sites
from workspace.layout import DataRoot

MODEL = "lumbar-tiny"
GEOMETRIES = (
    CropGeometry(),
    CropGeometry(tiles_per_view=3),
    CropGeometry(64.0, 0.25),
    CropGeometry(96.0, 0.5),
)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of preparing, bytes of crops per site, tiles per site, sites per CPU second and MB of training."""

    seconds: float
    bytes_per_site: float
    tiles_per_site: float
    sites_per_second: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small cohort and a few steps")
    quick = parser.parse_args().quick
    describe_machine("torch", "open_clip_torch", "numpy")
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-") as folder:
        drawn = Path(folder) / "drawn"
        studies = 6 if quick else 12
        write_cohort(drawn, train=studies, test=0, seed=7, size="small" if quick else "full", progress=False)
        print(f"\n{studies} phantom studies; {MODEL}, every weight, fp32, batches of {_batch(quick)} sites, one thread")
        first: Cost | None = None
        for geometry in GEOMETRIES:
            cost = measure(geometry, drawn, Path(folder) / "root", quick)
            print_cost(geometry, cost, first or cost)
            first = first or cost


def _batch(quick: bool) -> int:
    return 16 if quick else 32


def measure(geometry: CropGeometry, drawn: Path, root: Path, quick: bool) -> Cost:
    """Prepare the cohort, whose files are links, and train on it."""
    turns = 1 if quick else 2
    seconds = min(prepare(geometry, drawn, root) for _ in range(turns))
    processed = DataRoot(root).processed("train")
    rows = group_sites(read_dataset(processed).pairs)
    size = (processed / "crops.npy").stat().st_size
    job = Job(root, MODEL, "no", batch=_batch(quick), steps=2 if quick else 4, epochs=2 if quick else 3)
    rate = best([train_ours(job, "--tune", "full", "--learning_rate", "1e-4") for _ in range(turns)])
    tiles = float(np.mean([len(row.crops) for row in rows]))
    return Cost(seconds, size / len(rows), tiles, rate.processor, rate.peak_mb)


def prepare(geometry: CropGeometry, drawn: Path, root: Path) -> float:
    """Run prepare_data.py on a fresh copy of the cohort; return its CPU time in seconds."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(drawn, root, copy_function=os.link)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    flags = ["--root", str(root), "--split", "train", "--workers", "1", *geometry.flags.split()]
    subprocess.run([sys.executable, "prepare_data.py", *flags], capture_output=True, check=True, cwd=REPOSITORY)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_cost(geometry: CropGeometry, cost: Cost, first: Cost) -> None:
    print(f"\nCrops of {geometry}")
    print_row("tiles per site", f"{cost.tiles_per_site:.2f}")
    print_row("prepare_data.py, CPU s", f"{cost.seconds:.1f}")
    print_row("crops on the disk, kB per site", f"{cost.bytes_per_site / 1000:.0f}")
    print_row("training, sites per CPU s", f"{cost.sites_per_second:.1f}")
    print_row("training, tiles per CPU s", f"{cost.sites_per_second * cost.tiles_per_site:.1f}")
    print_row("training, peak MB", f"{cost.peak_mb:.0f}")
    if cost is not first:
        print_row("relative to the default: CPU time of prepare_data.py", f"{cost.seconds / first.seconds:.2f}")
        print_row("relative to the default: bytes on the disk", f"{cost.bytes_per_site / first.bytes_per_site:.2f}")
        slower = first.sites_per_second / cost.sites_per_second
        print_row("relative to the default: training time per site", f"{slower:.2f}")
        print_row("relative to the default: training memory", f"{cost.peak_mb / first.peak_mb:.2f}")


if __name__ == "__main__":
    main()
