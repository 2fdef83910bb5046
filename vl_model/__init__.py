"""The vision-language model, from towers to queries.

`load_run` opens a finished run for use from Python, `load_folds` the runs of all folds that were joined.
"""

from typing import TYPE_CHECKING, Any

from vl_model.loaded_run import LoadedRun, load_run

if TYPE_CHECKING:
    from vl_model.fold_runs import FoldRuns, load_folds

__all__ = ["FoldRuns", "LoadedRun", "load_folds", "load_run"]


def __getattr__(name: str) -> Any:
    """Import what belongs to joined runs when it is used: a question to one run does not wait for it."""
    if name in ("FoldRuns", "load_folds"):
        from vl_model import fold_runs

        return getattr(fold_runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
