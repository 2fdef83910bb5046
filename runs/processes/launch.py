"""The launch of this process: its launcher, the numbers of processes configured and started, and the device.

`accelerate launch` with ``distributed_type: MULTI_CPU`` silently starts one process if there is no mpirun, and two
independent runs if the process group was not set up. A script therefore reads the launcher's configuration and refuses
to train with fewer processes. How many were started is read from the environment (`runs.processes.world`), and found
out when they meet (`runs.processes.meeting`). Nothing here imports torch, so that a wrong launch is refused before that
import, which takes seconds.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import yaml

from runs.processes.launch_environment import CPU_VARIABLE, SHARDING_VARIABLE, check_environment, is_set
from runs.processes.world import World, read_world
from workspace.cli import usable_cores
from workspace.layout import home_expanded
from workspace.setting_error import SettingError

#: accelerate's launcher in a command line: its program, its module, or code that imports it.
_ACCELERATE = re.compile(
    r"(.*/)?accelerate(-launch)?(\.exe)?|(.*\W)?accelerate[./]commands[./](launch|accelerate_cli)\b.*"
)
#: How long the other processes wait for the first one to print an error that all have.
FOLLOWERS_WAIT_SECONDS = 5
TRACKERS = ("tensorboard", "wandb")
_DEFAULT_CONFIGS = ("default_config.yaml", "default_config.json")


@dataclass(frozen=True)
class Launch:
    """How this process was launched.

    Args:
        processes: the number of processes that the launcher was configured to start; None: unknown.
        use_cpu: whether to train on the CPU even if there is a GPU.
        shards: whether to shard the weights over the processes.
        launcher: the launcher, for the record of the run.
        world: the processes that were started.
    """

    processes: int | None = None
    use_cpu: bool = False
    shards: bool = False
    launcher: str = "python"
    world: World = field(default_factory=read_world)

    @property
    def notes(self) -> list[str]:
        """What the environment says and is not heeded, or is unexpected: one line each."""
        names = " ".join(f"{name}={value[:50]}" for name, value in self.world.ignored)
        notes = [f"{names}: ignored, because this process was started alone"] if names else []
        tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
        if self.world.size == 1 and self.launcher == "python" and re.fullmatch(r"[0-9]+", tasks) and int(tasks) > 1:
            notes.append(
                f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS), but WORLD_SIZE is not set: each trains alone"
            )
        if self.launcher == "python" and is_set(CPU_VARIABLE):
            notes.append(f"{CPU_VARIABLE}={os.environ[CPU_VARIABLE]}: the run trains on the CPU")
        return notes


def check_launch() -> Launch:
    """Return how this process was launched.

    Raises ValueError if fewer processes were started than configured, if the weights are to be sharded with anything
    but FSDP2, and if the environment's variables contradict each other.
    """
    check_environment()
    world = read_world()
    arguments = _launcher_arguments()
    launch = Launch() if arguments is None else read_launch(arguments)
    if launch.processes is not None and world.size < launch.processes:
        raise ValueError(
            f"accelerate was configured for {launch.processes} processes but started {world.size}: "
            "distributed_type MULTI_CPU starts one if mpirun is not installed; "
            "accelerate launch --config_file accelerate_configs/cpu_2.yaml starts two"
        )
    use_cpu = launch.use_cpu or is_set(CPU_VARIABLE)
    launcher = _launcher(world, is_accelerate=arguments is not None)
    return replace(launch, use_cpu=use_cpu, shards=is_set(SHARDING_VARIABLE), launcher=launcher, world=world)


def _launcher(world: World, is_accelerate: bool) -> str:
    """Return the launcher's name, by what it did."""
    if is_accelerate:
        return "accelerate launch"
    if world.by is None:
        return "python"
    if world.by != "torch":
        return f"mpirun ({world.by})"
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        return "torchrun"
    if world.size == 1:
        return "python"
    return "srun" if os.environ.get("SLURM_PROCID") == str(world.rank) else "environment variables"


