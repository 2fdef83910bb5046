"""The vocabulary of grading: conditions, sides, levels, severities, views, and the 25 sites.

The spellings of the competition's tables and of this project's own are defined in this module alone. All
other modules read and write them through the enumerations and parsers below, so that a misspelt label can
never silently become a grade.

>>> site = parse_row_id_site("left_neural_foraminal_narrowing_l4_l5")
>>> site.condition, site.side, site.level
(<Condition.NEURAL_FORAMINAL_NARROWING: 'neural_foraminal_narrowing'>, <Side.LEFT: 'left'>, <Level.L4_L5: 'l4_l5'>)
>>> site.key
'left_neural_foraminal_narrowing_l4_l5'
>>> len(SITES), SITES[0].key, SUBMISSION_SITES[0].key
(25, 'spinal_canal_stenosis_l1_l2', 'left_neural_foraminal_narrowing_l1_l2')
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, TypeVar

#: The columns that name a site in every table and JSON file of this project (`Site.columns`).
SITE_COLUMNS = ("condition", "side", "level")


class Condition(StrEnum):
    """A graded condition, without its side."""

    SPINAL_CANAL_STENOSIS = "spinal_canal_stenosis"
    NEURAL_FORAMINAL_NARROWING = "neural_foraminal_narrowing"
    SUBARTICULAR_STENOSIS = "subarticular_stenosis"

    @property
    def words(self) -> str:
        """The condition as text: ``neural foraminal narrowing``."""
        return self.value.replace("_", " ")


class Side(StrEnum):
    """A side of the patient: left is +x in patient coordinates (LPS)."""

    LEFT = "left"
    RIGHT = "right"

    @property
    def other(self) -> "Side":
        """The opposite side."""
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


class Level(StrEnum):
    """An intervertebral level, from cranial to caudal."""

    L1_L2 = "l1_l2"
    L2_L3 = "l2_l3"
    L3_L4 = "l3_l4"
    L4_L5 = "l4_l5"
    L5_S1 = "l5_s1"

    @property
    def words(self) -> str:
        """The level as a radiologist writes it: ``L4-L5``."""
        return self.value.upper().replace("_", "-")


class Severity(IntEnum):
    """The competition's three grades, in increasing order."""

    NORMAL_MILD = 0
    MODERATE = 1
    SEVERE = 2

    @property
    def key(self) -> str:
        """The severity's spelling in the tables of this project: ``normal_mild``, ``moderate`` or ``severe``."""
        return self.name.lower()

    @property
    def label(self) -> str:
        """The severity's spelling in ``train.csv``: ``Normal/Mild``, ``Moderate`` or ``Severe``."""
        return self.key.replace("_", "/").title()

    @staticmethod
    def to_column(severity: "Severity | None") -> str | None:
        """Return the cell of a column ``severity``: a key, or None (an empty cell of a CSV file) if unlabelled."""
        return None if severity is None else severity.key

    @staticmethod
    def from_column(cell: str | None) -> "Severity | None":
        """Return the severity of a cell of a column ``severity``, the inverse of `to_column`; None for an empty cell.

        All spellings of `parse_severity` are accepted. Raises ValueError for other text.
        """
        return parse_severity(cell) if cell else None


class View(StrEnum):
    """A kind of series: its plane and weighting."""

    SAGITTAL_T1 = "sagittal_t1"
    SAGITTAL_T2_STIR = "sagittal_t2_stir"
    AXIAL_T2 = "axial_t2"

    @property
    def words(self) -> str:
        """The view's spelling in ``train_series_descriptions.csv``."""
        return _VIEW_WORDS[self]

    @property
    def is_sagittal(self) -> bool:
        """Whether the slices are sagittal; otherwise they are axial."""
        return self is not View.AXIAL_T2


class Source(StrEnum):
    """The origin of a site's position: a reader's mark, a locator or the atlas."""

    ANNOTATED = "annotated"
    LOCATED = "located"
    ATLAS = "atlas"


_VIEW_WORDS = {
    View.SAGITTAL_T1: "Sagittal T1",
    View.SAGITTAL_T2_STIR: "Sagittal T2/STIR",
    View.AXIAL_T2: "Axial T2",
}


