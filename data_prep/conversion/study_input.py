"""A study to convert, and what tells whether its input has changed since it was converted."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from data_prep.conversion.work_folder import parts_folder
from data_prep.studies.studies import StudyFolder


@dataclass(frozen=True)
class StudyInput:
    """A study to convert, a digest of its entries in the tables and its files, and the number of its files."""

    folder: StudyFolder
    digest: str
    files: int

    @property
    def name(self) -> str:
        """The study's name in messages."""
        return f"study {self.folder.study_id}"


def read_input(folder: StudyFolder) -> StudyInput:
    """Return a study's present input: its entries in the tables, and the names, sizes and times of its files."""
    digest = hashlib.sha256(repr((folder.study_id, folder.views, folder.marks)).encode())
    digest.update(repr([(site.key, int(grade)) for site, grade in sorted(folder.severities.items())]).encode())
    files = 0
    for series_id, path in sorted(folder.series.items()):
        chosen = {file.name for file in folder.files.get(series_id, ())}
        try:
            with os.scandir(path) as entries:
                found = sorted(_stamp(entry) for entry in entries if not chosen or entry.name in chosen)
        except OSError as error:
            found = [(str(error), 0, 0, False)]
        digest.update(repr((series_id, found)).encode())
        files += len(found)
    return StudyInput(folder, digest.hexdigest(), files)


def _stamp(entry: "os.DirEntry[str]") -> tuple[str, int, int, bool]:
    """Return a file's name, size, time of change, and whether it is readable; a broken link's own if it is one."""
    try:
        status = entry.stat()
    except OSError:
        status = entry.stat(follow_symlinks=False)
    return entry.name, status.st_size, status.st_mtime_ns, os.access(entry.path, os.R_OK)


def check_folders(study_input: StudyInput, processed: Path) -> None:
    """Raise FileNotFoundError if the images or the folder of parts do not exist for this process."""
    for path in (study_input.folder.root, parts_folder(processed)):
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path}: this folder does not exist for the process that converts {study_input.name}"
            )
