"""Description of the machine and the packages that a benchmark ran on, printed as its first lines."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path


def describe_machine(*packages: str) -> None:
    """Print `machine_lines`."""
    print("\n".join(machine_lines(*packages)))


def machine_lines(*packages: str) -> list[str]:
    """Return two lines: the date, the processor and the load, and the versions of Python and of `packages`."""
    models = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    model = models[0].split(":")[1].strip() if models else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return [
        f"{date.today()}, {model}, {cores} cores, load {os.getloadavg()[0]:.1f} at the start",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages),
    ]
