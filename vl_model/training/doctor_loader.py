"""The doctor's look at the loader: whether its workers deliver batches, and at the shared memory of the machine."""

import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import torch

from runs.loading import WaitEnded, load_in_order
from runs.processes.accelerators import uses_cpu
from runs.processes.launch import check_launch, started_processes
from vl_model.data.batches import TrainingBatches

#: Seconds that the first batches may take.
PATIENCE = 60.0
SHARED_MEMORY = Path("/dev/shm")
#: Bytes of shared memory that NCCL takes for two GPUs of one machine that talk through it, roughly.
NCCL_BYTES_PER_PAIR = 10 * 2**20
MIB = 2**20


def check_loader(batches: TrainingBatches, workers: int) -> tuple[bool, str]:
    """Load one batch with each worker. Raises LostWorker if one is lost, and whatever loading a batch raises."""
    until = time.monotonic() + PATIENCE
    count = min(max(1, workers), batches.batches_per_epoch)
    loader = load_in_order(batches, range(count), workers, should_end=lambda: time.monotonic() > until)
    size = 0
    try:
        with closing(loader):
            for batch in loader:
                size = max(size, batch.crops_BT3HW.nbytes)
    except WaitEnded:
        return False, (
            f"no batch came within {PATIENCE:.0f} s: look at the disk, or set --dataloader_num_workers 0, "
            "with which the training process loads them itself"
        )
    by = f"{workers} worker{'s' * (workers > 1)}, which need no shared memory," if workers else "the training process"
    return True, f"{by} can load batches of {size / MIB:.1f} MiB"


def check_shared_memory() -> tuple[bool, str]:
    """Compare the free shared memory with what NCCL needs for the exchange between the GPUs of this machine."""
    if not SHARED_MEMORY.is_dir():
        return True, "this machine has no /dev/shm, and loading needs none"
    free = shutil.disk_usage(SHARED_MEMORY).free
    message = f"{free / MIB:.0f} MiB free in {SHARED_MEMORY}"
    processes = min(started_processes(), int(os.environ.get("LOCAL_WORLD_SIZE") or 1), torch.cuda.device_count())
    if uses_cpu(check_launch()) or processes < 2:
        return True, f"{message}, of which this training needs none"
    needed = NCCL_BYTES_PER_PAIR * processes * (processes - 1)
    message += f", NCCL needs about {needed / MIB:.0f} for {processes} GPUs"
    remedy = ": allow more (docker --shm-size 1g), or set NCCL_SHM_DISABLE=1, which is slower"
    return free >= needed, message + ("" if free >= needed else remedy)
