"""What clients of the API send: questions, trees, and notes."""

import re
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from prompts import tree as trees
from prompts.canonical import MAX_TOP, parse_canonical
from prompts.reading.parse import MAX_CHARACTERS, parse_query
from vl_model.page.reading_session import END_OF_IDENTIFIERS, MAX_NOTE, MAX_READER, READER, Verdict
from vl_model.queries.run_queries import Asked

#: A number that DICOM's UIDs, the competition's tables, or this program give to a study, a series or an instance.
Identifier = Annotated[int, Field(ge=0, lt=END_OF_IDENTIFIERS)]
SplitName = Annotated[str, Field(min_length=1, max_length=200)]
Top = Annotated[int, Field(ge=1, le=MAX_TOP)]
ReaderName = Annotated[str, Field(max_length=MAX_READER, pattern=READER)]
#: A canonical line.
Line = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class Question(BaseModel):
    """A text, or a canonical line, and how it is asked (`vl_model.queries.run_queries.Asked`).

    words: free words beside a line, which are compared with the images if `likeness` is set. page: how many answers
    are told if neither `top` nor the question says it.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "severe canal stenosis except L5-S1, without foraminal narrowing"},
                {"line": "any(left foramen, L4-L5) >= moderate; top 3", "seen": True},
            ]
        },
    )

    text: str | None = Field(default=None, max_length=MAX_CHARACTERS)
    line: str | None = Field(default=None, max_length=MAX_CHARACTERS)
    words: str | None = Field(default=None, max_length=MAX_CHARACTERS)
    split: SplitName | None = None
    top: Top | None = None
    page: Top | None = None
    least: float | None = Field(default=None, ge=0, le=1)
    seen: bool | None = None
    likeness: bool = False

    def query(self) -> trees.Query:
        """Return the question as it is read. Raises ValueError."""
        if (self.text is None) == (self.line is None):
            raise ValueError("ask by a text or by a line")
        if self.text is None:
            return replace(parse_canonical(self.line or ""), rest=" ".join((self.words or "").split()))
        if self.words is not None:
            raise ValueError("words are asked beside a line; a text has its own")
        return parse_query(self.text)

    def asked(self, query: trees.Query) -> Asked:
        """Return how the query of `query` is asked."""
        top = self.top or (self.page if query.limits.top is None else None)
        return Asked(self.split, top, self.least, self.seen, self.likeness)


class LimitsOfQuestion(BaseModel):
    """The limits that a question itself has, as ``query.said.limits`` of a reply tells them."""

    model_config = ConfigDict(extra="forbid")

    top: Top | None = None
    least: float | None = Field(default=None, ge=0, le=1)
    split: SplitName | None = None
    seen: bool | None = None
    count_first: bool = False

    def limits(self) -> trees.Limits:
        """Return the limits. Raises ValueError for a split that no line can name."""
        if self.split is not None and not re.fullmatch(r"[\w.-]+", self.split):
            raise ValueError(f"split {self.split!r}: not a name that a line can hold")
        return trees.Limits(**self.model_dump())


class TreeOfChips(BaseModel):
    """A tree as ``/api/read`` returns it, changed by a reader, and the limits of its question."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "tree": {
                        "finding": {
                            "over": "any",
                            "count": 0,
                            "sites": ["spinal_canal_stenosis_l4_l5"],
                            "severities": ["severe"],
                        }
                    }
                }
            ]
        },
    )

    tree: dict[str, Any]
    limits: LimitsOfQuestion = LimitsOfQuestion()


class NoteOnAnswer(BaseModel):
    """What a reader notes of one answer."""

    model_config = ConfigDict(extra="forbid")

    reader: ReaderName
    line: Line
    split: SplitName
    study_id: Identifier
    verdict: Verdict
    note: str = Field(default="", max_length=MAX_NOTE)
