"""Answers to a query as a pandas table."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from vl_model.calibration.study_answers import QUESTIONS
from vl_model.queries.reply import CSV_COLUMNS, Reply, answer_rows

COLUMNS = CSV_COLUMNS
_NUMBERS = (
    *("score", "probability", "likeness", "typicality", "x0", "y0", "x1", "y1"),
    *(f"p_{question}" for question in QUESTIONS),
)


def answer_frame(reply: Reply, processed: Mapping[str, Path]) -> pd.DataFrame:
    """Return one row per answer and site, with the columns `COLUMNS`.

    processed: split or kept set -> its ``processed_data`` folder, which the paths in the column `image` start with.
    """
    rows = answer_rows(reply)
    for row in rows:
        row["side"] = row["side"] or ""
        row["image"] = None if row["image"] is None else str(processed[row["split"]] / row["image"])
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(_NUMBERS, "float64"))
