"""The processes of a training, with their device and precision."""

import os
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import parse_flag_from_env

from runs.launch import SHARDING_VARIABLE, Launch, started_processes
from workspace.setting_error import SettingError

#: How long processes wait for each other. Cutting a large cohort's images takes longer than NCCL's default of a few
#: minutes. The launcher still notices at once if a process dies.
COLLECTIVE_TIMEOUT = timedelta(hours=3)


def build_accelerator(launch: Launch, mixed_precision: str, trackers: Sequence[str], logs: Path) -> Accelerator:
    """Return the processes, with their device and precision.

    Args:
        launch: how this process was started.
        mixed_precision: the requested precision (`choose_precision`).
        trackers: the trackers to log to.
        logs: the folder of the run's logs.

    Raises ValueError if some of the started processes did not join.
    """
    # DDP warns of the strides of depthwise kernels, which have a dimension of size one. The copy that it then makes is
    # a few kilobytes.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    use_cpu = uses_cpu(launch)
    # `vl_model.training.sharding` shards the weights, because accelerate does so on GPUs only. While this variable is
    # set, transformers would load weights in the first process only. `launch.shards` keeps its value.
    os.environ[SHARDING_VARIABLE] = "false"
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=choose_precision(mixed_precision, use_cpu, launch.shards),
        log_with=list(trackers) or None,
        project_dir=logs.parent,
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT),
        ],
    )
    if accelerator.num_processes != started_processes():
        raise ValueError(f"{started_processes()} processes were started, but {accelerator.num_processes} joined")
    return accelerator


def uses_cpu(launch: Launch) -> bool:
    """Return whether training runs on the CPU: because the launcher requests it, or because there is no GPU."""
    return launch.use_cpu or bool(parse_flag_from_env("ACCELERATE_USE_CPU")) or not torch.cuda.is_available()


def choose_precision(requested: str, use_cpu: bool, shards: bool = False) -> str:
    """Return the precision to compute in, as accelerate names it: ``no`` (fp32), ``fp16`` or ``bf16``.

    ``auto`` and ``fast`` depend on the device; other requests are returned unchanged. On a GPU both are bf16 from
    compute capability 8 on, else fp16: a T4 (7.5) reports bf16 support but emulates it. On a CPU ``auto`` is fp32, in
    which two processes compute the same result as one, and ``fast`` is bf16 if the CPU has instructions for it.

    Args:
        requested: the setting mixed_precision.
        use_cpu: whether training runs on the CPU.
        shards: whether the weights are sharded over the processes.

    Raises SettingError for fp16 on a CPU, which would silently be fp32, and for fp16 with sharded weights, which the
    gradient scaler does not support.
    """
    chosen = _choose_precision(requested, use_cpu)
    if shards and chosen == "fp16":
        raise SettingError(
            "mixed_precision",
            f"{requested}: means fp16 on this device, and sharded weights (FSDP2) cannot be trained in fp16; "
            "set it to no, or launch with multi_gpu.yaml",
        )
    return chosen


def _choose_precision(requested: str, use_cpu: bool) -> str:
    if requested == "fp16" and use_cpu:
        raise SettingError(
            "mixed_precision",
            "fp16: cannot be used on a CPU; choose no, bf16, or fast (bf16 if the CPU has instructions for it)",
        )
    if requested not in ("auto", "fast"):
        return requested
    if not use_cpu:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if requested == "fast" and cpu_computes_in_bf16() else "no"


def precision_in_words(chosen: str) -> str:
    """Return the usual name of a precision: accelerate calls fp32 "no"."""
    return "fp32" if chosen == "no" else chosen


def cpu_computes_in_bf16() -> bool:
    """Return whether the CPU has AVX-512 or AMX instructions for bf16."""
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in checks if check)


def true_in_any_process(accelerator: Accelerator, flags: Sequence[bool]) -> list[bool]:
    """Return for each flag whether it is true in any process.

    Every process must call this with the same number of flags, and gets the same list.
    """
    if accelerator.num_processes == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32, device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(counts, "sum").tolist()]
