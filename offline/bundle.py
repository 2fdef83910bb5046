"""Bundle a run for a machine without internet, such as a Kaggle notebook.

    python -m offline.bundle --root DATA --run lora --out bundles/lora
    python -m offline.bundle --root DATA --run lora --out bundles/lora --image my_notebook.txt
    python -m offline.bundle --root DATA --run lora --out bundles/lora --target here

The folder `--out` receives the wheels that the target's image lacks, this project's among them; the run's weights,
heads, calibrators, locator and atlas; its base, if it has adapters; the best constants; and a notebook of three cells.
`--out`.zip holds the same. `offline/image_packages.txt` lists what the image has. `--target here` takes this
environment for the image, and makes the wheels of what is installed in it, without network.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.conversion.pairs import read_metadata
from locator.carried import CARRIED_FOLDER, find_carried_files
from offline.wheels import (
    add_missing_wheels,
    build_own_wheel,
    download_missing,
    pack_installed,
    read_image,
    this_environment,
)
from vl_model import LoadedRun, load_folds, load_run
from vl_model.fold_runs import FoldRuns
from vl_model.loaded_run import is_joined
from workspace.cli import run_command
from workspace.file_modes import check_may_write
from workspace.layout import DataRoot, data_root, home_expanded
from workspace.root_settings import FinishedRunSettings
from workspace.setting_error import SettingError
from workspace.settings_parser import read_settings
from workspace.whole_folders import whole_folder

PROG = "-m offline.bundle"
SCHEMA_VERSION = 1
HERE = Path(__file__).parent
IMAGE = HERE / "image_packages.txt"
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Settings(FinishedRunSettings):
    """Settings of a bundle."""

    out: str
    """The folder to write; the same name with .zip is the archive of it."""
    image: str | None = None
    """The list of what the target's image has, NAME==VERSION. By default offline/image_packages.txt."""
    target: Literal["image", "here"] = "image"
    """image: wheels are downloaded for the image. here: they are made of this environment's packages; of the image's
    list only the names count."""
    zip: bool = True
    """Write the archive."""
    overwrite: bool = False
    """Replace an earlier bundle."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    root, out = data_root(settings.root), home_expanded(settings.out, "out")
    archive = out.with_name(f"{out.name}.zip")
    _check_out(out, archive, settings.overwrite)
    listed = read_image(home_expanded(settings.image, "image") if settings.image else IMAGE)
    image = this_environment(list(listed)) if settings.target == "here" else listed
    run = (load_folds if is_joined(root, settings.run) else load_run)(root, settings.run, settings.base)
    with whole_folder(out) as folder:
        card = bundle_run(run, folder)
        wheels = folder / "wheels"
        wheels.mkdir()
        own = build_own_wheel(HERE.parent, wheels)
        if settings.target == "here":
            add_missing_wheels(own, wheels, image, pack_installed)
        else:
            download_missing(own, wheels, image, HERE.parent / "constraints.txt")
        shutil.copyfile(HERE / "start.py", folder / "start.py")
        write_notebook(folder / "submit.ipynb", out.name)
        card["files"] = {name: _sha256(folder / name) for name in _files(folder)}
        card["python"] = image["python"]
        (folder / "bundle.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, **card}, indent=1) + "\n")
    print(f"bundle   {out} ({_megabytes(out.rglob('*'))}, {len(list((out / 'wheels').iterdir()))} wheels)")
    if settings.zip:
        _zip(out, archive)
        print(f"archive  {archive} ({_megabytes([archive])})")
    elif archive.is_file():
        archive.unlink()  # of an earlier bundle


def bundle_run(run: LoadedRun | FoldRuns, folder: Path) -> dict[str, Any]:
    """Copy what grading needs of a run, and of its base, into a folder; return what the bundle's card says of it.

    Raises ValueError if the run is not evaluated, or if its base is not a folder or file but a name that a library
    knows: the files would have to come from the internet.
    """
    grader = run.grader()
    runs = run.runs if isinstance(run, FoldRuns) else (run,)
    target = DataRoot(folder / "root")
    for one in {part.name: part for part in (*runs, run)}.values():
        there = target.run(one.name)
        for name in ("final", "heads", CARRIED_FOLDER):
            if (one.folder / name).is_dir():
                shutil.copytree(one.folder / name, there / name, ignore=shutil.ignore_patterns("baseline.*"))
        if one in runs and not (there / CARRIED_FOLDER).is_dir():
            find_carried_files(one.root).copy_to(there)  # a run that carries no placer uses what the data root has
        if (one.folder / "run.json").is_file():
            shutil.copyfile(one.folder / "run.json", there / "run.json")
    if isinstance(run, FoldRuns):
        _copy_dataset_card(run.root, target)
    _write_constants(folder / "constants.csv", grader.constants())
    return {"run": run.name, "checkpoint": run.checkpoint, "base": _copy_base(runs[0], folder)}


def _copy_dataset_card(root: DataRoot, target: DataRoot) -> None:
    """Write the metadata of the train split, without its pairs: joined runs are checked against its folds."""
    metadata = read_metadata(root.processed("train"))
    kept = {name: metadata[name] for name in ("schema_version", "fingerprint", "study_ids", "folds")}
    path = target.processed("train") / "dataset.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"metadata": kept, "pairs": []}) + "\n", encoding="utf-8")


def _copy_base(run: LoadedRun, folder: Path) -> str | None:
    """Copy the base of a run with adapters; return its path within the bundle, or None if it has none of its own."""
    from vl_model.model.base_places import base_path
    from vl_model.model.site_model_files import recorded_base

    place = recorded_base(run.folder / "final", run.base)
    if place is None:
        return None
    path = base_path(place)
    if path is None:
        raise SettingError(
            "run",
            f"{run.name!r}: its base {place.model!r} is a name that a library knows, and lies in that library's cache; "
            "train the run on a folder (local-dir:PATH or hf:PATH), which can be bundled",
        )
    target = folder / BASE / path.name
    if path.is_dir():
        shutil.copytree(path, target)
        return f"{BASE}/{path.name}"
    target.parent.mkdir()
    shutil.copyfile(path, target)
    return f"{BASE}/{path.name}"


def _write_constants(path: Path, constant_X3: Any) -> None:
    """Write the best constants, as they stand in a submission: one row per site, in the competition's order."""
    from data_prep.sites import SUBMISSION_SITES
    from vl_model.data.site_table import SITE_INDEX
    from vl_model.scoring.submission import floored

    prob_X3 = floored(constant_X3)
    rows = [",".join([site.key, *(f"{p:.12f}" for p in prob_X3[SITE_INDEX[site]])]) for site in SUBMISSION_SITES]
    path.write_text("\n".join(["site,normal_mild,moderate,severe", *rows, ""]), encoding="utf-8")


