"""Ask the studies of a run: print the studies that answer a question, with the slices that speak for them.

    python query_vl.py --root DATA --run first "severe left foraminal narrowing at L4-L5"
    python query_vl.py --root DATA --run first "severe canal stenosis except L5-S1, normal foramina" --save answers
    python query_vl.py --root DATA --run first --ask "any(canal, L4-L5) >= moderate and all(foramen) = normal/mild"
    python query_vl.py --root DATA --run first --like "123456:left foramen, L4-L5" --top 10
    python query_vl.py --root DATA --run first --queries cohort.yaml --save cohort
    python query_vl.py --root DATA --run first --report report.txt --study 123456

How a text was read is printed first, as a line that --ask takes. The answers are ranked by calibrated probability;
what the question is worth is told from the held-out studies whose grades are known. Requires the output of
eval_vl.py. Research use only: not a medical device. In Python: ``vl_model.load_run(root, run).search(text)``.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vl_model import load_run
from workspace.cli import run_command
from workspace.root_settings import FinishedRunSettings
from workspace.setting_error import SettingError
from workspace.setting_types import PositiveInteger, Share
from workspace.settings_parser import read_settings

PROG = "query_vl.py"


@dataclass(frozen=True, kw_only=True)
class Settings(FinishedRunSettings):
    """Settings of query_vl.py."""

    text: str | None = field(default=None, metadata={"positional": True})
    """What to search for, for example "severe left foraminal narrowing at L4-L5"."""
    ask: str | None = None
    """A question as the line that every reply prints, for example "any(canal, L4-L5) >= moderate"."""
    like: str | None = None
    """STUDY:SITE. The studies that look most like this site of this study."""
    any_level: bool = False
    """With --like: compare with the sites of all levels."""
    queries: str | None = None
    """A YAML file of names and questions. --save receives a table for each of them, and summary.json."""
    report: str | None = None
    """A text file with a report, whose findings are compared with the model's grades of --study."""
    study: str | None = None
    """With --report: the study that the report is of."""
    split: str | None = None
    """The studies to search: train, test, or a set that predict_vl.py kept. By default both splits."""
    seen: bool = False
    """Search the studies that the model was trained on too, although their probabilities are too sure."""
    top: PositiveInteger | None = None
    """The number of studies to return. By default what the text says, or 5."""
    least: Share | None = None
    """The least probability of an answer. By default 0.05."""
    likeness: bool = False
    """Compare words that are not graded with the images, if the model can tell them from nonsense."""
    json: bool = False
    """Print the answers as JSON, and nothing else."""
    csv: str | None = None
    """The CSV file into which the answers are written."""
    save: str | None = None
    """The folder into which the answers' slices, crops and answers.png are written."""
    overwrite: bool = False
    """Replace what --save holds of another question, and the file of --csv."""
    truth: str | None = None
    """A CSV file of known grades to show instead of those in dataset.json. Its columns are study_id, condition, side,
    level and severity, or those of train.csv."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    check(settings)
    run = load_run(settings.root, settings.run, settings.base)

    from vl_model.queries.run_queries import Asked  # numpy, which --help does not need

    queries = run.queries(say=lambda words: print(words, file=sys.stderr))
    asked = Asked(settings.split, settings.top, settings.least, settings.seen or None, settings.likeness)
    if settings.queries:
        from vl_model.queries.batch import answer_file

        assert settings.save is not None
        print(answer_file(queries, Path(settings.queries), Path(settings.save), asked, settings.overwrite))
        return
    if settings.report:
        from vl_model.queries.report_check import check_report

        print(check_report(queries, Path(settings.report), settings.study, asked, as_json=settings.json))
        return
    reply = _reply(queries, settings, asked)
    if settings.truth:
        from data_prep.truth import read_grades

        reply = replace(reply, truth=read_grades(Path(settings.truth)))
    if settings.save:
        from vl_model.queries.answer_folder import save_answers  # matplotlib

        reply = replace(reply, files=save_answers(reply, queries.processed, Path(settings.save), settings.overwrite))
    if settings.csv:
        from vl_model.queries.reply import reply_csv
        from workspace.whole_files import replacing

        with replacing(Path(settings.csv)) as partial:
            partial.write_text(reply_csv(reply), encoding="utf-8")
    _print(reply, settings)


def _reply(queries: "RunQueries", settings: Settings, asked: "Asked") -> "Reply":  # type: ignore[name-defined]  # noqa: F821
    ...
