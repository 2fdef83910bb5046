"""Dropped sites: the suspect labels that a run leaves out of its training, as ``--drop_suspects FILE`` asks.

They are left out of what the adapters and the linear probe learn from, and of nothing else: rows of held-out studies
have no effect, and those studies are evaluated with all their labels.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.sites import Site, parse_row_id_site
from vl_model.data.site_rows import SiteRow
from vl_model.data.suspect_labels import ListedLabel, read_suspect_labels
from workspace.setting_error import SettingError

#: The share of the ranked sites that is left out by default.
DEFAULT_SHARE = 0.01
#: The entry of ``run.json`` and of ``site_model.json``.
DROPPED = "dropped_sites"


@dataclass(frozen=True)
class DroppedSites:
    """The sites that a run leaves out of its training.

    sites: their studies and sites. sha256: of all chosen rows, those without effect included, so that the runs of all
    folds share it. without_effect: the number of chosen rows whose study is held out.
    """

    sites: frozenset[tuple[int, Site]]
    sha256: str
    without_effect: int

    @property
    def words(self) -> str:
        """What is dropped, as a line for the log."""
        studies = len({study_id for study_id, _ in self.sites})
        held_out = f"; {self.without_effect} more are of held-out studies and have no effect"
        return (
            f"{len(self.sites)} sites of {studies} studies with suspect labels are left out of training"
            f"{held_out if self.without_effect else ''}"
        )

    @property
    def counts(self) -> dict[str, Any]:
        """The entry of ``run.json``."""
        return {"count": len(self.sites), "without_effect": self.without_effect, "sha256": self.sha256}

    @property
    def record(self) -> dict[str, Any]:
        """The entry of ``site_model.json``: the same, with every site."""
        return self.counts | {"sites": sorted([study_id, site.key] for study_id, site in self.sites)}

    def kept(self, rows: Iterable[SiteRow]) -> list[SiteRow]:
        """Return the rows that are not left out, in their order."""
        return [row for row in rows if (row.study_id, row.site) not in self.sites]


@dataclass(frozen=True)
class DropRequest:
    """What is to be dropped: the rows of a table whose rank is at most `first`, or within a share of the ranked sites.

    first: None: `share` decides.
    """

    path: Path
    share: float = DEFAULT_SHARE
    first: int | None = None

    def includes(self, label: ListedLabel) -> bool:
        """Whether a row is to be dropped."""
        return label.rank <= (round(self.share * label.graded_sites) if self.first is None else self.first)

    def choose(
        self, rows: Sequence[SiteRow], held_out_folds: Collection[int], dataset_fingerprint: str
    ) -> DroppedSites:
        """Return the sites to leave out.

        Args:
            rows: all labelled sites of the data set.
            held_out_folds: the folds that are not trained on.
            dataset_fingerprint: of this data set.

        Raises SettingError if the table is of another data set, names a site twice or one that the data set does not
        have, or another grade than the data set has, or if it has no effect on this training.
        """
        listed = read_suspect_labels(self.path)
        found = self._checked(listed, {(row.study_id, row.site): row for row in rows}, dataset_fingerprint)
        chosen = {key: row for key, (label, row) in found.items() if self.includes(label)}
        effective = {key for key, row in chosen.items() if row.fold not in held_out_folds}
        if not chosen:
            rule = f"share {self.share:g}" if self.first is None else f"first {self.first}"
            raise self._refusal(f"lists no site within the {rule}, so that nothing would be left out")
        if not effective:
            raise self._refusal(
                f"all {len(chosen)} chosen sites are of studies that are held out (folds {sorted(held_out_folds)}), "
                "from which nothing is learned anyway; give the list of runs that held out the other folds"
            )
        return DroppedSites(frozenset(effective), _sha256(chosen), len(chosen) - len(effective))

    def _checked(
        self, listed: Sequence[ListedLabel], row_of: Mapping[tuple[int, Site], SiteRow], dataset_fingerprint: str
    ) -> dict[tuple[int, Site], tuple[ListedLabel, SiteRow]]:
        """Return each row of the table with the site that it names; raises SettingError if there is none."""
        found: dict[tuple[int, Site], tuple[ListedLabel, SiteRow]] = {}
        for label in listed:
            if label.dataset_fingerprint != dataset_fingerprint:
                raise self._refusal(
                    f"{label.row} is of another data set ({label.dataset_fingerprint[:12]}) than this one "
                    f"({dataset_fingerprint[:12]}); evaluate runs of this one"
                )
            key = label.study_id, label.site
            row = row_of.get(key)
            if row is None:
                raise self._refusal(f"{label.row} names a site that the data set does not have, or has no grade of")
            if row.severity is not label.severity:
                known = "no grade" if row.severity is None else repr(row.severity.key)
                raise self._refusal(f"{label.row} has another grade than the data set, which says {known}")
            if key in found:
                raise self._refusal(f"{label.row} names a site that an earlier row has named")
            found[key] = label, row
        return found

    def _refusal(self, reason: str) -> SettingError:
        return SettingError("drop_suspects", f"{str(self.path)!r}: {reason}")


def recorded_sites(card: Mapping[str, Any]) -> frozenset[tuple[int, Site]]:
    """Return the sites that a run left out of its training, by its ``site_model.json``.

    Raises KeyError, TypeError or ValueError if the entry is damaged.
    """
    record = card.get(DROPPED)
    return frozenset((int(study), parse_row_id_site(key)) for study, key in record["sites"]) if record else frozenset()


def _sha256(chosen: Iterable[tuple[int, Site]]) -> str:
    """Return the digest of a set of sites; their grades are those of the data set."""
    return hashlib.sha256("\n".join(sorted(f"{study_id} {site.key}" for study_id, site in chosen)).encode()).hexdigest()
