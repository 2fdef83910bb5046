"""Find the images below a folder of new studies, at any depth, with the identity that each has in its header."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from data_prep.dicom.identity import Identity, read_identity
from data_prep.faults import Fault, FaultKind
from data_prep.folders import Listing, fault_path, list_folder

#: Folders deeper than this are not entered: a disc's images lie four levels deep.
DEEPEST = 12
#: The progress bar appears only if the headers take longer than this, in seconds.
_BAR_AFTER = 2.0


@dataclass
class ImageFolder:
    """A folder that holds images: the identity of each, and the other files.

    depth: the number of folders between it and the folder of new studies; 0 for that folder itself.
    """

    path: Path
    depth: int
    images: dict[Path, Identity] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)


@dataclass
class ImageTree:
    """All folders with images below `root`, those without any file (`empty`), and a fault for all that is set aside."""

    root: Path
    folders: list[ImageFolder] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def is_deep(self) -> bool:
        """Whether there are study folders: images lie in folders within folders."""
        return any(folder.depth >= 2 for folder in self.folders)

    def note(self, path: Path, kind: FaultKind, message: str) -> None:
        self.faults.append(Fault(None, None, fault_path(path, self.root), kind, "skipped", message))


@dataclass(frozen=True)
class Share:
    """One of several equal shares of the folders directly within a folder: `number`, from 0, of `count`."""

    number: int = 0
    count: int = 1

    def of(self, folders: Sequence[Path]) -> list[Path]:
        """Return this share of folders that are sorted by name."""
        return list(folders[self.number :: self.count])


def share_of_folders(images: Path, share: Share) -> list[Path]:
    """Return a share of the folders directly within `images`, as `read_image_tree` takes it."""
    return share.of(list_folder(images, images).folders)


def read_image_tree(images: Path, share: Share | None = None) -> ImageTree:
    """Read the identity of every file below `images`, or below a share of the folders in it.

    Links that point outside are not followed. A folder whose files are none of them images, such as the viewer of a
    disc, is one fault, whatever it contains.
    """
    tree = ImageTree(images)
    listings = list(_listings(tree, images, share or Share()))
    files = sum(len(listing.files) for _, listing in listings)
    with tqdm(total=files, unit="file", desc="reading headers", delay=_BAR_AFTER, leave=False) as bar:
        for path, listing in listings:
            found = ImageFolder(path, len(path.relative_to(images).parts))
            for file in listing.files:
                identity = read_identity(file)
                if identity is None:
                    found.others.append(file)
                else:
                    found.images[file] = identity
                bar.update()
            _add(tree, found, listing)
    return tree


def _add(tree: ImageTree, found: ImageFolder, listing: Listing) -> None:
    """Add a folder and its faults; one without images is noted once, because it may hold thousands of files."""
    tree.faults += listing.faults
    if found.images:
        tree.folders.append(found)
        for path in found.others:
            tree.note(path, FaultKind.NOT_DICOM, "not a DICOM image")
    elif found.others:
        count = f"{len(found.others)} files: none is" if len(found.others) > 1 else "one file: it is not"
        tree.note(found.path, FaultKind.NOT_DICOM, f"a folder of {count} a DICOM image")
    elif not listing.folders:
        tree.empty.append(found.path)


def _listings(tree: ImageTree, images: Path, share: Share) -> Iterator[tuple[Path, Listing]]:
    """Yield every folder below `images` and what it contains, each folder once.

    Of two names of one folder, the folder's own name comes before those of links to it.
    """
    known: set[str] = set()
    todo = [(images, 0)]
    links: list[tuple[Path, int]] = []
    while todo or links:
        path, depth = todo.pop() if todo else links.pop(0)
        real = os.path.realpath(path)
        if real in known:
            name = fault_path(Path(real), Path(os.path.realpath(tree.root)))
            tree.note(path, FaultKind.SECOND_NAME, f"a second name of folder {name}")
            continue
        known.add(real)
        if depth > DEEPEST:
            tree.note(path, FaultKind.MISPLACED, f"a folder {depth} levels deep: expected at most {DEEPEST}")
            continue
        listing = list_folder(path, tree.root)
        if depth == 0:
            listing.folders = share.of(listing.folders)
        yield path, listing
        for folder in reversed(listing.folders):
            (links if folder.is_symlink() else todo).append((folder, depth + 1))
