"""Description of the machine and the packages that a benchmark ran on, printed as its first lines."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path


def describe_machine(*packages: str) -> None:
    """Print the date, the processor, the load, and the versions of Python and of `packages`."""
    models = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    model = models[0].split(":")[1].strip() if models else platform.machine()
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {model}, {cores} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages))
