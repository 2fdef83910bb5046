"""The files of a trained locator: their names, how a locator is found, and a check of its weights.

This module imports neither torch nor the modules that read images, because ``train_vl.py`` only copies these files.
"""

import hashlib
from pathlib import Path

from runs.run_record import LOCATOR_RUN, check_kind
from workspace.json_files import read_object
from workspace.layout import DataRoot
from workspace.setting_error import SettingError

SCHEMA_VERSION = 1
LOCATOR, WEIGHTS, ATLAS = LOCATOR_RUN.file, "locator.safetensors", "atlas.json"
#: The file of a base folder (``vl_model.towers.packaged_bases``) that holds both towers.
BASE_WEIGHTS = "open_clip_model.safetensors"
#: In the logs of a locator's run: the suspect marks of its held-out studies.
SUSPECTS = "suspects.csv"
#: The values of the setting `locator` for no locator, and for the one that ships with the program.
NO_LOCATOR, SHIPPED_LOCATOR = "none", "shipped"
#: The folder of the shipped locator (`locator.shipped_locator`).
SHIPPED = Path(__file__).with_name("shipped")


def not_a_base(base: Path, problem: str) -> SettingError:
    """Return the error of a base folder whose weights have a problem."""
    makes_one = "python -m vl_model.towers.packaged_bases makes a base with EfficientNet-Lite0"
    return SettingError("base", f"{str(base)!r}: {BASE_WEIGHTS} {problem}; {makes_one}")


def locator_fingerprint(folder: Path) -> str:
    """Return a digest of locator.json, which itself contains a digest of the weights."""
    return hashlib.sha256((folder / LOCATOR).read_bytes()).hexdigest()


def find_locator(root: DataRoot, requested: str | None) -> Path | None:
    """Return the folder ``final/`` of a locator.

    Args:
        root: The data root.
        requested: The name of the locator's run; "none" for no locator; "shipped" for the one that ships with the
            program; None for the one that was finished last.

    Returns:
        The folder; None if no locator was requested, or none exists.

    Raises:
        ValueError: The requested run has no locator, or the locator that was found is damaged.
    """
    if requested == NO_LOCATOR:
        return None
    if requested == SHIPPED_LOCATOR:
        folder = SHIPPED
    elif requested is not None:
        run = root.run(requested, "locator")
        folder = run / "final"
        if not (folder / LOCATOR).is_file():
            check_kind("locator", run, LOCATOR_RUN)
            raise SettingError(
                "locator",
                f"{requested!r}: {folder / LOCATOR} does not exist; "
                f"run python train_locator.py --run {requested} to train one",
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
    """Check that a locator's weights are those that its locator.json describes.

    Raises:
        ValueError: They are missing, or other weights.
    """
    content = read_object(folder / LOCATOR, "train_locator.py", SCHEMA_VERSION)
    path = folder / WEIGHTS
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != content.get("weights_sha256"):
        raise ValueError(
            f"{path}: missing, or not the weights that {LOCATOR} describes; train the locator again with "
            "train_locator.py, which writes both"
        )
