"""The vision-language model, from towers to queries. `load_run` opens a finished run for use from Python."""

from vl_model.loaded_run import LoadedRun, load_run

__all__ = ["LoadedRun", "load_run"]
