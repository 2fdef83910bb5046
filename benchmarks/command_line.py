"""This project's own commands, as steps of a benchmark; nothing heavy is imported for them."""

import os
import subprocess
import sys

TWO_PROCESSES = ("--config_file", "accelerate_configs/cpu_2.yaml")


def run_command_line(*arguments: str) -> None:
    """Run one of this project's commands.

    Raises:
        ValueError: It failed; the command itself has printed why.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if subprocess.run([sys.executable, *arguments], env=environment, stdout=sys.stderr).returncode:
        raise ValueError(f"python {' '.join(arguments)}: failed; repeat the benchmark's command to continue")
