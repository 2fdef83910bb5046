"""Ask a run in words: studies, ranked, each with the slice and the region that speak for it.

    python query_vl.py --root DATA --run first "severe left foraminal narrowing at L4-L5"
    python query_vl.py --root DATA --run first "at least moderate canal stenosis, L3 to S1" --top 10 --save answers
    python query_vl.py --root DATA --run first "no stenosis at L5-S1" --split test --json > answers.json

What the text names (level, side, condition, severity) selects the sites and ranks the studies by calibrated
probability; words that it does not understand rank by the likeness of image and text. `--save` writes the crops and
one picture of the answers. Needs what eval_vl.py writes. Research use only: not a medical device.
"""

if __name__ == "__main__":
    from workspace.interrupts import end_at_ctrl_c

    end_at_ctrl_c()  # until run_command heeds it: the imports take their time

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prompts.parse import Query, parse_query
from workspace.cli import SettingsParser, run_command
from workspace.layout import DataRoot, Split, data_root

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vl_model.queries.answers import Reply
    from vl_model.queries.index import Answer

PROG = "query_vl.py"
SHEET = "answers.png"


def settings_parser() -> SettingsParser:
    parser = SettingsParser(PROG, __doc__)
    add = parser.add_argument
    add("text", type=str, help='what to look for: "severe left foraminal narrowing at L4-L5"')
    add("--root", type=str | None, help="the data root; else $LUMBAR_ROOT, else data/lumbarspine")
    add("--run", type=str, default="default", help="the run's name")
    add("--split", choices=("train", "test", "both"), default="both", help="which studies; both: those that are there")
    add("--top", type=int, default=5, help="how many studies")
    add("--json", action="store_true", help="print JSON and nothing else")
    add("--save", type=str | None, help="a folder for the crops and answers.png")
    add("--truth", type=str | None, help="a CSV of known grades (study_id, condition, side, level, severity) to show")
    return parser


def main() -> None:
    settings = settings_parser().parse_args()
    if settings.top < 1:
        raise ValueError(f"--top {settings.top}: at least one study must be asked for")
    if settings.save and Path(settings.save).exists() and not Path(settings.save).is_dir():
        raise ValueError(f"--save {settings.save!r}: is a file; it should be a folder")
    query = parse_query(settings.text)
    root = data_root(settings.root)

    from data_prep.truth import read_grades  # numpy, and so only now
    from vl_model.queries.answers import Reply, reply_json, reply_text
    from vl_model.queries.index import join, rank
    from vl_model.queries.run_index import available_splits, check_run, open_run_index

    truth = read_grades(Path(settings.truth)) if settings.truth else None
    check_run(root, settings.run)
    splits = available_splits(root, settings.run) if settings.split == "both" else [settings.split]
    index = join([open_run_index(root, settings.run, split) for split in splits])
    answers = rank(index, query, embed_rest(root, settings.run, query), settings.top)

    reply = Reply(query, settings.run, splits, index.studies, answers, truth)
    if settings.save:
        reply = replace(reply, files=save_answers(root, Path(settings.save), reply))
    print(json.dumps(reply_json(reply), indent=2) if settings.json else reply_text(reply))
    if settings.save and not settings.json:
        print(f"\nsaved       {Path(settings.save) / SHEET} and the crops beside it")


def embed_rest(root: DataRoot, run: str, query: Query) -> "NDArray[np.float32] | None":
    """(D,): the embedding of the words that were not understood; None where there are none, and no tower is loaded."""
    if not query.rest:
        return None
    from vl_model.model.site_model_files import load_site_model

    [text_D] = load_site_model(root.run(run) / "final").embed_texts([query.rest])
    embedding: NDArray[np.float32] = text_D.detach().float().cpu().numpy()
    return embedding


def save_answers(root: DataRoot, folder: Path, reply: "Reply") -> dict[int, tuple[Path, Path]]:
    """Write the crops and the sheet of all answers; rank -> the files of that answer."""
    from vl_model.queries.answer_sheet import read_picture, save_crops, save_sheet
    from vl_model.queries.answers import ranking_words

    query, answers = reply.query, reply.answers
    pictures = [read_picture(root.processed(split_of(answer)), answer) for answer in answers]
    saved = save_crops(answers, pictures, folder)
    subtitle = f"understood: {query.words or 'nothing that is graded'}   ·   ranked by {ranking_words(query)}"
    save_sheet(folder / SHEET, query.text, subtitle, answers, pictures, reply.truth)
    return {answer.rank: paths for answer, paths in zip(answers, saved, strict=True)}


def split_of(answer: "Answer") -> Split:
    return "train" if answer.split == "train" else "test"


if __name__ == "__main__":
    run_command(PROG, main)
