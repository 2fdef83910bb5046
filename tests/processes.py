"""Real gloo processes, forked from the test's own: what they need is imported already."""

import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def in_processes(world: int, work: Callable[..., None], *arguments: Any) -> None:
    """`work(*arguments)` in `world` processes that are one gloo group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.start_processes(_one_of, args=(world, port, work, arguments), nprocs=world, start_method="fork")


def _one_of(rank: int, world: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    work(*arguments)
    if dist.is_initialized():  # a training has ended the group itself
        dist.destroy_process_group()
