"""Sites and severities as integer columns, which metrics, heads and calibrators compute with.

There are N rows, each of one site of one study. A site is given as its index in `data_prep.sites.SITES` (0 to 24), a
severity as 0, 1, 2 or, if there is none, `UNLABELLED`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.sites import SITES, Condition, Level, Severity, Site

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

UNLABELLED = -1
CONDITIONS: tuple[Condition, ...] = tuple(Condition)
LEVELS: tuple[Level, ...] = tuple(Level)
SITE_INDEX: dict[Site, int] = {site: index for index, site in enumerate(SITES)}

#: Index in `CONDITIONS`, and in `LEVELS`, of each of the 25 sites.
CONDITION_OF_SITE: Ints = np.array([CONDITIONS.index(site.condition) for site in SITES], dtype=np.int64)
LEVEL_OF_SITE: Ints = np.array([LEVELS.index(site.level) for site in SITES], dtype=np.int64)


@dataclass(frozen=True)
class SiteTable:
    """Study id, site and severity of N rows, as int64 columns of one length."""

    study_N: Ints
    site_N: Ints
    severity_N: Ints

    def __post_init__(self) -> None:
        assert self.study_N.shape == self.site_N.shape == self.severity_N.shape == (len(self.study_N),)

    def __len__(self) -> int:
        return len(self.study_N)

    @property
    def condition_N(self) -> Ints:
        """Index in `CONDITIONS`: 0 spinal canal, 1 foraminal, 2 subarticular."""
        return CONDITION_OF_SITE[self.site_N]

    @property
    def level_N(self) -> Ints:
        """Index in `LEVELS`: 0 (L1-L2) to 4 (L5-S1)."""
        return LEVEL_OF_SITE[self.site_N]

    @property
    def labelled_N(self) -> Bools:
        return self.severity_N != UNLABELLED

    @property
    def study_ids(self) -> list[int]:
        """Distinct study ids in ascending order."""
        return [int(study) for study in np.unique(self.study_N)]

    def take(self, rows: NDArray[Any]) -> "SiteTable":
        """Return the rows that a mask or a list of row numbers selects, in that order."""
        return SiteTable(self.study_N[rows], self.site_N[rows], self.severity_N[rows])

    def without_grades(self, keys: Collection[tuple[int, Site]]) -> "SiteTable":
        """Return the table with the sites `keys`, (study id, site), unlabelled."""
        if not keys:
            return self
        indices = {(study_id, SITE_INDEX[site]) for study_id, site in keys}
        hidden_N = np.array([key in indices for key in row_keys(self)], dtype=bool)
        return SiteTable(self.study_N, self.site_N, np.where(hidden_N, UNLABELLED, self.severity_N))

    def of_studies(self, study_ids: Iterable[int]) -> Bools:
        """Return the mask of the rows that belong to these studies."""
        return np.isin(self.study_N, np.fromiter(study_ids, dtype=np.int64))


def site_table(rows: Iterable[tuple[int, Site, Severity | None]]) -> SiteTable:
    """Build a table from rows of (study id, site, severity or None)."""
    table = [(study, SITE_INDEX[site], UNLABELLED if grade is None else int(grade)) for study, site, grade in rows]
    column = np.array(table, dtype=np.int64).reshape(-1, 3)
    return SiteTable(column[:, 0].copy(), column[:, 1].copy(), column[:, 2].copy())


def full_table(study_ids: Iterable[int], known: SiteTable) -> SiteTable:
    """Return all 25 sites of each study, in the order of `study_ids` and `SITES`, with the severities in `known`."""
    study_S = np.fromiter(study_ids, dtype=np.int64)
    table = SiteTable(
        np.repeat(study_S, len(SITES)),
        np.tile(np.arange(len(SITES)), len(study_S)),
        np.full(len(study_S) * len(SITES), UNLABELLED, dtype=np.int64),
    )
    row_of = {key: row for row, key in enumerate(row_keys(table))}
    for key, severity in zip(row_keys(known), known.severity_N, strict=True):
        if key in row_of:
            table.severity_N[row_of[key]] = severity
    return table


def row_keys(table: SiteTable) -> list[tuple[int, int]]:
    """Return (study id, site) of each row, by which the rows of two tables are matched."""
    return list(zip(table.study_N.tolist(), table.site_N.tolist(), strict=True))
