"""The processes of a training, their device and precision."""

import warnings
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import parse_flag_from_env

from vl_model.launch import Launch, started_processes
from vl_model.training import choose_precision


def build_accelerator(launch: Launch, mixed_precision: str, report_to: str, logs: Path) -> Accelerator:
    """The processes, their device and precision. Raises ValueError where some of the processes are missing."""
    # Depthwise kernels have a dimension of one, whose stride means nothing: DDP warns and copies a few kilobytes.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    use_cpu = launch.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=choose_precision(mixed_precision, use_cpu),
        log_with=None if report_to == "none" else report_to,
        project_dir=logs.parent,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    if accelerator.num_processes != started_processes():
        raise ValueError(f"{started_processes()} processes were started, but {accelerator.num_processes} joined")
    return accelerator
