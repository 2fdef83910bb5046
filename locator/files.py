"""A finished locator's files: their names, where they are found, and whether they belong together.

Nothing here imports torch, nor what reads images: a training only carries them along.
"""

import hashlib
from pathlib import Path

from workspace.json_files import read_object
from workspace.layout import DataRoot

SCHEMA_VERSION = 1
LOCATOR, WEIGHTS, ATLAS = "locator.json", "locator.safetensors", "atlas.json"
#: In the logs of a locator's run: marks of its held-out studies that it disagrees with.
SUSPECTS = "suspects.csv"
#: What `--locator` says for none at all.
NO_LOCATOR = "none"


def locator_fingerprint(folder: Path) -> str:
    """locator.json says all: it holds a digest of the weights."""
    return hashlib.sha256((folder / LOCATOR).read_bytes()).hexdigest()


def find_locator(root: DataRoot, wanted: str | None) -> Path | None:
    """``final/`` of a run's locator, or of the one that was finished last; None for "none", or where there is none.

    Raises ValueError where the run named has none, or where the one found is damaged.
    """
    if wanted == NO_LOCATOR:
        return None
    if wanted is not None:
        folder = root.run(wanted, "locator") / "final"
        if not (folder / LOCATOR).is_file():
            raise ValueError(
                f"--locator {wanted!r}: no {LOCATOR} in {folder}; train_locator.py --run {wanted} writes it"
            )
    else:
        found = root.path.glob(f"train/checkpoints/*/final/{LOCATOR}")
        newest = max(found, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
        if newest is None:
            return None
        folder = newest.parent
    check_locator(folder)
    return folder


def check_locator(folder: Path) -> None:
    """Raises ValueError where the weights are not those that locator.json speaks of."""
    content = read_object(folder / LOCATOR, "train_locator.py", SCHEMA_VERSION)
    path = folder / WEIGHTS
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != content.get("weights_sha256"):
        raise ValueError(f"{path}: missing, or not the weights that {LOCATOR} speaks of; train_locator.py writes both")
