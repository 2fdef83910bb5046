"""Training speed of train_vl.py on CPUs, against open_clip's trainer; of LoRA, and of two processes.

    python -m benchmarks.train            # ten minutes on two idle cores
    python -m benchmarks.train --quick    # only the tiny model and a few steps

The benchmark measures images per second and the peak of memory: of full fine-tuning against open_clip's trainer, of
LoRA against full fine-tuning, of two processes against one, and of the loader alone. Both trainers have the same towers
(with random weights, which do not affect speed), images, batch, precision and threads, and no loader workers. They run
alternately, each in a new process, and the fastest epoch after the first one counts. open_clip's trainer reads PNG
files that a table lists, as its users would store the crops; ours reads crops.npy. Rates of one thread are by CPU time,
because other programs may be using the machine. Peaks of memory are the process's largest resident set.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.comparison import Job, Rate, best, print_row, train_open_clip, train_ours
from benchmarks.machine import describe_machine
from benchmarks.training_images import write_training_images
from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from runs.processes.accelerators import precision_in_words
from vl_model.data.augmentation import Augmentation
from vl_model.data.batches import TrainingBatches, training_loader
from vl_model.data.site_rows import group_sites
from vl_model.towers.towers import load_towers, save_towers

TINY = "lumbar-tiny"
#: Number of training sites: slightly more than an epoch of the largest global batch needs.
SITES = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only the tiny model and a few steps")
    quick = parser.parse_args().quick
    describe_machine("torch", "open_clip_torch", "accelerate", "peft")
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-") as folder:
        root = Path(folder)
        write_training_images(root, 50 if quick else SITES)
        tiny = Job(root, TINY, "no", batch=16 if quick else 64, steps=2 if quick else 6, epochs=2 if quick else 3)
        turns = 1 if quick else 2
        training_rate = compare_with_open_clip(tiny, turns, aim=2.3)
        if quick:
            measure_loader(tiny, training_rate, aim=5)
            return
        training_rate = max(training_rate, compare_with_open_clip(replace(tiny, precision="bf16"), turns, aim=2.6))
        compare_with_open_clip(Job(root, "ViT-B-32", "bf16", batch=64, steps=1, epochs=3), turns=1, aim=1.5)
        measure_loader(tiny, training_rate, aim=5)
        compare_processes(tiny, turns)
        compare_adapters(root, Job(root, "ViT-B-16", "bf16", batch=16, steps=1, epochs=3))


def compare_with_open_clip(job: Job, turns: int, aim: float) -> float:
    """Compare full fine-tuning; return our images per second of CPU time."""
    name = precision_in_words(job.precision)
    print(f"\n{job.model}, full fine-tuning, {name}, batches of {job.batch}, one thread; against open_clip's trainer")
    rates: list[tuple[Rate, Rate]] = [(train_open_clip(job), train_ours(job)) for _ in range(turns)]
    theirs, ours = (best(list(several)) for several in zip(*rates, strict=True))
    print_row("open_clip, images/s", f"{theirs.processor:.1f}")
    print_row("ours, images/s", f"{ours.processor:.1f}")
    ratio = ours.processor / theirs.processor
    print_row("ours relative to open_clip, images/s", f"{ratio:.2f}", f">= {aim}", ratio >= aim)
    print_row("open_clip, peak MB", f"{theirs.peak_mb:.0f}")
    print_row("ours, peak MB", f"{ours.peak_mb:.0f}")
    share = ours.peak_mb / theirs.peak_mb
    print_row("ours relative to open_clip, peak MB", f"{share:.2f}", "<= 1", share <= 1)
    return ours.processor


def measure_loader(job: Job, training_rate: float, aim: float) -> None:
    """Measure the loader of the training alone: by CPU time without workers, by wall-clock time with workers."""
    processed = job.root / "train" / "processed_data"
    rows = [row for row in group_sites(read_dataset(processed).pairs) if row.fold]
    batches = TrainingBatches(rows, open_crops(processed), job.batch, 0, Augmentation())
    rate = max(_batches_per_second(batches, job.workers) for _ in range(3)) * job.batch
    print(f"\nThe loader alone, {job.workers} workers")
    print_row("images/s", f"{rate:.0f}")
    print_row(
        "relative to the images/s of the training",
        f"{rate / training_rate:.1f}",
        f">= {aim:g}",
        rate >= aim * training_rate,
    )


def _batches_per_second(batches: TrainingBatches, workers: int, count: int = 20) -> float:
    clock = time.perf_counter if workers else time.process_time
    begin = clock()
    assert sum(1 for _ in training_loader(batches, 0, count, workers)) == count
    return count / (clock() - begin)


def compare_processes(job: Job, turns: int) -> None:
    """Compare one and two processes by wall-clock time, which requires a machine with two idle cores."""
    two, one = replace(job, processes=2), replace(job, batch=2 * job.batch, threads=2)
    rates = [(train_ours(one), train_ours(two), train_ours(job), train_independently(job)) for _ in range(turns)]
    threads, together, alone, independent = (
        max(rate.clock for rate in several) for several in zip(*rates, strict=True)
    )
    print(f"\nTwo processes of one thread, {job.batch} images each, {job.model}, fp32, by wall-clock time")
    print_row("one process of two threads, the same global batch, images/s", f"{threads:.1f}")
    print_row("two processes, images/s", f"{together:.1f}")
    ratio = together / threads
    print_row("two processes against one of two threads", f"{ratio:.2f}", ">= 0.9", ratio >= 0.9)
    print_row("one process of one thread, half the global batch, images/s", f"{alone:.1f}")
    print_row("weak scaling: two processes against twice this rate", f"{together / (2 * alone):.2f}")
    print_row("two independent runs at the same time, total images/s", f"{independent:.1f}")
    print_row("share of time in communication, and waiting for it", f"{1 - together / independent:.0%}")


def train_independently(job: Job) -> Rate:
    """Run two independent trainings at the same time; return the sum of their rates."""
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(train_ours, [job, job])
    return Rate(one.clock + other.clock, one.processor + other.processor, one.peak_mb, one.gpu_mb)


def compare_adapters(root: Path, job: Job) -> None:
    """Compare our LoRA with our full fine-tuning, from the same base."""
    base = root / "base"
    torch.manual_seed(0)
    save_towers(load_towers(job.model), base)
    own = replace(job, model=f"local-dir:{base}")
    full = train_ours(own)
    lora = train_ours(own, "--tune", "lora")
    print(f"\n{job.model}, LoRA of rank 8 against full fine-tuning, bf16, batches of {job.batch}, one thread")
    print_row("full fine-tuning, images/s", f"{full.processor:.2f}")
    print_row("LoRA, images/s", f"{lora.processor:.2f}")
    ratio, share = lora.processor / full.processor, lora.peak_mb / full.peak_mb
    print_row("LoRA relative to full fine-tuning, images/s", f"{ratio:.2f}", ">= 1.25", ratio >= 1.25)
    print_row("full fine-tuning, peak MB", f"{full.peak_mb:.0f}")
    print_row("LoRA, peak MB", f"{lora.peak_mb:.0f}")
    print_row("LoRA relative to full fine-tuning, peak MB", f"{share:.2f}", "<= 0.7", share <= 0.7)


if __name__ == "__main__":
    main()
