"""``predictions.csv``: all probabilities behind a report, one row per site, head and kind."""

from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.sites import SITE_COLUMNS, SITES, Severity, Site
from vl_model.calibration.prediction_sets import SET_LEVELS, Bits, set_column, set_words
from vl_model.data.site_table import UNLABELLED, Floats, SiteTable, row_keys, site_table
from vl_model.evaluation.cross_fitting import HeldOut, held_out_sets
from vl_model.evaluation.grader import HEADS, KINDS, HeadName, Kind
from vl_model.scoring.metrics import GRADES
from workspace.whole_files import replacing

Predictions = dict[tuple[HeadName, Kind], tuple[SiteTable, Floats]]


def site_columns(table: SiteTable) -> pd.DataFrame:
    """Return the columns study_id, condition, side and level, spelled as in every table of this project."""
    columns = [SITES[index].columns for index in table.site_N]
    return pd.DataFrame(
        {"study_id": table.study_N, **{name: [cells[name] or "" for cells in columns] for name in SITE_COLUMNS}}
    )


def write_predictions(path: Path, held_out: HeldOut, seed: int = 0) -> None:
    """Write held-out, cross-fitted probabilities, by rename; severity is empty if unlabelled.

    Rows of calibrated probabilities have prediction sets, cross-fitted too, in groups of this seed.
    """
    rows = site_columns(held_out.table)
    rows["severity"] = ["" if grade == UNLABELLED else GRADES[grade] for grade in held_out.table.severity_N]
    parts = []
    for (head, kind), prob_N3 in held_out.prob_N3.items():
        part = rows.assign(head=head, kind=kind)
        part = part.assign(**{grade: prob_N3[:, index] for index, grade in enumerate(GRADES)})
        set_N_of = held_out_sets(held_out, head, seed) if kind == "calibrated" else {}
        parts.append(part.assign(**{set_column(level): set_texts(set_N_of.get(level)) for level in SET_LEVELS}))
    with replacing(path) as partial:
        pd.concat(parts).to_csv(partial, index=False, float_format="%.9g", lineterminator="\n")


def set_texts(set_N: Bits | None) -> list[str] | str:
    """Return prediction sets as a column; an empty text if there are none."""
    if set_N is None:
        return ""
    words = [set_words(bits) for bits in range(8)]
    return [words[bits] for bits in set_N]


def read_predictions(path: Path) -> Predictions:
    """Read ``predictions.csv``. Raises ValueError if the file is missing or has another format."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys((*SITE_COLUMNS, "severity"), str))
        predictions: Predictions = {}
        for head in HEADS:
            for kind in KINDS:
                part = table[(table["head"] == head) & (table["kind"] == kind)]
                rows = part[["study_id", "severity", *SITE_COLUMNS]].itertuples(index=False)
                sites = site_table(
                    (
                        study_id,
                        Site.from_columns(dict(zip(SITE_COLUMNS, cells, strict=True))),
                        Severity.from_column(grade),
                    )
                    for study_id, grade, *cells in rows
                )
                predictions[head, kind] = sites, part[list(GRADES)].to_numpy(np.float64)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run python eval_vl.py --run {path.parent.name} first") from None
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a predictions.csv of this version ({error}); run eval_vl.py again") from None
    return predictions


def matched(held_out: HeldOut, theirs: SiteTable) -> tuple[list[int], list[int]]:
    """Return the row numbers of the graded sites that two runs both predicted: in ours, and in theirs.

    Raises ValueError if there are none, or if a site has two different labels.
    """
    graded = {key: row for row, key in enumerate(row_keys(theirs)) if theirs.severity_N[row] != UNLABELLED}
    ours = [row for row, key in enumerate(row_keys(held_out.table)) if held_out.table.labelled_N[row] and key in graded]
    if not ours:
        raise ValueError("the two runs held out different studies: they cannot be compared")
    keys = row_keys(held_out.table)
    others = [graded[keys[row]] for row in ours]
    if not np.array_equal(held_out.table.severity_N[ours], theirs.severity_N[others]):
        raise ValueError("the two runs have different labels of the same sites: evaluate both again")
    return ours, others
