"""The processes of a training, their device and precision."""

import os
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import parse_flag_from_env

from runs.launch import SHARDS, Launch, started_processes
from workspace.setting_error import SettingError

#: How long processes wait for one of them that cuts a large cohort's pictures: NCCL alone would give up after minutes.
#: One that dies is noticed at once all the same, by its launcher.
LONGEST_WAIT = timedelta(hours=3)


def build_accelerator(launch: Launch, mixed_precision: str, trackers: Sequence[str], logs: Path) -> Accelerator:
    """The processes, their device and precision. Raises ValueError where some of the processes are missing."""
    # Depthwise kernels have a dimension of one, whose stride means nothing: DDP warns and copies a few kilobytes.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    use_cpu = uses_cpu(launch)
    # Weights are not spread by accelerate, which does it on GPUs alone, but by `vl_model.training.sharding`;
    # transformers would load none in any process but the first. From here on `launch` alone knows.
    os.environ[SHARDS] = "false"
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=choose_precision(mixed_precision, use_cpu, launch.shards),
        log_with=list(trackers) or None,
        project_dir=logs.parent,
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        ],
    )
    if accelerator.num_processes != started_processes():
        raise ValueError(f"{started_processes()} processes were started, but {accelerator.num_processes} joined")
    return accelerator


def uses_cpu(launch: Launch) -> bool:
    """Whether training keeps to the CPU: because it was told to, or because there is nothing else."""
    return launch.use_cpu or bool(parse_flag_from_env("ACCELERATE_USE_CPU")) or not torch.cuda.is_available()


def choose_precision(wanted: str, use_cpu: bool, shards: bool = False) -> str:
    """``auto`` and ``fast`` -> what this device is best trained in; other words stand for themselves.

    On a GPU both are bf16 from compute capability 8 on, else fp16: a T4 (7.5) says that it supports bf16, and
    emulates it. On the CPU ``auto`` is fp32 ("no"), in which two processes repeat what one does; ``fast`` is bf16
    where the CPU has instructions for it. Raises ValueError for fp16 on the CPU, which would be fp32 without a word,
    and where weights are spread over processes, of whose parts its scaler does not know.
    """
    chosen = _choose_precision(wanted, use_cpu)
    if shards and chosen == "fp16":
        raise SettingError(
            "mixed_precision",
            f"{wanted}: fp16 on this device, in which sharded weights (FSDP2) cannot be trained; set it to no, or "
            "launch with multi_gpu.yaml",
        )
    return chosen


def _choose_precision(wanted: str, use_cpu: bool) -> str:
    if wanted == "fp16" and use_cpu:
        raise SettingError("mixed_precision", "fp16: not on a CPU; choose bf16, or fast (bf16 if that is faster)")
    if wanted not in ("auto", "fast"):
        return wanted
    if not use_cpu:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if wanted == "fast" and cpu_computes_in_bf16() else "no"


def precision_in_words(chosen: str) -> str:
    """accelerate calls full precision "no"."""
    return "fp32" if chosen == "no" else chosen


def cpu_computes_in_bf16() -> bool:
    """Whether there are AVX-512 or AMX instructions for it; torch keeps the question under private names."""
    questions = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(question() for question in questions if question)


def told_to_all(accelerator: Accelerator, flags: Sequence[bool]) -> list[bool]:
    """Each flag, true in every process where it is true in any; every process must ask, with as many flags."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32, device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(counts, "sum").tolist()]
