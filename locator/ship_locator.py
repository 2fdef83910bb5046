"""Make the shipped locator from a trained one, and calibrate it on marked studies that it did not learn from.

    python -m vl_model.towers.packaged_bases --out BASE
    python -m data_prep.phantom --root SYNTHETIC --scanners varied --train 480 --test 0 --seed 41 --workers 8
    python prepare_data.py --root SYNTHETIC --locator none
    python train_locator.py --root SYNTHETIC --base BASE --max_train_steps 3000
    python -m locator.ship_locator --locator SYNTHETIC/train/checkpoints/locator/final --root MARKED --folds 0 1

The weights and the spine prior are those of the trained locator. MARKED is a data root whose marked train split is
prepared. From the studies of some of its folds come the calibration of the level confidence and of the expected errors,
and the height of spines in the field of view; the other folds can then show how good the locator is
(``benchmarks.locate_real``). Only figures of those studies are kept.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data_prep.sites import Condition
from locator.calibration import HeldOutStudy, calibrate, detect_in
from locator.field_height import learn_field_height
from locator.files import LOCATOR, SHIPPED, WEIGHTS
from locator.level_evidence import OTHER_SPINES_RULE
from locator.locator import Locator
from locator.marked_studies import draw_marked_studies
from locator.saved_locator import load_locator, save_locator
from workspace.cli import run_command
from workspace.layout import data_root
from workspace.setting_types import NonNegativeInteger, PositiveInteger
from workspace.settings_parser import read_settings

PROG = "-m locator.ship_locator"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the shipped locator."""

    locator: str
    """The folder final/ of a trained locator."""
    root: str
    """The data root of the marked studies to calibrate on."""
    folds: tuple[NonNegativeInteger, ...] = (0, 1)
    """The folds of these studies that the calibration is fitted to."""
    studies: PositiveInteger | None = None
    """The number of studies of these folds to use, drawn at random. By default all."""
    trained_on: str = "synthetic spines"
    """What the locator was trained on, in words."""
    calibrated_on: str = "marked studies"
    """What it is calibrated on, in words."""
    out: str = str(SHIPPED)
    """The folder to write. By default the one that ships with the program."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    torch.set_num_threads(1)
    processed = data_root(settings.root).processed("train")
    studies = draw_marked_studies(processed, settings.folds, settings.studies)
    trained = load_locator(Path(settings.locator))
    # Nothing of its own calibration decides what it finds, and it is used on other spines.
    height = learn_field_height(studies, processed, trained.prior.shape_N3)
    trained = replace(trained, level_calibration=None, score_rule=OTHER_SPINES_RULE, field_height=height)
    # A calibration with direction uses no cut-off copies.
    held_out = [detect_in(trained, study, study.read(processed)) for study in tqdm(studies, unit="study")]
    shipped = recalibrated(trained, held_out)
    notes = {
        "trained_on": settings.trained_on,
        "calibrated_on": f"{len(studies)} studies: {settings.calibrated_on}",
    }
    with tempfile.TemporaryDirectory() as folder:
        save_locator(shipped, Path(folder), notes)
        out = Path(settings.out)
        out.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, LOCATOR):  # it falls back on the shipped atlas
            shutil.copyfile(Path(folder) / name, out / name)
    print(f"{out}: calibrated on {len(studies)} studies, {shipped.level_calibration}, {height}")


def recalibrated(locator: Locator, held_out: Sequence[HeldOutStudy]) -> Locator:
    """Return a locator with a calibration that holds on other studies too.

    Where the new studies tell nothing, because they lack marks of a condition or of a view, the locator's own
    calibration stays, but no error is expected to be smaller there than the new studies' errors suggest.
    """
    fitted = calibrate(locator, held_out)
    deviation = {
        kind: np.maximum(own, fitted.deviation_mm[kind]) if _is_detected(kind, held_out) else own
        for kind, own in locator.deviation_mm.items()
    }
    widened = replace(locator, deviation_mm=deviation)
    again = calibrate(widened, held_out, fixed_deviations=True, with_direction=True)
    marked = [one for one in Condition if again.error_scale[one] != 1.0]
    factor = max([again.error_scale[one] / locator.error_scale[one] for one in marked], default=1.0)
    scale = {
        one: max(again.error_scale[one], locator.error_scale[one])
        if one in marked
        else locator.error_scale[one] * max(factor, 1.0)
        for one in Condition
    }
    return replace(widened, error_scale=scale, level_calibration=again.level_calibration)


def _is_detected(kind: str, held_out: Sequence[HeldOutStudy]) -> bool:
    return any(
        detection.kind == kind and np.isfinite(study.marked_N3[detection.index]).all()
        for study in held_out
        for detection in study.detections
    )


if __name__ == "__main__":
    run_command(PROG, main)
