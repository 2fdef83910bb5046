"""metrics.csv of runs that were interrupted and resumed."""

import csv
import math
from pathlib import Path

import pytest

from runs.metrics_csv import MetricsFile
from vl_model.training.trainer import METRICS


def test_the_first_loss_is_that_of_the_runs_first_step(tmp_path: Path) -> None:
    """Not that of the first step after a resume: a resumed run diverges at the same loss as an unbroken one."""
    path, columns = tmp_path / "metrics.csv", ["step", "loss"]
    file = MetricsFile(path, 0, columns)
    assert file.first("loss") is None
    for step, loss in enumerate((12.5, 6.0), start=1):
        file.write({"step": step, "loss": loss})
    file.close()
    assert MetricsFile(path, 1, columns).first("loss") == 12.5
    path.write_text(path.read_text().replace("12.5", "1x2"))
    with pytest.raises(ValueError, match=r"metrics.csv: is damaged \(its first loss is '1x2'\); delete it"):
        MetricsFile(path, 1, columns).first("loss")
    assert MetricsFile(path, 0, columns).first("loss") is None


def test_a_resumed_run_drops_the_rows_that_it_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "metrics.csv"
    first = MetricsFile(path, 0, METRICS)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": 1 / step})
    first.close()
    again = MetricsFile(path, 2, METRICS)
    again.write({"step": 3, "loss": math.pi})
    again.close()
    rows = list(csv.DictReader(path.open()))
    assert tuple(rows[0]) == METRICS and [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["loss"]) == math.pi and float(rows[1]["loss"]) == 0.5


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"step\nx\n", bytes(range(256))])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.csv: is damaged"):
        MetricsFile(path, 2, METRICS)
    assert path.read_bytes() == content