def started_processes() -> int:
    """Return the number of processes that the launcher started, on all machines.

    Raises ValueError if the environment's variables contradict each other.
    """
    return read_world().size


def own_rank() -> int:
    """Return the number of this process, from 0. This does not need torch's process group.

    Variables that contradict each other are refused by `check_launch`; until then this process counts as the first.
    """
    try:
        return read_world().rank
    except ValueError:
        return 0


def threads_per_process() -> int:
    """Return OMP_NUM_THREADS if it is set, else this machine's cores divided by its processes."""
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(threads) > 0:
        return int(threads)
    return max(1, usable_cores() // read_world().local_size)


def set_environment_of_torch() -> None:
    """Set the environment variables that torch reads at its import, unless the user has set them.

    Large tensors are put on huge pages (Linux). Without them, the kernel's allocation takes a sixth of a small model's
    step, and gaps between tensors take a tenth of the memory when adapters are trained.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process()))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ["USE_TORCH_XLA"] = "0"  # accelerate reads it: where torch_xla is installed, it would train on a TPU


def trackers_of(report_to: str) -> tuple[str, ...]:
    """Return the trackers that the setting report_to names; ``all`` are those that are installed.

    Raises SettingError if wandb is requested and not installed: accelerate would silently train without it.
    """
    if report_to == "all":
        return tuple(name for name in TRACKERS if find_spec(name))
    if report_to == "wandb" and find_spec("wandb") is None:
        raise SettingError("report_to", "wandb: the package wandb is not installed; install it, or use tensorboard")
    return () if report_to == "none" else (report_to,)


def follow(main: Callable[[], int | None]) -> int | None:
    """Call `main` in a process other than the first, and print its error only if the first process has none.

    If all processes have the same error, the first one prints it and exits at once, and the launcher then ends this
    process while it waits. An error of this process alone is printed after the wait. RuntimeError is what torch raises
    if the first process has exited.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return main()
    except (ValueError, OSError, RuntimeError, SystemExit) as error:
        time.sleep(FOLLOWERS_WAIT_SECONDS)
        print(messages.getvalue(), end="", file=sys.stderr)
        raise error from None


def read_launch(arguments: Sequence[str]) -> Launch:
    """Return what `accelerate launch` starts if it is given these arguments.

    Settings that the arguments do not contain are read from the file that they name. If they name none, the one that
    `accelerate config` wrote is read, if there is one, unless the arguments contain ``--cpu``.

    arguments: those of the launcher, without the script and the script's own.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config_file", "--config-file", type=Path)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--cpu", "--use_cpu", "--use-cpu", action="store_true")
    known, _ = parser.parse_known_args(arguments)
    path = known.config_file or (None if known.cpu else _default_config())
    config = _read_config(path) if path else {}
    processes = known.num_processes or config.get("num_processes")
    return Launch(
        processes=processes if isinstance(processes, int) and processes > 0 else None,
        use_cpu=known.cpu or bool(config.get("use_cpu")),
    )


def _launcher_arguments() -> list[str] | None:
    """Return the arguments of `accelerate launch`, from the command line of the nearest process that is it.

    Other programs may lie between it and this process, such as numactl or a shell. Returns None if there is none.
    """
    script = Path(sys.argv[0]).name
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(os.getppid())
        while process is not None:
            command = process.cmdline()
            ends = [i for i, word in enumerate(command) if script in (Path(word).name, f"{word}.py")]  # or -m MODULE
            before = command[: ends[0]] if ends else []
            starts = [i for i, word in enumerate(before) if _ACCELERATE.fullmatch(word)]
            if starts:
                return before[starts[0] + 1 :]
            process = process.parent()
    return None


def _default_config() -> Path | None:
    """Return the file that `accelerate config` wrote, which is read if no other file is named; None without one."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    for name in _DEFAULT_CONFIGS:
        if (path := home_expanded(str(home), "$HF_HOME") / "accelerate" / name).is_file():
            return path
    return None


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: accelerate's configuration cannot be read ({error})") from None
    return config if isinstance(config, dict) else {}
