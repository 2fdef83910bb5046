"""Answers to a query as a pandas table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from data_prep.sites import Severity
from vl_model.queries.index import Answer

COLUMNS = (
    *("rank", "study_id", "split", "condition", "side", "level", "probability"),
    *(severity.key for severity in Severity),
    *("likeness", "view", "series_id", "instance_number", "x0", "y0", "x1", "y1", "source", "image", "in_training"),
)


def answer_frame(answers: Sequence[Answer], processed: Mapping[str, Path]) -> pd.DataFrame:
    """Return one row per answer, with the columns `COLUMNS`.

    Args:
        answers: best first.
        processed: split -> its ``processed_data`` folder, which the paths in the column `image` start with.
    """
    rows = [
        {
            "rank": answer.rank,
            "study_id": answer.study_id,
            "split": answer.split,
            **{name: cell or "" for name, cell in answer.site.columns.items()},
            "probability": answer.score,
            **{severity.key: answer.probabilities[severity] for severity in Severity},
            "likeness": answer.likeness,
            "view": answer.view.value,
            "series_id": answer.series_id,
            "instance_number": answer.instance_number,
            **dict(zip(("x0", "y0", "x1", "y1"), answer.box, strict=True)),
            "source": answer.source.value,
            "image": str(processed[answer.split] / answer.image),
            "in_training": answer.in_training,
        }
        for answer in answers
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"probability": "float64", "likeness": "float64"})
