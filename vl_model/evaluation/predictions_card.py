"""``predictions.json``, beside ``predictions.csv``: of which model, data and prompts these predictions are.

A table of probabilities looks like any other. A comparison of two runs therefore asks this card.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from workspace.json_files import read_object
from workspace.whole_files import replacing

SCHEMA_VERSION = 1
CARD = "predictions.json"
#: What a part of a fingerprint stands for, in words.
WORDS = {"checkpoint": "an earlier model of this run", "dataset": "another data set", "prompts": "other prompts"}


def write_predictions_card(path: Path, fingerprint: Mapping[str, str], held_out_folds: Sequence[int]) -> None:
    """Write the card of the predictions at `path`, by rename."""
    card = {
        "schema_version": SCHEMA_VERSION,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "fingerprint": dict(fingerprint),
        "held_out_folds": list(held_out_folds),
    }
    with replacing(path.with_name(CARD)) as partial:
        partial.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def check_predictions_card(path: Path, expected: Mapping[str, str]) -> None:
    """Check that the predictions at `path` are those of their card, and of what `expected` names.

    Raises ValueError if not.
    """
    card = read_object(path.with_name(CARD), "eval_vl.py", SCHEMA_VERSION)
    again = f"run python eval_vl.py --run {path.parent.name} again"
    if card.get("sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ValueError(f"{path}: is not the table that {CARD} was written for; {again}")
    check_fingerprint(f"{path}: the predictions", card.get("fingerprint"), expected, again)


def check_fingerprint(what: str, found: object, expected: Mapping[str, str], remedy: str) -> None:
    """Raise ValueError if a part of the fingerprint `found` is not as expected.

    what: whose fingerprint it is, with its file, as a plural. remedy: what to do about it.
    """
    parts = found if isinstance(found, Mapping) else {}
    for name, value in expected.items():
        if parts.get(name) != value:
            raise ValueError(f"{what} belong to {WORDS[name]}; {remedy}")
