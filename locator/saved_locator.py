"""The folder ``final/`` of a locator's run: written when it is trained, read when it is used.

It holds ``locator.safetensors`` (the two networks), ``atlas.json``, and ``locator.json`` (the spine prior, the height
of spines in the field of view, the name of the sagittal encoder, the standard deviations of detections in each
view, and the calibration of the expected error and of the level confidence).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.sites import Condition
from locator.detections import DETECTION_KINDS
from locator.encoders import SMALL, encoder_kind
from locator.field_height import read_field_height
from locator.files import ATLAS, LOCATOR, SCHEMA_VERSION, WEIGHTS
from locator.knowledge import read_knowledge
from locator.level_evidence import read_level_calibration, read_score_rule
from locator.locator import Locator
from locator.network import load_weights, new_network, save_weights
from locator.site_placer import atlas_of
from locator.spine_prior import read_prior
from workspace.json_files import read_object
from workspace.whole_files import replacing


def save_locator(locator: Locator, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write ``final/``; locator.json is written last, by rename."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCATOR).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as partial:
        save_weights(locator.network, partial)
    locator.atlas.save(folder / ATLAS)
    content = {
        "schema_version": SCHEMA_VERSION,
        "sagittal_encoder": locator.network.sagittal.kind.name,
        "weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "prior": {
            "studies": locator.prior.studies,
            "shape": locator.prior.shape_N3.round(4).tolist(),
            "covariance": locator.prior.covariance_DD.round(5).tolist(),
        },
        "deviation_mm": {kind: np.round(locator.deviation_mm[kind], 4).tolist() for kind in DETECTION_KINDS},
        "error_scale": {condition.value: round(locator.error_scale[condition], 4) for condition in Condition},
        "level_confidence": locator.level_calibration and locator.level_calibration.to_json(),
        "score_rule": asdict(locator.score_rule),
        "field_height": locator.field_height and locator.field_height.to_json(),
        "knows": locator.knowledge.to_json(),
        "notes": dict(notes),
    }
    with replacing(folder / LOCATOR) as partial:
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")  # 6,000 numbers: not a line each


def load_locator(folder: Path) -> Locator:
    """Load the locator in a folder ``final/``, with the shipped atlas if the folder has none.

    Raises:
        ValueError: A file is missing, damaged, or of another version.
    """
    content = read_object(folder / LOCATOR, "train_locator.py", SCHEMA_VERSION)
    try:
        spine_prior = read_prior(content["prior"])
        deviation = {kind: np.array(content["deviation_mm"][kind], dtype=float) for kind in DETECTION_KINDS}
        scale = {condition: float(content["error_scale"][condition.value]) for condition in Condition}
        calibration = read_level_calibration(content.get("level_confidence"))
        rule = read_score_rule(content)
        height = read_field_height(content.get("field_height"))
        knowledge = read_knowledge(content.get("knows"))
        kind = encoder_kind(content.get("sagittal_encoder", SMALL.name))  # older locators have no other one
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / LOCATOR}: not a locator ({error}); train_locator.py writes it") from None
    network = new_network(kind)
    load_weights(network, folder / WEIGHTS)
    atlas = atlas_of(folder)
    return Locator(network.eval(), spine_prior, atlas, deviation, scale, calibration, knowledge, rule, height)


@lru_cache(maxsize=1)
def load_worker_locator(folder: Path) -> Locator:
    """Load the locator once per worker process; it runs on one thread, because several processes run in parallel."""
    torch.set_num_threads(1)
    return load_locator(folder)
