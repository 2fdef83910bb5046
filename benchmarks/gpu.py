"""Training speed of train_vl.py on one GPU in bf16, against open_clip's trainer and against the GPU's peak.

    python -m benchmarks.gpu                      # ViT-B-16 and ViT-L-14, batches of 256
    python -m benchmarks.gpu --batches 256 1024

The benchmark measures images per second and the peak of GPU memory, for full fine-tuning and for LoRA, against
open_clip's trainer with the same towers, images, batch and precision; and the share of the GPU's peak that the training
reaches. Towers have random weights, which do not affect speed. Each trainer has eight loader workers and runs in a new
process; the fastest epoch after the first one counts. open_clip's trainer starts its workers anew in every epoch, ours
only once, so that only the middle 30 of an epoch's 40 steps are timed. The peak is that of one large matrix product in
bf16, measured here. The operations of a step's forward and backward pass are counted by torch's FlopCounterMode (with
LoRA the gradients of the base are not computed). It takes some minutes per model and batch; without a CUDA device it
prints one line and ends.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.comparison import Job, Rate, print_row, train_open_clip, train_ours
from benchmarks.machine import describe_machine
from benchmarks.train import measure_loader
from benchmarks.training_images import write_training_images
from data_prep.sites import SITES
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import build_site_model
from vl_model.towers.towers import load_towers, save_towers
from vl_model.training.captions import Captions

MODELS = ("ViT-B-16", "ViT-L-14")
STEPS, EDGE, EPOCHS, WORKERS = 40, 5, 3, 8
#: The images are enough for this number of batches; an epoch of open_clip's trainer repeats them.
DISTINCT_BATCHES = 8
#: The aim for ViT-B-16, as a share of the measured peak.
SHARE_OF_PEAK = 0.35


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[256], help="images per step")
    batches = parser.parse_args().batches
    if not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device was found, so nothing is measured", file=sys.stderr)
        return
    describe_machine("torch", "open_clip_torch", "accelerate", "peft")
    peak = matmul_peak()
    print(f"{torch.cuda.get_device_name()}: {peak / 1e12:.0f} TFLOP/s in a bf16 product of 8192 x 8192 matrices")
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-") as folder:
        root = Path(folder)
        studies = -(-max(batches) * DISTINCT_BATCHES // len(SITES))
        write_training_images(root, studies * len(SITES))
        for model in MODELS:
            torch.manual_seed(0)
            save_towers(load_towers(model), root / model)
            for batch in batches:
                measure(Job(root, model, "bf16", batch, STEPS, EPOCHS, "cuda", workers=WORKERS, edge=EDGE), peak)


def measure(job: Job, peak: float) -> None:
    """Measure one model and batch: open_clip's trainer, ours with full fine-tuning and with LoRA, and the loader."""
    workers = ("--dataloader_num_workers", str(job.workers))
    own = replace(job, model=f"local-dir:{job.root / job.model}")
    theirs = train_open_clip(job)
    full = train_ours(own, "--tune", "full", *workers)
    lora = train_ours(own, "--tune", "lora", *workers)
    print(f"\n{job.model}, bf16, batches of {job.batch}")
    print_rate("open_clip, full fine-tuning", theirs)
    for name, tune, rate in (("ours, full fine-tuning", "full", full), ("ours, LoRA of rank 8", "lora", lora)):
        print_rate(name, rate)
        share = step_flops(own, tune) / job.batch * rate.clock / peak
        aim = (f">= {SHARE_OF_PEAK}", share >= SHARE_OF_PEAK) if job.model == "ViT-B-16" else ("", None)
        print_row(f"{name}: share of the measured peak", f"{share:.2f}", *aim)
        print_row(f"{name}: images/s relative to open_clip", f"{rate.clock / theirs.clock:.2f}")
    measure_loader(job, max(full.clock, lora.clock), aim=1.0)


def print_rate(name: str, rate: Rate) -> None:
    print_row(f"{name}: images/s", f"{rate.clock:.0f}")
    print_row(f"{name}: peak of GPU memory, MB", f"{rate.gpu_mb:.0f}")


def matmul_peak(size: int = 8192, repeats: int = 20) -> float:
    """Return operations per second of the fastest of several bf16 matrix products; a multiply-add counts as two."""
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
    """Return the number of operations of one step's forward and backward pass through the towers."""
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
