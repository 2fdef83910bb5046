"""Ask the studies of a run: print the studies that answer a question, with the slices that speak for them.

    python query_vl.py --root DATA --run first "severe left foraminal narrowing at L4-L5"
    python query_vl.py --root DATA --run first "severe canal stenosis except L5-S1 and normal foramina" --save answers
    python query_vl.py --root DATA --run first --ask "any(canal) = severe and all(foramen) = normal/mild"
    python query_vl.py --root DATA --run first --like "123456:left foramen, L4-L5" --top 10
    python query_vl.py --root DATA --run first --queries cohort.yaml --save cohort
    python query_vl.py --root DATA --run first --report report.txt --study 123456
    python query_vl.py --root DATA --run first --serve

How a text was read is printed first, as a line that --ask takes. The answers are ranked by calibrated probability;
what the question is worth is told from the held-out studies whose grades are known. Requires the output of
eval_vl.py. Research use only: not a medical device. In Python: ``vl_model.load_run(root, run).search(text)``.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command handles it: the imports take time

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vl_model import load_run
from workspace.cli import run_command
from workspace.root_settings import FinishedRunSettings
from workspace.setting_error import SettingError
from workspace.setting_types import Port, PositiveInteger, Share
from workspace.settings_parser import read_settings

if TYPE_CHECKING:
    from vl_model.loaded_run import LoadedRun
    from vl_model.queries.reply import Reply
    from vl_model.queries.run_queries import Asked, RunQueries

PROG = "query_vl.py"
#: Question -> the flags that it does not use, and that would be ignored in silence.
UNUSED = {
    "like": ("least", "likeness"),
    "queries": ("csv", "truth"),
    "serve": ("split", "seen", "top", "least", "likeness", "json", "csv", "save", "truth"),
    "report": ("seen", "top", "least", "likeness", "csv", "save", "truth"),
}


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
    serve: bool = False
    """Open a page in which questions are asked and slices are looked at. Ctrl-C ends it."""
    host: str = "127.0.0.1"
    """With --serve: the address. Any other than this machine's own needs a token, which is made and printed."""
    port: Port = 8017
    """With --serve: the port; 0 for any free one."""
    token: str | None = None
    """With --serve: what the browsers of others must know, at least 16 letters, digits, - and _."""
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
    """Replace what --save holds of another question."""
    truth: str | None = None
    """A CSV file of known grades to show instead of those in dataset.json. Its columns are study_id, condition, side,
    level and severity, or those of train.csv."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    check_settings(settings)
    run = load_run(settings.root, settings.run, settings.base)

    from vl_model.queries.run_queries import Asked, check_top  # numpy, which --help does not need

    top = None if settings.top is None else check_top(settings.top)
    asked = Asked(settings.split, top, settings.least, settings.seen or None, settings.likeness)
    if settings.serve:
        from vl_model.page.serve import serve

        def present_run() -> "RunQueries":
            return queries_of(load_run(settings.root, settings.run, settings.base))

        serve(present_run, run.logs, settings.host, settings.port, settings.token)
        return
    queries = queries_of(run)
    if settings.queries is not None:
        answer_file(queries, asked, settings)
    elif settings.report is not None:
        check_report(queries, asked, settings)
    else:
        answer(queries, asked, settings)


def queries_of(run: "LoadedRun") -> "RunQueries":
    """Open the queries of a run; what is made anew is said beside the answers."""
    return run.queries(lambda words: print(words, file=sys.stderr))


def check_settings(settings: Settings) -> None:
    """Raise SettingError unless exactly one question is asked, with the flags that belong to it."""
    questions = {
        "text": settings.text,
        **{name: getattr(settings, name) for name in ("ask", "like", "queries", "report")},
        "serve": settings.serve or None,
    }
    given = [name for name, value in questions.items() if value is not None]
    if not given:
        raise ValueError('nothing was asked; ask, for example, "severe left foraminal narrowing at L4-L5"')
    if len(given) > 1:
        raise SettingError(given[1], f"cannot be asked together with {given[0]}")
    for flag, needed in (("any_level", "like"), ("study", "report"), ("overwrite", "save")):
        if getattr(settings, flag) and getattr(settings, needed) is None:
            raise SettingError(flag, f"is for --{needed} only")
    for flag in ("host", "port", "token"):
        if not settings.serve and getattr(settings, flag) != getattr(Settings, flag):
            raise SettingError(flag, "is for --serve only")
    for flag, needed in (("queries", "save"), ("report", "study")):
        if getattr(settings, flag) is not None and getattr(settings, needed) is None:
            raise SettingError(flag, f"{getattr(settings, flag)!r}: needs --{needed} as well")
    for flag in UNUSED.get(given[0], ()):
        if getattr(settings, flag):
            raise SettingError(flag, f"is not for --{given[0]}")
    check_outputs(settings)


def check_outputs(settings: Settings) -> None:
    """Raise SettingError if an output would replace an input, or is a folder or a file where it should not be."""
    if settings.save is not None and Path(settings.save).exists() and not Path(settings.save).is_dir():
        raise SettingError("save", f"{settings.save!r}: is a file; it should be a folder")
    if settings.csv is None:
        return
    path = Path(settings.csv)
    if path.exists() and not path.is_file():
        raise SettingError("csv", f"{settings.csv!r}: is a folder or a device; it should be a file")
    inputs = [name for name in (settings.truth, settings.queries, settings.report) if name is not None]
    if any(Path(name).exists() and path.exists() and path.samefile(name) for name in inputs):
        raise SettingError("csv", f"{settings.csv!r}: is an input, which would be lost")


def answer(queries: "RunQueries", asked: "Asked", settings: Settings) -> None:
    """Answer one question."""
    reply = ask(queries, asked, settings)
    if settings.truth is not None:
        from data_prep.truth import read_grades

        reply = replace(reply, truth=read_grades(Path(settings.truth)))
    if settings.save is not None:
        from vl_model.queries.answer_folder import save_answers  # Pillow

        folder = Path(settings.save)
        files = save_answers(reply, queries.processed, folder, settings.overwrite, queries.say)
        reply = replace(reply, files=files)
    if settings.csv is not None:
        from vl_model.queries.reply import reply_csv
        from workspace.whole_files import replacing

        with replacing(Path(settings.csv)) as partial:
            partial.write_text(reply_csv(reply), encoding="utf-8")
    print_reply(reply, settings)


def ask(queries: "RunQueries", asked: "Asked", settings: Settings) -> "Reply":
    """Return the reply to a text, to a canonical line, or to a site that others are compared with."""
    if settings.like is not None:
        from vl_model.queries.run_queries import parse_site

        return queries.similar(*parse_site(settings.like), asked, settings.any_level)
    if settings.ask is not None:
        from prompts.canonical import parse_canonical

        return queries.ask(parse_canonical(settings.ask), asked)
    from prompts.reading.parse import parse_query

    assert settings.text is not None
    return queries.ask(parse_query(settings.text), asked)


def print_reply(reply: "Reply", settings: Settings) -> None:
    if settings.json:
        from vl_model.queries.reply import reply_json

        print(json.dumps(reply_json(reply), indent=2))
        return
    from vl_model.queries.reply_text import reply_text

    print(reply_text(reply))
    if settings.save is not None:
        print(f"\nsaved       {Path(settings.save) / 'answers.png'} and the crops beside it")


def answer_file(queries: "RunQueries", asked: "Asked", settings: Settings) -> None:
    """Answer the questions of a file: a table for each, and summary.json."""
    from vl_model.queries.batch import answer_questions
    from vl_model.queries.question_file import read_questions

    assert settings.queries is not None and settings.save is not None
    questions = read_questions(Path(settings.queries))
    summary = answer_questions(queries, questions, Path(settings.save), asked, settings.overwrite)
    print(json.dumps(summary, indent=2) if settings.json else f"{summary['text']}\n{Path(settings.save)}")


def check_report(queries: "RunQueries", asked: "Asked", settings: Settings) -> None:
    """Compare the findings of a report with the model's grades."""
    from vl_model.queries.report_check import compared_report, read_report_text, report_check_json, report_check_text

    assert settings.report is not None and settings.study is not None
    text = read_report_text(Path(settings.report))
    compared = compared_report(queries, text, settings.study, asked)
    print(json.dumps(report_check_json(compared), indent=2) if settings.json else report_check_text(compared))


if __name__ == "__main__":
    run_command(PROG, main)
