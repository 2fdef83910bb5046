"""The launch of this process: the numbers of processes configured and started, the device, and the number of threads.

`accelerate launch` with ``distributed_type: MULTI_CPU`` silently starts one process if there is no mpirun, and two
independent runs if the process group was not set up. A script therefore reads the launcher's configuration and refuses
to train with fewer processes. Nothing here imports torch, so that a wrong launch is refused before that import, which
takes seconds.
"""

import argparse
import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import yaml

from workspace.cli import usable_cores
from workspace.layout import home_expanded
from workspace.setting_error import SettingError

_WORLD_VARIABLES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
#: accelerate sets this variable in the processes that it starts if their weights are to be sharded.
SHARDING_VARIABLE = "ACCELERATE_USE_FSDP"
_UNSUPPORTED_VARIABLES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
_HOW_TO_SHARD = "weights can only be sharded with FSDP2, see accelerate_configs/fsdp2.yaml"
#: How long the other processes wait for the first one to print an error that all have.
FOLLOWERS_WAIT_SECONDS = 5
TRACKERS = ("tensorboard", "wandb")
_DEFAULT_CONFIGS = ("default_config.yaml", "default_config.json")


@dataclass(frozen=True)
class Launch:
    """What `accelerate launch` was configured to start.

    Args:
        processes: the number of processes; None: unknown.
        use_cpu: whether to train on the CPU even if there is a GPU.
        shards: whether to shard the weights over the processes.
    """

    processes: int | None = None
    use_cpu: bool = False
    shards: bool = False


def check_launch() -> Launch:
    """Return what the launcher of this process was configured to start.

    Raises ValueError if fewer processes were started, or if the weights are to be sharded with anything but FSDP2.
    """
    if unsupported := [name for name in _UNSUPPORTED_VARIABLES if _is_set(name)]:
        raise ValueError(f"{unsupported[0]} is set: {_HOW_TO_SHARD}")
    shards = _is_set(SHARDING_VARIABLE)
    if shards and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ValueError(f"fsdp_version is {version}: {_HOW_TO_SHARD}")
    arguments = _launcher_arguments()
    launch = replace(Launch() if arguments is None else read_launch(arguments), shards=shards)
    started = started_processes()
    if launch.processes is not None and started < launch.processes:
        raise ValueError(
            f"accelerate was configured for {launch.processes} processes but started {started}: "
            "distributed_type MULTI_CPU starts one if mpirun is not installed; "
            "accelerate launch --config_file accelerate_configs/cpu_2.yaml starts two"
        )
    return launch


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


def started_processes() -> int:
    """Return the number of processes that the launcher started, on all machines."""
    sizes = [int(os.environ[name]) for name in _WORLD_VARIABLES if os.environ.get(name, "").isdigit()]
    return max(sizes, default=1)


def own_rank() -> int:
    """Return the number of this process, from 0, as the launcher set it. This does not need torch's process group."""
    return int(os.environ.get("RANK") or 0)


def threads_per_process() -> int:
    """Return OMP_NUM_THREADS if it is set, else this machine's cores divided by its processes."""
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(threads) > 0:
        return int(threads)
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def set_environment_of_torch() -> None:
    """Set the environment variables that torch reads at its import, unless the user has set them.

    Large tensors are put on huge pages (Linux). Without them, the kernel's allocation takes a sixth of a small model's
    step, and gaps between tensors take a tenth of the memory when adapters are trained.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process()))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


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

    Settings that the arguments do not contain are read from the file that `accelerate config` wrote, if there is one.

    arguments: those of the launcher, without the script and the script's own.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config_file", "--config-file", type=Path, default=_default_config())
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--cpu", "--use_cpu", "--use-cpu", action="store_true")
    known, _ = parser.parse_known_args(arguments)
    config = _read_config(known.config_file) if known.config_file and not known.cpu else {}
    processes = known.num_processes or config.get("num_processes")
    return Launch(
        processes=processes if isinstance(processes, int) and processes > 0 else None,
        use_cpu=known.cpu or bool(config.get("use_cpu")),
    )


def _launcher_arguments() -> list[str] | None:
    """Return the arguments of `accelerate launch`, from the command line of the parent process.

    Returns None if the parent process is not accelerate.
    """
    try:
        command = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    script = Path(sys.argv[0]).name
    ends = [index for index, word in enumerate(command) if script in (Path(word).name, f"{word}.py")]  # or -m MODULE
    starts = [index for index, word in enumerate(command) if word == "launch" or word.endswith("accelerate-launch")]
    is_accelerate = any("accelerate" in word for word in command[: starts[0] + 1]) if starts else False
    return command[starts[0] + 1 : ends[0]] if is_accelerate and ends else None


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
