"""The settings that name the data root and a run: every command that has them extends these."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RootSettings:
    """Data root."""

    root: str | None = None
    """The data root. By default $LUMBAR_ROOT, or data/lumbarspine if that is not set."""


@dataclass(frozen=True)
class RunNameSettings(RootSettings):
    """Data root and run."""

    run: str = "default"
    """The run's name."""


@dataclass(frozen=True)
class FinishedRunSettings(RunNameSettings):
    """Data root and finished run."""

    base: str | None = None
    """The folder of the model that the run was trained on, if it is found neither where it was then nor beside the
    run."""
