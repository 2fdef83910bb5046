"""Segments of random studies for the tests of queries, with the pairs and embeddings that they are made from."""

from dataclasses import dataclass

import numpy as np

from data_prep.conversion.pairs import Pair, png_path
from data_prep.sites import SITES, Severity, Site, Source, View
from prompts.render import caption
from vl_model.queries.index import Segment, build_segment

FINGERPRINT = {"data": "d", "model": "m", "heads": "h", "embeddings": "e"}


@dataclass(frozen=True)
class Parts:
    """What a segment is made from: N imaged sites in some order, and their pairs in another."""

    study_ids: list[int]
    keys: list[tuple[int, Site]]
    image_ND: np.ndarray
    prob_N3: np.ndarray
    pairs: list[Pair]
    seen: list[int]
    weight_NV: np.ndarray | None

    def segment(self, name: str = "train") -> Segment:
        return build_segment(
            *(name, self.study_ids, self.keys, self.image_ND, self.prob_N3, self.pairs, self.seen, FINGERPRINT),
            weight_NV=self.weight_NV,
        )


def make_parts(seed: int = 0, studies: int = 12, dimensions: int = 8, first: int = 11) -> Parts:
    """Return studies of which a fifth of the sites is not imaged, some have one view, and the last has no image."""
    random = np.random.default_rng(seed)
    study_ids = [first + 7 * study for study in range(studies)]
    keys = [(study, site) for study in study_ids[:-1] for site in SITES if random.random() < 0.8]
    pairs = []
    for study, site in keys:
        views = site.views[:1] if random.random() < 0.2 else site.views[1:] if random.random() < 0.2 else site.views
        severity = None if random.random() < 0.2 else Severity(int(random.integers(3)))
        pairs += [_pair(random, study, site, view, severity) for view in views]
    image_ND = random.normal(size=(len(keys), dimensions)).astype(np.float32)
    image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
    prob_N3 = random.dirichlet([2, 1, 1], size=len(keys))
    order = random.permutation(len(keys))
    return Parts(
        study_ids=[int(study) for study in random.permutation(study_ids)],
        keys=[keys[row] for row in order],
        image_ND=image_ND[order],
        prob_N3=prob_N3[order],
        pairs=[pairs[row] for row in random.permutation(len(pairs))],
        seen=study_ids[::3],
        weight_NV=_weights([keys[row] for row in order], pairs),
    )


def _weights(keys: list[tuple[int, Site]], pairs: list[Pair]) -> np.ndarray:
    """Return weights (N, 3) of the views that have a pair: 0.7 and 0.3, or 1."""
    weight_NV = np.zeros((len(keys), len(View)), dtype=np.float32)
    shown = {(pair.study_id, pair.site, pair.view) for pair in pairs}
    for weight_V, (study, site) in zip(weight_NV, keys, strict=True):
        views = [view for view in site.views if (study, site, view) in shown]
        for view, weight in zip(views, (0.7, 0.3) if len(views) > 1 else (1.0,), strict=True):
            weight_V[list(View).index(view)] = weight
    return weight_NV


def _pair(random: np.random.Generator, study: int, site: Site, view: View, severity: Severity | None) -> Pair:
    series, instance = study * 10 + list(View).index(view), int(random.integers(1, 30))
    x0, y0, width, height = (float(x) for x in random.uniform(1, 50, 4))
    return Pair(
        study_id=study,
        site=site,
        view=view,
        series_id=series,
        instance_number=instance,
        instance_numbers=(instance - 1, instance, instance + 1),
        image=png_path(study, series, instance),
        box=(x0, y0, x0 + width, y0 + height),
        text=caption(site, severity),
        severity=severity,
        source=list(Source)[int(random.integers(3))],
        fold=0,
        crop=0,
    )
