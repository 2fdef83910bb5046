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
