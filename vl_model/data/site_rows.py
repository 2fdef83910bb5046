"""Sites of studies with their tiles: the rows of training batches, embeddings and predictions."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from data_prep.conversion.pairs import Pair
from data_prep.sites import Severity, Site, Source, View
from vl_model.data.site_table import SITE_INDEX


@dataclass(frozen=True)
class SiteRow:
    """One site of one study. Tile i is row `crops[i]` of ``crops.npy`` and shows the site in `views[i]`.

    offsets: the place of each tile along its (mirrored) stack, in tiles from the one at the site, which has 0; empty if
    all tiles lie at the site.
    """

    study_id: int
    site: Site
    severity: Severity | None
    fold: int | None
    source: Source
    crops: tuple[int, ...]
    views: tuple[View, ...]
    offsets: tuple[int, ...] = ()

    @property
    def lies_at_site(self) -> tuple[bool, ...]:
        """Whether each tile is the one at the site."""
        return tuple(offset == 0 for offset in self.offsets) or (True,) * len(self.crops)

    @property
    def caption(self) -> int | None:
        """Index of the caption among the 75; None if unlabelled."""
        return None if self.severity is None else caption_index(self.site, self.severity)


def caption_index(site: Site, severity: Severity) -> int:
    """Return the index k of a caption: site k // 3, in the order of `SITES`, and severity k % 3."""
    return SITE_INDEX[site] * len(Severity) + int(severity)


def evidence_of(pairs: Iterable[Pair]) -> dict[tuple[int, Site], Pair]:
    """Return one pair per study and site as its evidence: the pair in the view that readers mark the site in."""
    best: dict[tuple[int, Site], Pair] = {}
    for pair in pairs:
        known = best.setdefault((pair.study_id, pair.site), pair)
        if pair.site.views.index(pair.view) < pair.site.views.index(known.view):
            best[pair.study_id, pair.site] = pair
    return best


def group_sites(pairs: Iterable[Pair]) -> tuple[SiteRow, ...]:
    """Return one row per study and site of the pairs, by study id, then in the order of `SITES`.

    A row's tiles are in the order of `site.views`, which starts with the view that the site is marked in, and within a
    view in the order of the stack.
    """
    groups: dict[tuple[int, Site], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.study_id, pair.site].append(pair)
    keys = sorted(groups, key=lambda key: (key[0], SITE_INDEX[key[1]]))
    return tuple(_row(groups[key]) for key in keys)


def _row(pairs: list[Pair]) -> SiteRow:
    site = pairs[0].site
    ordered = sorted(pairs, key=lambda pair: (site.views.index(pair.view), pair.crop))
    first, offsets = ordered[0], tuple(offset for pair in ordered for offset in pair.offsets)
    return SiteRow(
        study_id=first.study_id,
        site=site,
        severity=first.severity,
        fold=first.fold,
        source=first.source,
        crops=tuple(crop for pair in ordered for crop in pair.crops),
        views=tuple(pair.view for pair in ordered for _ in pair.crops),
        offsets=offsets if any(offsets) else (),
    )
