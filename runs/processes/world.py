"""The processes of this start: how many there are, and the number of this one, from the launcher's variables.

torchrun and `accelerate launch` set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; mpirun
sets variables of its own; a script that calls srun may set them from Slurm's. A shell may also have inherited some of
them from a job that is over. The rule: several processes need a complete set, and an incomplete one is refused. A start
without a WORLD_SIZE above 1 is alone: it is the first process, and what other variables say of it is ignored.

The processes then meet (`runs.processes.meeting`), so that a complete set that is left over is found out as well.
Nothing here imports torch.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

_TORCH_RANK, _TORCH_SIZE = "RANK", "WORLD_SIZE"
#: For each launcher its variables of the number of processes, of this one's number, and of both on this machine.
_LAUNCHERS = {
    "torch": (_TORCH_SIZE, _TORCH_RANK, "LOCAL_WORLD_SIZE", "LOCAL_RANK"),
    "Open MPI": (
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    "PMI": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    "MVAPICH2": (
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
    ),
}
MEETING_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
#: Every variable by which torch or accelerate would find other processes.
WORLD_VARIABLES = (
    *(name for names in _LAUNCHERS.values() for name in names),
    *MEETING_VARIABLES,
    *("GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"),
)
#: The variables that speak of other processes. accelerate sets MASTER_ADDR and MASTER_PORT for one process, too.
_TELLING = (*(name for names in _LAUNCHERS.values() for name in names), *MEETING_VARIABLES)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_REMEDY = "if they are left over from a job, unset them"


@dataclass(frozen=True)
class World:
    """The processes of this start.

    Args:
        size: the number of processes on all machines.
        rank: the number of this one, from 0.
        local_size, local_rank: the same on this machine.
        by: the launcher whose variables say so: ``torch``, ``Open MPI``, ``PMI``, ``MVAPICH2``; None if none says so.
        ignored: the variables of other processes, with their values, that do not hold because this process is alone.
    """

    size: int = 1
    rank: int = 0
    local_size: int = 1
    local_rank: int = 0
    by: str | None = None
    ignored: tuple[tuple[str, str], ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        """torch's variables of a world of several processes, besides those of the meeting."""
        values = (self.size, self.rank, self.local_size, self.local_rank)
        return dict(zip(_LAUNCHERS["torch"], map(str, values), strict=True))


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """Return the processes of this start.

    Raises ValueError if the variables claim several processes and do not say how these meet, or contradict each other.
    """
    for launcher, names in _LAUNCHERS.items():
        size = _number(environment, names[0])
        if size is not None:  # torch's variables come first: mpirun and srun may have started one torchrun per machine
            if size > 1:
                return _several(environment, launcher, size)
            return replace(_alone(environment), by="torch" if size == 1 and launcher == "torch" else None)
    return _alone(environment)


def _alone(environment: Mapping[str, str]) -> World:
    return World(ignored=tuple((name, environment[name]) for name in _TELLING if _speaks_of_others(environment, name)))


def _speaks_of_others(environment: Mapping[str, str], name: str) -> bool:
    """Return whether the variable says something else than that there is one process, number 0."""
    value = environment.get(name, "").strip()
    is_of_one = value in ("", "-1", "1" if "SIZE" in name or name == "MPI_LOCALNRANKS" else "0")
    if is_of_one or name not in MEETING_VARIABLES:
        return not is_of_one
    # A launcher of one process says where that process meets itself, some with its WORLD_SIZE, some on this machine.
    is_here = environment.get(MEETING_VARIABLES[0], "").strip() in _LOOPBACK
    return not is_here and _number(environment, _TORCH_SIZE) != 1


def _several(environment: Mapping[str, str], launcher: str, size: int) -> World:
    size_name, rank_name, local_size_name, local_rank_name = _LAUNCHERS[launcher]
    rank = _number(environment, rank_name)
    missing = [rank_name] if rank is None else []
    missing += [name for name in MEETING_VARIABLES if not environment.get(name, "").strip()]
    if missing or rank is None:
        raise ValueError(
            f"{size_name}={size}, but {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not set: the "
            f"processes cannot find each other; start them by accelerate launch or torchrun, or {_REMEDY}"
        )
    if rank >= size:
        raise ValueError(f"{rank_name}={rank} and {size_name}={size}: there is no such process; {_REMEDY}")
    if not 0 < (_number(environment, "MASTER_PORT") or 0) < 2**16:
        raise ValueError(f"MASTER_PORT={environment['MASTER_PORT']!r}: should be a port, 1 to 65535; {_REMEDY}")
    is_one_machine = environment["MASTER_ADDR"].strip() in _LOOPBACK
    local_rank = _number(environment, local_rank_name)
    if local_rank is None and environment.get("SLURM_PROCID") == str(rank):
        local_rank = _number(environment, "SLURM_LOCALID")
    if local_rank is None and is_one_machine:
        local_rank = rank
    if local_rank is None:
        raise ValueError(
            f"{size_name}={size}, but {local_rank_name} is not set: it is the number of this process on its machine, "
            f"which chooses the GPU; {_REMEDY}"
        )
    local_size = _number(environment, local_size_name) or (size if is_one_machine else 1)
    if local_rank >= size or local_size > size:
        raise ValueError(
            f"{local_rank_name}={local_rank}, {local_size_name}={local_size} and {size_name}={size} contradict each "
            f"other; {_REMEDY}"
        )
    return World(size, rank, local_size, local_rank, launcher)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """Return the value of a variable; None if it is not set, or is -1, which some launchers write for "none"."""
    value = environment.get(name, "").strip()
    if value in ("", "-1"):
        return None
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError(f"{name}={value[:50]!r}: should be a whole number; {_REMEDY}")
    return int(value)