def write_notebook(path: Path, bundle: str) -> None:
    """Write the notebook of three cells: the settings, the submission, and a look at it."""
    cells = [
        f"""# The folders of the notebook. Attach the bundle as a data set named {bundle!r}, and the competition's data.
from pathlib import Path

INPUT, WORKING = Path("/kaggle/input"), Path("/kaggle/working")
BUNDLE = INPUT / {bundle!r}
DATA = INPUT / "rsna-2024-lumbar-spine-degenerative-classification"
GPUS, TIME_BUDGET = 2, 8 * 3600  # one process per GPU; seconds""",
        """# Constants first, then the wheels, then the grades. Whatever fails, submission.csv is valid.
!python {BUNDLE}/start.py --data {DATA} --working {WORKING} --gpus {GPUS} --time_budget {TIME_BUDGET}""",
        """import pandas as pd

pd.read_csv(WORKING / "submission.csv").describe()""",
    ]
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{number}",
                "execution_count": None,
                "metadata": {},
                "outputs": [],
                "source": cell.splitlines(keepends=True),
            }
            for number, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": python},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _check_out(out: Path, archive: Path, overwrite: bool) -> None:
    """Raise SettingError if something other than an earlier bundle is in the way, or that may not be replaced."""
    check_may_write(out.parent)
    there = [path for path in (out, archive) if path.exists()]
    if there and not overwrite:
        raise SettingError("out", f"{str(there[0])!r}: exists already; choose another name, or give --overwrite")
    if out.exists() and not (out / "bundle.json").is_file():
        raise SettingError("out", f"{str(out)!r}: is no bundle, and is not replaced; choose another name")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _zip(folder: Path, archive: Path) -> None:
    """Write the archive of a folder by rename. Wheels and weights are compressed already, or cannot be."""
    partial = archive.with_name(f".{archive.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
            for name in _files(folder):
                file.write(folder / name, f"{folder.name}/{name}")
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)


def _megabytes(paths: Iterable[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths if path.is_file()) / 1e6:.1f} MB"


if __name__ == "__main__":
    run_command(PROG, main)