@dataclass(frozen=True, order=True)
class Site:
    """One of the 25 graded sites of a study: a condition, a side (None for the canal) and a level."""

    condition: Condition
    side: Side | None
    level: Level

    def __post_init__(self) -> None:
        if (self.side is None) != (self.condition is Condition.SPINAL_CANAL_STENOSIS):
            side = "no side" if self.side is None else f"side {self.side.value!r}"
            raise ValueError(f"{self.condition} with {side}: the canal has no side, the other conditions have one")

    @property
    def columns(self) -> dict[str, str | None]:
        """The cells of the columns `SITE_COLUMNS`; for the canal, side is None (an empty cell of a CSV file).

        >>> SITES[0].columns
        {'condition': 'spinal_canal_stenosis', 'side': None, 'level': 'l1_l2'}
        >>> Site.from_columns({"study_id": "7", **SITES[0].columns}) == SITES[0]
        True
        """
        side = None if self.side is None else self.side.value
        return {"condition": self.condition.value, "side": side, "level": self.level.value}

    @classmethod
    def from_columns(cls, row: Mapping[str, Any]) -> "Site":
        """Return the site that the columns `SITE_COLUMNS` of a row name, the inverse of `columns`.

        A side that is None or empty is no side; a level may have any spelling of `parse_level`. Raises ValueError that
        quotes the cell and lists what is allowed, and KeyError for a row without one of the columns.
        """
        condition, side, level = (row[name] for name in SITE_COLUMNS)
        try:
            return _SITE_BY_CELLS[condition, side or None, level]  # as we write them: tables have 100,000s of rows
        except (KeyError, TypeError):
            pass
        return cls(_member(Condition, condition), _member(Side, side) if side else None, parse_level(str(level or "")))

    @property
    def key(self) -> str:
        """The site's column in ``train.csv``: ``left_neural_foraminal_narrowing_l4_l5``."""
        return f"{self.condition_key}_{self.level}"

    @property
    def condition_key(self) -> str:
        """The condition with its side: ``left_neural_foraminal_narrowing``."""
        return self.condition.value if self.side is None else f"{self.side}_{self.condition}"

    @property
    def words(self) -> str:
        """The site as text: ``L4-L5 left neural foraminal narrowing``."""
        side = "" if self.side is None else f"{self.side} "
        return f"{self.level.words} {side}{self.condition.words}"

    @property
    def mirrored(self) -> "Site":
        """The same site on the other side; the canal is its own mirror image."""
        return self if self.side is None else Site(self.condition, self.side.other, self.level)

    @property
    def views(self) -> tuple[View, View]:
        """The two views that show this site; readers mark it in the first."""
        return _SITE_VIEWS[self.condition]


_SITE_VIEWS = {
    Condition.SPINAL_CANAL_STENOSIS: (View.SAGITTAL_T2_STIR, View.AXIAL_T2),
    Condition.NEURAL_FORAMINAL_NARROWING: (View.SAGITTAL_T1, View.AXIAL_T2),
    Condition.SUBARTICULAR_STENOSIS: (View.AXIAL_T2, View.SAGITTAL_T2_STIR),
}

#: The 25 sites in the order of ``train.csv``'s columns.
SITES: tuple[Site, ...] = tuple(
    Site(condition, side, level)
    for condition, side in (
        (Condition.SPINAL_CANAL_STENOSIS, None),
        (Condition.NEURAL_FORAMINAL_NARROWING, Side.LEFT),
        (Condition.NEURAL_FORAMINAL_NARROWING, Side.RIGHT),
        (Condition.SUBARTICULAR_STENOSIS, Side.LEFT),
        (Condition.SUBARTICULAR_STENOSIS, Side.RIGHT),
    )
    for level in Level
)

#: The 25 sites in the order of ``sample_submission.csv``: by condition alphabetically, unlike ``train.csv``.
SUBMISSION_SITES: tuple[Site, ...] = tuple(sorted(SITES, key=lambda site: site.key))

_SITE_BY_CELLS = {tuple(site.columns.values()): site for site in SITES}
_SITE_BY_KEY = {site.key: site for site in SITES}
_SEVERITY_BY_LABEL = {severity.label.lower(): severity for severity in Severity}
_Word = TypeVar("_Word", bound=StrEnum)
_CONDITION_BY_WORDS = {site.condition_key.replace("_", " "): (site.condition, site.side) for site in SITES}


def _member(kind: type[_Word], cell: str) -> _Word:
    """Return the member of an enumeration that a cell spells. Raises ValueError that lists the members."""
    try:
        return kind(cell)
    except ValueError:
        raise ValueError(f"{cell!r} is not a {kind.__name__.lower()}; expected one of {', '.join(kind)}") from None


def parse_row_id_site(key: str) -> Site:
    """Return the site of a key such as ``left_subarticular_stenosis_l1_l2``. Raises ValueError for other text."""
    try:
        return _SITE_BY_KEY[key]
    except KeyError:
        raise ValueError(f"{key!r} is not a site; expected for example 'left_subarticular_stenosis_l4_l5'") from None


def parse_condition(text: str) -> tuple[Condition, Side | None]:
    """Return condition and side of text such as ``Left Neural Foraminal Narrowing``, in any case.

    ``train_label_coordinates.csv`` spells conditions in this way. Raises ValueError for other text.
    """
    words = " ".join(text.replace("_", " ").lower().split())
    try:
        return _CONDITION_BY_WORDS[words]
    except KeyError:
        raise ValueError(
            f"{text!r} is not a condition; expected one of {', '.join(w.title() for w in _CONDITION_BY_WORDS)}"
        ) from None


def parse_level(text: str) -> Level:
    """Return the level of ``L4/L5``, ``L4-L5`` or ``l4_l5``, in any case. Raises ValueError for other text."""
    try:
        return Level(text.strip().lower().replace("/", "_").replace("-", "_"))
    except ValueError:
        raise ValueError(f"{text!r} is not a level; expected one of {', '.join(x.words for x in Level)}") from None


def parse_severity(text: str) -> Severity:
    """Return the severity of a label or a key (`Severity`), in any case and with any spaces.

    Raises ValueError for other text.
    """
    words = text.strip().lower().replace(" ", "").replace("_", "/")
    try:
        return _SEVERITY_BY_LABEL[words]
    except KeyError:
        raise ValueError(
            f"{text!r} is not a severity; expected one of {', '.join(s.label for s in Severity)}"
        ) from None


def parse_view(text: str) -> View:
    """Return the view of ``Sagittal T2/STIR`` or ``sagittal_t2_stir``, in any case. Raises ValueError otherwise."""
    words = text.strip().lower().replace(" ", "_").replace("/", "_")
    try:
        return View(words)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a series description; expected one of {', '.join(v.words for v in View)}"
        ) from None
