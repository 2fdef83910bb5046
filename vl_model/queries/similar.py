"""Similar cases: the sites of other studies whose embeddings are most like that of one site.

Right sides are embedded as their mirror image (`data_prep.conversion.crops`), so that left and right are compared.
"""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from data_prep.sites import SITES, Site
from vl_model.data.site_table import SITE_INDEX
from vl_model.queries.nearest import Similar, nearest_sites
from vl_model.queries.segment import Segment


def similar_sites(
    segments: Sequence[Segment],
    study_id: int,
    site: Site,
    top: int,
    any_level: bool = False,
    seen: bool = True,
) -> list[Similar]:
    """Return the `top` studies with the most similar site of the same condition, left or right, best first.

    The study itself is left out; each other study appears once, with its most similar site.

    Args:
        segments: where to look. The site is taken from the first of them whose study of this id shows it; studies of
            the same id in other segments are other studies, and may be answers.
        study_id, site: the site that others are compared with.
        top: at least 1.
        any_level: whether sites of other levels are answers too.
        seen: whether studies that the model was trained on may be answers.

    Raises:
        ValueError: no segment contains the study, or no image of it shows the site.
        IndexRefused: a vector of a segment is damaged.
    """
    segment, row = _find(segments, study_id, site)
    vector_D = np.array(segment.vector_XSD[SITE_INDEX[site], row])
    sites = [
        index
        for index, other in enumerate(SITES)
        if other.condition is site.condition and (any_level or other.level is site.level)
    ]
    return nearest_sites(segments, sites, vector_D, top, left_out=(segment.name, study_id), seen=seen)


def _find(segments: Sequence[Segment], study_id: int, site: Site) -> tuple[Segment, int]:
    """Return the segment that shows the site, and the study's row in it."""
    found = [(segment, row) for segment in segments if (row := segment.row_of(study_id)) is not None]
    if not found:
        ids = [str(study) for segment in segments for study in segment.study_S.tolist()]
        names = " and ".join(repr(segment.name) for segment in segments)
        closest = get_close_matches(str(study_id), ids, n=1)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        raise ValueError(f"study {study_id}: not among the {len(ids)} studies of {names}{hint}")
    for segment, row in found:
        if segment.evidence(row, SITE_INDEX[site]):
            return segment, row
    raise ValueError(f"study {study_id}: no image shows its {site.words}, so that nothing can be compared with it")
