"""data_prep/faults.py: every kind is explained, and docs/faults.md is up to date."""

from pathlib import Path

from data_prep.faults import FaultKind, markdown


def test_every_kind_has_a_meaning_and_what_is_done() -> None:
    unexplained = [kind.name for kind in FaultKind if not kind.meaning or not kind.done]
    assert not unexplained, f"explain these kinds in data_prep/faults.py: {unexplained}"
    assert all("|" not in kind.meaning + kind.done for kind in FaultKind)


def test_docs_faults_is_up_to_date() -> None:
    sheet = Path(__file__).parents[2] / "docs" / "faults.md"
    assert sheet.read_text(encoding="utf-8") == markdown(), "run python -m data_prep.faults > docs/faults.md"
