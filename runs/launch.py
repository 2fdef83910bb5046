"""How this process was started: how many processes there should be and are, on what, with how many threads.

`accelerate launch` with ``distributed_type: MULTI_CPU`` silently starts one process where there is no mpirun, and two
independent runs where the world was not set up. So a script asks what its launcher was told to start, and refuses a
smaller world. Nothing here imports torch: a wrong launch is refused before that takes its seconds.
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
#: What accelerate tells the processes that it starts, where weights are to be spread over them.
SHARDS = "ACCELERATE_USE_FSDP"
_OTHERS_THAT_SHARD = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")
_TO_SHARD = "weights are spread over processes by FSDP2 alone, see accelerate_configs/fsdp2.yaml"
FOLLOWERS_WAIT_SECONDS = 5
TRACKERS = ("tensorboard", "wandb")
_DEFAULT_CONFIGS = ("default_config.yaml", "default_config.json")


@dataclass(frozen=True)
class Launch:
    """What `accelerate launch` was told.

    processes: how many; None: unknown. use_cpu: leave the GPU alone. shards: spread the weights over the processes.
    """

    processes: int | None = None
    use_cpu: bool = False
    shards: bool = False


def check_launch() -> Launch:
    """What our launcher was told.

    Raises ValueError where fewer processes were started than it was told to start, or are to share the weights out in
    another way than FSDP2's.
    """
    if others := [name for name in _OTHERS_THAT_SHARD if _is_set(name)]:
        raise ValueError(f"{others[0]} is set: {_TO_SHARD}")
    shards = _is_set(SHARDS)
    if shards and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ValueError(f"fsdp_version is {version}: {_TO_SHARD}")
    arguments = _launcher_arguments()
    launch = replace(Launch() if arguments is None else read_launch(arguments), shards=shards)
    found = started_processes()
    if launch.processes is not None and found < launch.processes:
        raise ValueError(
            f"accelerate was configured for {launch.processes} processes but started {found}: "
            "distributed_type MULTI_CPU starts one where there is no mpirun; "
            "accelerate launch --config_file accelerate_configs/cpu_2.yaml starts two"
        )
    return launch


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


def started_processes() -> int:
    """The size of the world that the launcher set up."""
    sizes = [int(os.environ[name]) for name in _WORLD_VARIABLES if os.environ.get(name, "").isdigit()]
    return max(sizes, default=1)


def own_rank() -> int:
    """Of this process in the world, before torch knows it."""
    return int(os.environ.get("RANK") or 0)


def threads_per_process() -> int:
    """OMP_NUM_THREADS where it is set, else this machine's cores shared among its processes."""
    if (wanted := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(wanted) > 0:
        return int(wanted)
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def set_environment_of_torch() -> None:
    """What torch reads when it is imported: before that, and unless the user has set it otherwise.

    Large tensors lie on huge pages (Linux): the kernel's work of handing memory out is a sixth of a small model's step,
    and tensors that lie so leave fewer gaps, which are a tenth of adapters' memory.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process()))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def trackers_of(report_to: str) -> tuple[str, ...]:
    """The trackers that ``--report_to`` names; ``all`` are those that are installed.

    Raises ValueError where one is not: accelerate would go on without it, and say nothing.
    """
    if report_to == "all":
        return tuple(name for name in TRACKERS if find_spec(name))
    if report_to == "wandb" and find_spec("wandb") is None:
        raise SettingError("report_to", "wandb: the package wandb is not installed; install it, or use tensorboard")
    return () if report_to == "none" else (report_to,)


def follow(main: Callable[[], int | None]) -> int | None:
    """`main` in a process other than the first: what is wrong for all is said once, by the first.

    It leaves at once, and the launcher then ends this one while it waits; what is wrong here alone is still said. To
    torch it is a RuntimeError that the first one is gone.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return main()
    except (ValueError, OSError, RuntimeError, SystemExit) as error:
        time.sleep(FOLLOWERS_WAIT_SECONDS)
        print(said.getvalue(), end="", file=sys.stderr)
        raise error from None


def read_launch(arguments: Sequence[str]) -> Launch:
    """The arguments of `accelerate launch`, without the script and what follows, -> Launch.

    What they leave open is in the file that `accelerate config` left, where there is one.
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
    """What stands between `launch` and our script on the command line of the process that started us; None where that
    is not accelerate's."""
    try:
        command = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    script = Path(sys.argv[0]).name
    ends = [place for place, word in enumerate(command) if script in (Path(word).name, f"{word}.py")]  # or -m MODULE
    starts = [place for place, word in enumerate(command) if word == "launch" or word.endswith("accelerate-launch")]
    is_accelerate = any("accelerate" in word for word in command[: starts[0] + 1]) if starts else False
    return command[starts[0] + 1 : ends[0]] if is_accelerate and ends else None


def _default_config() -> Path | None:
    """Where `accelerate config` leaves its answers, which hold where no file is named."""
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
