"""The vision-language model, from towers to queries.

`load_run` opens a finished run for use from Python, `load_folds` the runs of all folds that were joined.
"""

from vl_model.fold_runs import FoldRuns, load_folds
from vl_model.loaded_run import LoadedRun, load_run

__all__ = ["FoldRuns", "LoadedRun", "load_folds", "load_run"]
