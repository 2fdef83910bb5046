"""Entry points of the installed commands: `lumbar-train` runs ``train_vl.py``, and so on, from any folder.

Each runs its script as `python -m` would, so that a script is written for one way of being started. ``sys.argv[0]``
stays the command's name. Only the standard library is imported here, because a script handles Ctrl-C from its first
statement on.
"""

import sys
from importlib.abc import InspectLoader
from importlib.util import find_spec, module_from_spec


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
    spec = find_spec(script)
    assert spec is not None and isinstance(spec.loader, InspectLoader), f"{script} is not installed"
    code = spec.loader.get_code(script)
    assert code is not None
    main = module_from_spec(spec)
    main.__name__ = "__main__"
    # A process that the script spawns imports the script again, by the name in this module's __spec__.
    sys.modules["__main__"] = main
    exec(code, main.__dict__)
