"""Entry points of the installed commands: `lumbar-train` runs ``train_vl.py``, and so on, from any folder.

Each runs its script as `python -m` would, so that a script is written for one way of being started. Nothing but the
standard library is imported here, because a script handles Ctrl-C from its first statement on.
"""

import runpy


def prepare() -> None:
    """Run ``prepare_data.py``."""
    _run("prepare_data")


def train_locator() -> None:
    """Run ``train_locator.py``."""
    _run("train_locator")


def train() -> None:
    """Run ``train_vl.py``."""
    _run("train_vl")


def evaluate() -> None:
    """Run ``eval_vl.py``."""
    _run("eval_vl")


def predict() -> None:
    """Run ``predict_vl.py``."""
    _run("predict_vl")


def query() -> None:
    """Run ``query_vl.py``."""
    _run("query_vl")


def _run(script: str) -> None:
    # alter_sys: a process that the script spawns imports the script again by the name of its main module.
    runpy.run_module(script, run_name="__main__", alter_sys=True)
