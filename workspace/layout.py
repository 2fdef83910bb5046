"""The data root: one folder that holds everything, and where each thing lies in it.

What the folders call ``patient_id/study_id`` is what the competition's tables call
``study_id/series_id``: one level is an examination, the next one series.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]

DEFAULT_ROOT = "data/lumbarspine"
#: In bytes: a folder's name has 255, and passing folders' names are longer than their run's.
LONGEST_RUN_NAME = 200


@dataclass(frozen=True)
class DataRoot:
    """Paths under one data root."""

    path: Path

    @property
    def dataset(self) -> Path:
        """What the user brings; never written to."""
        return self.path / "dataset"

    def images(self, split: Split) -> Path:
        """DICOM files: ``<study_id>/<series_id>/<instance_number>.dcm``."""
        return self.dataset / f"{split}_images"

    def table(self, name: str) -> Path:
        """One of the competition's tables, for example ``train.csv``."""
        return self.dataset / name

    def processed(self, split: Split) -> Path:
        return self._written_to(self.path / split / "processed_data")

    def run(self, run: str, flag: str = "--run") -> Path:
        """A run's adapters, heads, calibrators and resumable states; `flag` is the one that names it."""
        return self._written_to(self.path / "train" / "checkpoints" / run_name(run, flag))

    def logs(self, run: str) -> Path:
        """A run's TensorBoard events, metrics.csv and report."""
        return self._written_to(self.path / "train" / "logs" / run_name(run))

    def refuse_links(self, folders: Iterable[Path]) -> None:
        """Raises ValueError where a link leads one of `folders`, which are written to, into what the user brought."""
        brought = [os.path.realpath(path) for path in (self.dataset, self.images("train"), self.images("test"))]
        for folder in folders:
            target = os.path.realpath(folder)
            if any(Path(target).is_relative_to(place) for place in brought):
                raise ValueError(f"{folder}: leads to {target}, among what is never written to; remove that link")

    def _written_to(self, folder: Path) -> Path:
        self.refuse_links([folder])
        return folder


def run_name(name: str, flag: str = "--run") -> str:
    """A run's name, which becomes a folder's. Raises ValueError for what is more than a name."""
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise ValueError(f"{flag} {name!r}: a run's name has letters, digits, '-', '_' and '.' only")
    if len(os.fsencode(name)) > LONGEST_RUN_NAME:
        raise ValueError(f"{flag} {name[:30]!r}...: a run's name has at most {LONGEST_RUN_NAME} characters")
    return name


def home_expanded(name: str, flag: str) -> Path:
    """A path as a person writes it, ``~`` and all. Raises ValueError where ``~`` is the home of nobody."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise ValueError(f"{flag} {name!r}: nobody here has such a home folder") from None


def data_root(root: str | None) -> DataRoot:
    """`root`, else $LUMBAR_ROOT, else ``data/lumbarspine``. Raises ValueError where there is no such folder."""
    if root == "":
        raise ValueError("--root '': names no folder; an unset variable?")
    named = root or os.environ.get("LUMBAR_ROOT") or DEFAULT_ROOT
    origin = "--root" if root else "$LUMBAR_ROOT" if os.environ.get("LUMBAR_ROOT") else "the default root"
    missing = f"{origin} {named!r}: no such folder; it should be the folder that holds dataset/"
    try:
        path = Path(named).expanduser().resolve()
    except (RuntimeError, ValueError):  # a home that nobody has, a name that no folder can have
        raise ValueError(missing) from None
    if not path.is_dir():
        raise ValueError(missing)
    return DataRoot(path)
