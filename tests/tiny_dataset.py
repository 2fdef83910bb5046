"""A small `processed_data` folder with visible severities, for the tests of training.

Each tile is smooth noise with a bright ellipse in the middle, the canal or foramen, which is smaller
for worse grades. Its brightness, and a second ellipse elsewhere, are independent of the grade.
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from data_prep.conversion.crop_geometry import CROP_SLICES, DEFAULT_CROPS
from data_prep.conversion.crops import write_crops
from data_prep.conversion.pairs import Pair, read_dataset, write_dataset
from data_prep.sites import SITES, Severity, Site, Source, View
from prompts.render import caption
from vl_model.data.site_rows import SiteRow, group_sites

#: Mean half-axis of the middle ellipse in pixels, by severity.
RADII = {Severity.NORMAL_MILD: 20.0, Severity.MODERATE: 14.0, Severity.SEVERE: 8.0}


def write_tiny_dataset(
    processed: Path, studies: int = 6, sites: tuple[Site, ...] = SITES, seed: int = 0, shift: float = 2.0
) -> None:
    """Write studies numbered from 1, with fold = study % 5; a tenth of the sites are unlabelled, some have one view."""
    generator = np.random.default_rng(seed)
    processed.mkdir(parents=True, exist_ok=True)
    pairs: list[Pair] = []
    tiles: list[np.ndarray] = []
    for study_id in range(1, studies + 1):
        for site in sites:
            severity = Severity(int(generator.choice(3, p=(0.6, 0.25, 0.15))))
            label = None if generator.random() < 0.1 else severity
            views = site.views[:1] if generator.random() < 0.15 else site.views
            for view in views:
                tiles.append(_tile(generator, severity, view, shift))
                pairs.append(_pair(study_id, site, view, label, len(pairs)))
    fingerprint = write_crops(processed, [np.stack(tiles)], len(tiles))
    fold_of = {str(pair.study_id): pair.fold for pair in pairs}
    metadata = {
        "split": "train",
        "study_ids": list(range(1, studies + 1)),
        "folds": {"count": len(set(fold_of.values())), "of_study": fold_of},
    }
    write_dataset(processed, metadata, pairs, fingerprint)


def _pair(study_id: int, site: Site, view: View, severity: Severity | None, crop: int) -> Pair:
    series_id = study_id * 10 + list(View).index(view)
    return Pair(
        study_id=study_id,
        site=site,
        view=view,
        series_id=series_id,
        instance_number=2,
        instance_numbers=(1, 2, 3),
        image=f"images/{study_id}/{series_id}/2.png",
        box=(10.0, 10.0, 90.0, 90.0),
        text=caption(site, severity),
        severity=severity,
        source=Source.ANNOTATED,
        fold=study_id % 5,
        crop=crop,
    )


def _tile(generator: np.random.Generator, severity: Severity, view: View, shift: float) -> np.ndarray:
    rows, columns = np.mgrid[: DEFAULT_CROPS.size, : DEFAULT_CROPS.size] - (DEFAULT_CROPS.size - 1) / 2
    noise = (
        gaussian_filter(generator.standard_normal((CROP_SLICES, DEFAULT_CROPS.size, DEFAULT_CROPS.size)), (0, 6, 6))
        * 150
    )
    image = 90 + noise
    radius = RADII[severity] * generator.normal(1, 0.1)
    aspect = 1.5 if view.is_sagittal else 0.8
    for centre, size, light in (
        (generator.normal(0, shift, 2), radius, 70),
        (generator.choice((-40, 40), 2) + generator.normal(0, 6, 2), generator.uniform(6, 20), 60),
    ):
        inside = ((rows - centre[0]) / aspect) ** 2 + (columns - centre[1]) ** 2 < size**2
        image += gaussian_filter(inside.astype(float), 1.5) * light * generator.uniform(0.7, 1.3)
    return np.clip(image * generator.uniform(0.8, 1.2), 0, 255).astype(np.uint8)


def graded_rows(root: Path) -> list[SiteRow]:
    """Return the labelled sites of a root's train split."""
    pairs = read_dataset(root / "train" / "processed_data").pairs
    return [row for row in group_sites(pairs) if row.severity is not None]
