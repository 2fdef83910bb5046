"""The processes of a training, with their device and precision."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from runs.processes.launch import Launch
from runs.processes.launch_environment import hide_variables
from runs.processes.meeting import meet
from workspace.setting_error import SettingError


def build_accelerator(
    launch: Launch, mixed_precision: str, trackers: Sequence[str], logs: Path, join_timeout: float = 180.0
) -> Accelerator:
    """Return the processes, with their device and precision. The environment decides nothing but what `launch` says.

    Args:
        launch: how this process was started.
        mixed_precision: the requested precision (`choose_precision`).
        trackers: the trackers to log to.
        logs: the folder of the run's logs.
        join_timeout: how many seconds to wait for the other processes.

    Raises ValueError if some of the started processes did not join.
    """
    # DDP warns of the strides of depthwise kernels, which have a dimension of size one. The copy that it then makes is
    # a few kilobytes.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    use_cpu = uses_cpu(launch)
    precision = choose_precision(mixed_precision, use_cpu, launch.shards)
    meet(launch.world, "gloo" if use_cpu else "nccl", join_timeout)
    hide_variables()
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=precision,
        log_with=list(trackers) or None,
        project_dir=logs.parent,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    world = launch.world
    if (accelerator.num_processes, accelerator.process_index) != (world.size, world.rank):
        raise ValueError(
            f"process {world.rank} of {world.size} was started, but process {accelerator.process_index} of "
            f"{accelerator.num_processes} joined"
        )
    return accelerator


def uses_cpu(launch: Launch) -> bool:
    """Return whether training runs on the CPU: because the launcher requests it, or because there is no GPU."""
    return launch.use_cpu or not torch.cuda.is_available()


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
