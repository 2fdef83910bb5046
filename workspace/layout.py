"""The data root, the folder that holds everything, and the paths in it.

Folders that other software calls ``patient_id/study_id`` are ``study_id/series_id`` in the competition's tables: the
upper level is an examination, the lower one a series.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workspace.setting_error import SettingError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

DEFAULT_ROOT = "data/lumbarspine"
#: What names of kept sets would be mistaken for: a query's ``--split``.
NOT_KEPT = (*SPLITS, "both")
#: In bytes. A folder's name may have 255, and the names of temporary folders are longer than their run's.
LONGEST_RUN_NAME = 200


@dataclass(frozen=True)
class DataRoot:
    """The paths under one data root."""

    path: Path

    @property
    def dataset(self) -> Path:
        """The folder of the user's input, which is never written to."""
        return self.path / "dataset"

    def images(self, split: Split) -> Path:
        """Return the folder of a split's DICOM files: ``<study_id>/<series_id>/<instance_number>.dcm``."""
        return self.dataset / f"{split}_images"

    def table(self, name: str) -> Path:
        """Return the path of one of the competition's tables, for example ``train.csv``."""
        return self.dataset / name

    def processed(self, split: Split) -> Path:
        """Return the folder that prepare_data.py writes for a split."""
        return self._written_to(self.path / split / "processed_data")

    def run(self, run: str, setting: str = "run") -> Path:
        """Return the folder of a run's adapters, heads, calibrators and checkpoints.

        Raises SettingError if `run`, the value of `setting`, cannot be the name of a run.
        """
        return self._written_to(self.path / "train" / "checkpoints" / run_name(run, setting))

    def kept(self, run: str, name: str, setting: str = "keep") -> Path:
        """Return the folder of new studies that were graded by a run and kept under a name.

        Raises SettingError if `name`, the value of `setting`, cannot be the name of a kept set: it becomes the name of
        a folder, as a run's does, and stands beside the names of the splits.
        """
        folder_name(name, setting, "a kept set's name")
        if name in NOT_KEPT:
            raise SettingError(setting, f"{name!r}: stands for a split; give the new studies another name")
        return self._written_to(self.run(run) / "kept" / name)

    def logs(self, run: str) -> Path:
        """Return the folder of a run's TensorBoard events, metrics.csv and report."""
        return self._written_to(self.path / "train" / "logs" / run_name(run))

    def refuse_links(self, folders: Iterable[Path]) -> None:
        """Raise ValueError if a symbolic link leads one of `folders`, which are written to, into the user's input."""
        inputs = [os.path.realpath(path) for path in (self.dataset, self.images("train"), self.images("test"))]
        for folder in folders:
            target = os.path.realpath(folder)
            if any(Path(target).is_relative_to(path) for path in inputs):
                raise ValueError(
                    f"{folder}: leads into the input, to {target}, which is never written to; remove that link"
                )

    def _written_to(self, folder: Path) -> Path:
        self.refuse_links([folder])
        return folder


def run_name(name: str, setting: str = "run") -> str:
    """Return the name of a run, which becomes the name of a folder. Raises SettingError as `folder_name` does."""
    return folder_name(name, setting, "a run's name")


def folder_name(name: str, setting: str, what: str) -> str:
    """Return a name that becomes the name of a folder.

    Raises SettingError, which names `setting` and says `what` the name is, if it is too long or has other characters
    than a run's name may have.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        raise SettingError(
            setting,
            f"{name!r}: {what} may contain only letters, digits, '-', '_' and '.', and must not begin with '.'",
        )
    if len(os.fsencode(name)) > LONGEST_RUN_NAME:
        raise SettingError(setting, f"{name[:30]!r}...: {what} has at most {LONGEST_RUN_NAME} characters")
    return name


def home_expanded(name: str, setting: str) -> Path:
    """Return the path that a person wrote, with ``~`` and ``~user`` replaced by the home folder.

    Raises SettingError if there is no such user, or ValueError if `setting` is an environment variable (``$NAME``).
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        problem = f"{name!r}: there is no such home folder"
        raise (ValueError(f"{setting} {problem}") if setting[0] == "$" else SettingError(setting, problem)) from None


def data_root(root: str | None, setting: str = "root") -> DataRoot:
    """Return the data root: `root`, else $LUMBAR_ROOT, else ``data/lumbarspine``.

    Raises SettingError, which names `setting`, if `root` is not a folder, and ValueError if the others are not.
    """
    if root == "":
        raise SettingError(setting, "'': is empty; give it a value, or leave it out")
    named = root or os.environ.get("LUMBAR_ROOT") or DEFAULT_ROOT
    problem = f"{named!r}: no such folder; it should be the folder that holds dataset/"
    try:
        path = Path(named).expanduser().resolve()
        is_folder = path.is_dir()
    except (RuntimeError, ValueError):  # an unknown user's home, or a name that no folder can have
        is_folder = False
    if not is_folder:
        if root:
            raise SettingError(setting, problem)
        raise ValueError(f"{'$LUMBAR_ROOT' if os.environ.get('LUMBAR_ROOT') else 'the default root'} {problem}")
    return DataRoot(path)
