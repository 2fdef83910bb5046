"""What flows between the rooms of data preparation: studies, series, slices, marks, and faults."""

from dataclasses import dataclass, field
from pathlib import Path

from data_prep.geometry import Frame
from data_prep.sites import Severity, Site, View


@dataclass(frozen=True)
class Fault:
    """Something that was skipped, repaired or guessed: a row of ``faults.csv``."""

    study_id: int | None
    series_id: int | None
    path: str
    kind: str
    action: str
    message: str


@dataclass(frozen=True)
class Slice:
    """One image. `frame` is None where its header has no usable geometry: then it carries no region."""

    path: Path
    instance_number: int
    frame: Frame | None


@dataclass(frozen=True)
class Series:
    """Images of one series, sorted along their normal, stack after stack (`stacks` holds indices into `slices`)."""

    series_id: int
    view: View
    slices: tuple[Slice, ...]
    stacks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Mark:
    """A reader's point: (x, y) is (column, row) in the pixels of that instance."""

    site: Site
    series_id: int
    instance_number: int
    x: float
    y: float


@dataclass(frozen=True)
class Study:
    """One examination: its series, what was graded, and where it was marked."""

    study_id: int
    series: tuple[Series, ...]
    severities: dict[Site, Severity] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
