"""Search the studies of a run by text: print ranked studies, each with the slice and region that show the finding.

    python query_vl.py --root DATA --run first "severe left foraminal narrowing at L4-L5"
    python query_vl.py --root DATA --run first "at least moderate canal stenosis, L3 to S1" --top 10 --save answers
    python query_vl.py --root DATA --run first "no stenosis at L5-S1" --split test --json > answers.json

What the text names (level, side, condition, severity) selects the sites and ranks the studies by calibrated
probability; words that are not understood rank by the similarity of image and text. `--save` writes the crops and
one sheet of all answers. Requires the output of eval_vl.py. Research use only: not a medical device. In Python:
``vl_model.load_run(root, run).search(text)``.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from vl_model import load_run
from workspace.cli import run_command
from workspace.root_settings import FinishedRunSettings
from workspace.setting_types import PositiveInteger
from workspace.settings_parser import read_settings

PROG = "query_vl.py"


@dataclass(frozen=True, kw_only=True)
class Settings(FinishedRunSettings):
    """Settings of query_vl.py."""

    text: str = field(metadata={"positional": True})
    """What to search for, for example "severe left foraminal narrowing at L4-L5"."""
    split: Literal["train", "test", "both"] = "both"
    """The studies to search. both: all studies of which the run has embeddings."""
    top: PositiveInteger = 5
    """The number of studies to return."""
    json: bool = False
    """Print the answers as JSON, and nothing else."""
    save: str | None = None
    """The folder into which the answers' slices and crops and answers.png are written."""
    truth: str | None = None
    """A CSV file of known grades to show. Its columns are study_id, condition, side, level and severity, or those of
    train.csv."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    save = Path(settings.save) if settings.save else None
    if save and save.exists() and not save.is_dir():
        raise ValueError(f"--save {settings.save!r}: is a file; it should be a folder")
    run = load_run(settings.root, settings.run, settings.base)

    from data_prep.truth import read_grades  # numpy, which --help does not need
    from vl_model.queries.answers import reply_json, reply_text

    truth = read_grades(Path(settings.truth)) if settings.truth else None
    reply = replace(run.answer(settings.text, settings.top, settings.split), truth=truth)
    if save:
        from vl_model.queries.answer_sheet import save_answers  # matplotlib

        reply = replace(reply, files=save_answers(reply, run.processed, save))
    print(json.dumps(reply_json(reply), indent=2) if settings.json else reply_text(reply))
    if save and not settings.json:
        print(f"\nsaved       {save / 'answers.png'} and the crops beside it")


if __name__ == "__main__":
    run_command(PROG, main)
