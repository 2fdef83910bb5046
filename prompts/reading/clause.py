"""A clause: what a part of a query between "and", "or", commas, "without" and "except" says, before gaps are filled.

A clause is one finding. It is a fragment if it names no condition and no finding ("severe at L4-L5", "left").
"""

from dataclasses import dataclass, field

from data_prep.sites import Condition, Level, Side
from prompts.reading.piece import Grade
from prompts.tree import Over

#: The names of what a clause may say.
SLOTS = (
    *("conditions", "finding", "grade", "sides", "levels", "both", "all", "every", "count", "only", "unilateral"),
    *("worse", "elsewhere"),
)


@dataclass(frozen=True)
class Clause:
    """One clause; None and empty sets stand for what it does not say.

    joint: how it is joined to the clause before: '', 'and', 'or', 'with', 'comma' or 'but'. negated: it is denied;
    is_denied_too: by the "no" of a clause before. exception: its places are left out of the other clauses; without: the
    exceptions that are left out of this one. both: both sides of a level at once. count: so many levels.
    worse: the side or sides that are graded higher than the other. elsewhere: all levels but those of the clause
    before. ungraded: a word of it is not graded; is_ungraded: nothing else was asked, but its levels are those of the
    clauses around it. has_trailing_side: its side follows the finding; has_trailing_level: its level
    follows what it says.
    begins_with_level: its level, with a side, comes first. is_listed: it is a member of a list of levels whose last one
    says what it is about ("L3-L4 and L4-L5: severe canal stenosis").
    is_judged_after: its grade, or what denies it, follows its condition ("foramina are patent"), and holds for what is
    joined before it too. negates_all: the denial is of "all" or "every" ("not every level"). rest: the words that were
    not understood. start, end: its characters in the text.
    """

    joint: str = ""
    negated: bool = False
    is_denied_too: bool = False
    exception: bool = False
    without: tuple["Clause", ...] = ()
    conditions: frozenset[Condition] = frozenset()
    finding: bool = False
    grade: Grade | None = None
    sides: frozenset[Side] = frozenset()
    levels: frozenset[Level] = frozenset()
    both: bool = False
    all: bool = False
    every: bool = False
    count: tuple[Over, int] | None = None
    fewer: bool = False
    only: bool = False
    unilateral: bool = False
    worse: frozenset[Side] = frozenset()
    elsewhere: bool = False
    ungraded: bool = False
    is_ungraded: bool = False
    has_trailing_side: bool = False
    has_trailing_level: bool = False
    begins_with_level: bool = False
    is_listed: bool = False
    is_judged_after: bool = False
    negates_all: bool = False
    rest: tuple[tuple[int, int], ...] = ()
    start: int = -1
    end: int = -1
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_fragment(self) -> bool:
        """Whether it names no condition and no finding."""
        return not self.conditions and not self.finding

    @property
    def is_empty(self) -> bool:
        """Whether nothing graded is asked by it."""
        return self.is_ungraded or not self.said

    @property
    def said(self) -> frozenset[str]:
        """The names of what it says."""
        return frozenset(name for name in SLOTS if getattr(self, name))

    @property
    def denies(self) -> bool:
        """Whether it asks that all of its sites are free of something."""
        return self.negated or (self.grade is not None and self.grade.is_all)

    @property
    def is_place(self) -> bool:
        """Whether it names places and nothing else."""
        return bool(self.said) and self.said <= {"levels", "sides", "both", "conditions", "elsewhere"}
