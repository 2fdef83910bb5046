"""The meeting of the processes of a training at its start, as one process group of torch.

`accelerate` would wait for the others as long as a collective may take, which is hours. Here a process whose others do
not come within minutes, because its variables are left over from a job or a machine is missing, ends with one line.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from runs.processes.world import MEETING_VARIABLES, WORLD_VARIABLES, World

#: How long processes wait for each other after they have met. Cutting a large cohort's images takes longer than NCCL's
#: default of a few minutes. The launcher still notices at once if a process dies.
COLLECTIVE_TIMEOUT = timedelta(hours=3)
#: torchrun's store exists before it starts its workers.
AGENT_SECONDS = 20.0
#: After how long a process says that it is waiting, and how often it looks meanwhile.
PATIENCE_SECONDS, PAUSE_SECONDS = 10.0, 0.2


def meet(world: World, backend: str, seconds: float) -> None:
    """Join the process group of all processes; a process that is alone hides the variables of others from torch.

    Args:
        world: the processes of this start.
        backend: ``gloo`` or ``nccl``.
        seconds: how long to wait for the others.

    Raises ValueError if they have not come by then.
    """
    if world.size == 1:
        for name in WORLD_VARIABLES:
            os.environ.pop(name, None)
        return
    os.environ.update(world.variables)
    if dist.is_initialized():
        return
    store = _store_of_all(world, seconds)
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=COLLECTIVE_TIMEOUT)


def _store_of_all(world: World, seconds: float) -> dist.Store:
    """Return the store that all processes share, as soon as each of them has written to it.

    torch waits for it outside of Python, where signals are not heeded. Therefore another thread does.
    """
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if is_agents or world.rank > 0:
        _wait_for_host(world, _connect, min(seconds, AGENT_SECONDS) if is_agents else seconds)
    else:
        _wait_for_host(world, _look_up, seconds)
    found: list[dist.Store] = []
    errors: list[Exception] = []

    def join() -> None:
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds)))
            keys = [f"lumbar_vl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{rank}" for rank in range(world.size)]
            store.set(keys[world.rank], "here")
            store.wait(keys, timedelta(seconds=seconds))
            found.append(store)
        except dist.DistError as error:
            errors.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    began, is_said = time.monotonic(), False
    while thread.is_alive():
        thread.join(PAUSE_SECONDS)
        waited = time.monotonic() - began
        if waited > PATIENCE_SECONDS and not is_said:
            is_said = True
            print(f"process {world.rank} of {world.size} waits for the others at {_place()}", flush=True)
        if waited > 2 * seconds + 1:
            break
    if found:
        return found[0]
    in_use = bool(errors) and "EADDRINUSE" in str(errors[0])
    reason = "another program uses that port" if in_use else f"not all of them came within {seconds:g} seconds"
    raise ValueError(_nobody(world, reason))


def _wait_for_host(world: World, reach: Callable[[str, int, float], str], seconds: float) -> None:
    """Call `reach` with the host of the meeting, its port and a timeout until it returns no reason why it failed."""
    until = time.monotonic() + seconds
    host, port = (os.environ[name].strip() for name in MEETING_VARIABLES)
    while reason := reach(host, int(port), max(PAUSE_SECONDS, min(5.0, seconds))):
        if time.monotonic() > until:
            raise ValueError(_nobody(world, f"{reason} within {seconds:g} seconds"))
        time.sleep(PAUSE_SECONDS)


def _connect(host: str, port: int, timeout: float) -> str:
    try:
        socket.create_connection((host, port), timeout).close()
    except (OSError, UnicodeError):  # UnicodeError: what cannot be a host's name
        return "nobody answered"
    return ""


def _look_up(host: str, port: int, timeout: float) -> str:  # noqa: ARG001 - the resolver has its own
    """Look for the host's address. torch would print a trace of its own for each attempt."""
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError):
        return "no address of that host was found"
    return ""


def _place() -> str:
    return ":".join(os.environ[name].strip() for name in MEETING_VARIABLES)


def _nobody(world: World, reason: str) -> str:
    return (
        f"RANK={world.rank} and WORLD_SIZE={world.size}: this process was to meet the others at {_place()}, but "
        f"{reason}; start all of them by one launcher (--join_timeout waits longer), or unset these variables if they "
        "are left over from a job"
    )
