"""Flags of query_vl.py that do not belong to the question are refused, never ignored."""

import pytest

from query_vl import UNUSED, Settings, check_settings

GIVEN = {"like": "1:canal, L4-L5", "queries": "q.yaml", "report": "r.txt", "serve": True}
VALUES = {"seen": True, "likeness": True, "top": 3, "least": 0.5, "json": True}


@pytest.mark.parametrize(("question", "flag"), [(question, flag) for question in UNUSED for flag in UNUSED[question]])
def test_a_flag_that_would_be_ignored_is_refused(question: str, flag: str) -> None:
    needed = {"queries": {"save": "folder"}, "report": {"study": "1"}}.get(question, {})
    given = {question: GIVEN[question], **needed, flag: VALUES.get(flag, "x")}
    with pytest.raises(ValueError, match=f"{flag} is not for --{question}"):
        check_settings(Settings(root="data", run="r", **given))
    del given[flag]
    check_settings(Settings(root="data", run="r", **given))
