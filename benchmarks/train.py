"""How fast train_vl.py trains: against open_clip's trainer; adapters against all weights; two processes against one.

    python -m benchmarks.train            # ten minutes of two idle cores
    python -m benchmarks.train --quick    # the tiny model alone, a few steps, for a look

Both trainers get the same towers (of random weights: speed does not depend on them), the same images, batch, precision
and threads, and no loader workers; each runs in a fresh process, in turns, and the best epoch from the second on
counts. open_clip reads PNG files named by a CSV, as its users would make of the crops; ours reads the crops. Rates of
one thread are by CPU time: others may be using the machine. Peaks are the process's own largest resident set.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.comparison import Job, Rate, best, describe, train_open_clip, train_ours
from benchmarks.machine import describe_machine
from benchmarks.training_material import write_material
from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from runs.accelerators import precision_in_words
from vl_model.data.augmentation import Augmentation
from vl_model.data.batches import TrainingBatches, training_loader
from vl_model.data.site_rows import group_sites
from vl_model.towers.towers import load_towers, save_towers

TINY = "lumbar-tiny"
#: Sites of the material, a little more than an epoch of the largest global batch needs.
SITES = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the tiny model alone, a few steps")
    quick = parser.parse_args().quick
    describe_machine("torch", "open_clip_torch", "accelerate", "peft")
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-") as folder:
        root = Path(folder)
        write_material(root, 50 if quick else SITES)
        tiny = Job(root, TINY, "no", batch=16 if quick else 64, steps=2 if quick else 6, epochs=2 if quick else 3)
        turns = 1 if quick else 2
        eaten = compare_with_open_clip(tiny, turns, aim=2.3)
        if quick:
            measure_loader(tiny, eaten, aim=5)
            return
        eaten = max(eaten, compare_with_open_clip(replace(tiny, precision="bf16"), turns, aim=2.6))
        compare_with_open_clip(Job(root, "ViT-B-32", "bf16", batch=64, steps=1, epochs=3), turns=1, aim=1.5)
        measure_loader(tiny, eaten, aim=5)
        compare_processes(tiny, turns)
        compare_adapters(root, Job(root, "ViT-B-16", "bf16", batch=16, steps=1, epochs=3))


def compare_with_open_clip(job: Job, turns: int, aim: float) -> float:
    """Full fine-tuning; our images a second of one core."""
    name = precision_in_words(job.precision)
    print(f"\n{job.model}, every weight, {name}, batches of {job.batch}, one thread; against open_clip's trainer")
    rates: list[tuple[Rate, Rate]] = [(train_open_clip(job), train_ours(job)) for _ in range(turns)]
    theirs, ours = (best(list(several)) for several in zip(*rates, strict=True))
    describe("open_clip, images/s", f"{theirs.processor:.1f}")
    describe("ours, images/s", f"{ours.processor:.1f}")
    ratio = ours.processor / theirs.processor
    describe("times as many", f"{ratio:.2f}", f">= {aim}", ratio >= aim)
    describe("open_clip, peak MB", f"{theirs.peak_mb:.0f}")
    describe("ours, peak MB", f"{ours.peak_mb:.0f}")
    share = ours.peak_mb / theirs.peak_mb
    describe("share of its peak", f"{share:.2f}", "<= 1", share <= 1)
    return ours.processor


def measure_loader(job: Job, eaten: float, aim: float) -> None:
    """Batches of the loop's own loader: by CPU time where it is this process, by the clock where it has workers."""
    processed = job.root / "train" / "processed_data"
    rows = [row for row in group_sites(read_dataset(processed).pairs) if row.fold]
    batches = TrainingBatches(rows, open_crops(processed), job.batch, 0, Augmentation())
    rate = max(_batches_per_second(batches, job.workers) for _ in range(3)) * job.batch
    print(f"\nThe loader alone, {job.workers} workers")
    describe("images/s", f"{rate:.0f}")
    describe("times what is trained on", f"{rate / eaten:.1f}", f">= {aim:g}", rate >= aim * eaten)


def _batches_per_second(batches: TrainingBatches, workers: int, count: int = 20) -> float:
    clock = time.perf_counter if workers else time.process_time
    begin = clock()
    assert sum(1 for _ in training_loader(batches, 0, count, workers)) == count
    return count / (clock() - begin)


def compare_processes(job: Job, turns: int) -> None:
    """By the clock, on a machine where nothing else runs: two processes are two cores' work."""
    two, one = replace(job, processes=2), replace(job, batch=2 * job.batch, threads=2)
    rates = [(train_ours(one), train_ours(two), train_ours(job), apart(job)) for _ in range(turns)]
    threads, together, alone, silent = (max(rate.clock for rate in several) for several in zip(*rates, strict=True))
    print(f"\nTwo processes of one thread, {job.batch} images each, {job.model}, fp32, by the clock")
    describe("one process of two threads, the same global batch, images/s", f"{threads:.1f}")
    describe("two processes, images/s", f"{together:.1f}")
    ratio = together / threads
    describe("two processes against one of two threads", f"{ratio:.2f}", ">= 0.9", ratio >= 0.9)
    describe("one process of one thread, half the global batch, images/s", f"{alone:.1f}")
    describe("weak scaling: two processes against twice that one", f"{together / (2 * alone):.2f}")
    describe("two runs that do not know of each other, images/s in all", f"{silent:.1f}")
    describe("share of time in communication, and waiting for it", f"{1 - together / silent:.0%}")


def apart(job: Job) -> Rate:
    """Two runs at once, which share the machine and nothing else: both rates added."""
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(train_ours, [job, job])
    return Rate(one.clock + other.clock, one.processor + other.processor, one.peak_mb, one.gpu_mb)


def compare_adapters(root: Path, job: Job) -> None:
    """Ours against ours, from the same base on disk."""
    base = root / "base"
    torch.manual_seed(0)
    save_towers(load_towers(job.model), base)
    own = replace(job, model=f"local-dir:{base}")
    full = train_ours(own)
    lora = train_ours(own, "--tune", "lora")
    print(f"\n{job.model}, adapters of rank 8 against every weight, bf16, batches of {job.batch}, one thread")
    describe("every weight, images/s", f"{full.processor:.2f}")
    describe("adapters, images/s", f"{lora.processor:.2f}")
    ratio, share = lora.processor / full.processor, lora.peak_mb / full.peak_mb
    describe("times as many", f"{ratio:.2f}", ">= 1.25", ratio >= 1.25)
    describe("every weight, peak MB", f"{full.peak_mb:.0f}")
    describe("adapters, peak MB", f"{lora.peak_mb:.0f}")
    describe("share of its peak", f"{share:.2f}", "<= 0.7", share <= 0.7)


if __name__ == "__main__":
    main()
