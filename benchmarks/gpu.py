"""How fast train_vl.py trains on one GPU, in bf16: against open_clip's trainer and against the GPU's own peak.

    python -m benchmarks.gpu                      # ViT-B-16 and ViT-L-14, batches of 256
    python -m benchmarks.gpu --batches 256 1024

Without a CUDA device it says so, and that is all. Towers have random weights: speed does not depend on them. Both
trainers get eight loader workers, the same images, batch and precision; each runs in a fresh process, and the best
epoch from the second on counts. open_clip's trainer starts and ends its workers in every epoch, ours once: so an epoch
has 40 steps, and of both trainers the 30 in its middle are timed. The peak is that of one large matrix product in bf16,
measured here; the work of a step is counted by torch's FlopCounterMode, forward and backward, as it is computed
(adapters spare the base's gradients).
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.comparison import Job, Rate, describe, train_open_clip, train_ours
from benchmarks.machine import describe_machine
from benchmarks.train import measure_loader
from benchmarks.training_material import write_material
from data_prep.sites import SITES
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import build_site_model
from vl_model.towers.towers import load_towers, save_towers
from vl_model.training.captions import Captions

MODELS = ("ViT-B-16", "ViT-L-14")
STEPS, EDGE, EPOCHS, WORKERS = 40, 5, 3, 8
#: As many as so many batches need; an epoch of open_clip's sees them several times.
BATCHES_OF_MATERIAL = 8
#: Of the measured peak, for ViT-B-16.
SHARE_OF_PEAK = 0.35


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[256], help="images a step")
    batches = parser.parse_args().batches
    if not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device here: nothing is measured", file=sys.stderr)
        return
    describe_machine("torch", "open_clip_torch", "accelerate", "peft")
    peak = matmul_peak()
    print(f"{torch.cuda.get_device_name()}: {peak / 1e12:.0f} TFLOP/s in one bf16 product of 8192 x 8192 matrices")
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-") as folder:
        root = Path(folder)
        studies = -(-max(batches) * BATCHES_OF_MATERIAL // len(SITES))
        write_material(root, studies * len(SITES))
        for model in MODELS:
            torch.manual_seed(0)
            save_towers(load_towers(model), root / model)
            for batch in batches:
                measure(Job(root, model, "bf16", batch, STEPS, EPOCHS, "cuda", workers=WORKERS, edge=EDGE), peak)


def measure(job: Job, peak: float) -> None:
    """One model and batch: open_clip, ours with every weight, ours with adapters, and the loader."""
    workers = ("--dataloader_num_workers", str(job.workers))
    own = replace(job, model=f"local-dir:{job.root / job.model}")
    theirs = train_open_clip(job)
    full = train_ours(own, "--tune", "full", *workers)
    lora = train_ours(own, "--tune", "lora", *workers)
    print(f"\n{job.model}, bf16, batches of {job.batch}")
    tell("open_clip, every weight", theirs)
    for name, tune, rate in (("ours, every weight", "full", full), ("ours, adapters of rank 8", "lora", lora)):
        tell(name, rate)
        share = step_flops(own, tune) / job.batch * rate.clock / peak
        aim = (f">= {SHARE_OF_PEAK}", share >= SHARE_OF_PEAK) if job.model == "ViT-B-16" else ("", None)
        describe(f"{name}: share of the measured peak", f"{share:.2f}", *aim)
        describe(f"{name}: times open_clip's images/s", f"{rate.clock / theirs.clock:.2f}")
    measure_loader(job, max(full.clock, lora.clock), aim=1.0)


def tell(name: str, rate: Rate) -> None:
    describe(f"{name}: images/s", f"{rate.clock:.0f}")
    describe(f"{name}: peak of GPU memory, MB", f"{rate.gpu_mb:.0f}")


def matmul_peak(size: int = 8192, repeats: int = 20) -> float:
    """Operations a second of bf16 products, the best of `repeats`; a multiplication and an addition are two."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def step_flops(job: Job, tune: str) -> int:
    """Operations of one step's forward and backward passes through the towers."""
    model = build_site_model(ModelSettings(job.model, None, tune)).to(job.device).train()  # type: ignore[arg-type]
    captions = Captions(model, seed=0)
    size = model.towers.image_size
    tiles_BT3HW = torch.randn(job.batch, 1, 3, size, size, device=job.device)
    mask_BT = torch.ones(job.batch, 1, dtype=torch.bool, device=job.device)
    with FlopCounterMode(display=False) as counter:
        with torch.autocast(job.device, torch.bfloat16):
            image_BD, text_KD, *_ = model(tiles_BT3HW, mask_BT, captions.tokens(1))
        (image_BD.sum() if text_KD is None else image_BD.sum() + text_KD.sum()).backward()
    del model, captions
    torch.cuda.empty_cache()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
