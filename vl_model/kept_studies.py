"""New studies that are kept under a name, so that queries search them: images, embeddings and a segment of the index.

They lie in ``train/checkpoints/<run>/kept/<name>/``: ``processed_data/``, ``embeddings/`` and ``index/``. The folder is
written completely or not at all, and no other segment of the index depends on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vl_model.evaluation.embeddings import Embeddings, write_embeddings
from vl_model.queries.run_index import kept_files, make_segment
from workspace.file_modes import check_may_write
from workspace.layout import DataRoot
from workspace.locks import locked
from workspace.setting_error import SettingError
from workspace.whole_folders import whole_folder


@dataclass(frozen=True)
class KeptStudies:
    """The place of a kept set. run: the folder of the run. folder: of the set."""

    run: Path
    name: str
    folder: Path

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yield a temporary folder to fill, which takes the place of the set when the block has succeeded.

        Raises BlockingIOError if another process keeps studies under this name.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = self.folder.with_name(f".{self.name}.lock")
            with locked(lock, "keeping studies under this name"), whole_folder(self.folder) as partial:
                yield partial
        finally:
            with suppress(OSError):
                self.folder.parent.rmdir()  # fails unless it is empty

    def complete(self, partial: Path, embeddings: Embeddings) -> None:
        """Write the embeddings and the segment of the studies in ``partial/processed_data``."""
        write_embeddings(partial / "embeddings", embeddings)
        make_segment(kept_files(self.run, self.name, partial))


def checked_kept_studies(
    root: DataRoot, run: str, keep: str | None, overwrite: bool, images: Path
) -> KeptStudies | None:
    """Return where new studies are kept; None if they are not.

    Raises SettingError if `keep` cannot be a name or exists already, and PermissionError if it cannot be written.
    """
    if keep is None:
        if overwrite:
            raise SettingError("overwrite", "true: replaces a kept set; name it with --keep")
        return None
    folder = root.kept(run, keep)
    if folder.exists() and not overwrite:
        raise SettingError(
            "keep", f"{keep!r}: exists already at {folder}; choose another name, or replace it with --overwrite"
        )
    if folder.resolve().is_relative_to(images.resolve()):
        raise SettingError("images", f"{str(images)!r}: contains {folder}, where these studies are to be kept")
    check_may_write(folder.parent)
    return KeptStudies(root.run(run), keep, folder)
