"""Images for timed trainings, one per site: crops.npy for train_vl.py, PNG files and a table for open_clip."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from data_prep.conversion.crop_geometry import CROP_SLICES, DEFAULT_CROPS
from data_prep.conversion.crops import Crop, write_crops
from data_prep.conversion.pairs import Pair, write_dataset
from data_prep.sites import SITES, Severity, Source
from prompts.render import caption

TABLE = "images.csv"
IMAGE_COLUMN, CAPTION_COLUMN = "image", "text"
#: Fold 0 is held out; it has one study, the smallest possible number.
FOLDS = 2


def write_training_images(root: Path, sites: int) -> None:
    """Write a data root, and a table of the same images as PNG files.

    The images are a sum of smooth and fine noise, which takes as long to decode as other images.

    Args:
        root: The data root.
        sites: Number of training sites, a multiple of 25. One more study is held out.
    """
    assert sites % len(SITES) == 0, sites
    processed, images = root / "train" / "processed_data", root / "png"
    processed.mkdir(parents=True)
    images.mkdir()
    pairs = _pairs(sites // len(SITES))
    tiles = _tiles(len(pairs))
    fingerprint = write_crops(processed, [tiles], len(tiles))
    fold_of = {str(pair.study_id): pair.fold for pair in pairs}
    metadata = {
        "split": "train",
        "study_ids": [int(study_id) for study_id in fold_of],
        "folds": {"count": FOLDS, "of_study": fold_of},
    }
    write_dataset(processed, metadata, pairs, fingerprint)
    table = root / TABLE
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([IMAGE_COLUMN, CAPTION_COLUMN])
        for pair, tile in zip(pairs, tiles, strict=True):
            if pair.fold:
                path = images / f"{pair.crop}.png"
                Image.fromarray(tile.transpose(1, 2, 0)).save(path)
                writer.writerow([path, pair.text])


def _pairs(studies: int) -> list[Pair]:
    """Return the pairs of study 0 in fold 0, and of `studies` further studies in fold 1."""
    draw = np.random.default_rng(0)
    return [
        Pair(
            study_id=study_id,
            site=site,
            view=site.views[0],
            series_id=study_id,
            instance_number=2,
            instance_numbers=(1, 2, 3),
            image=f"images/{study_id}/{study_id}/2.png",
            box=(0.0, 0.0, 96.0, 96.0),
            text=caption(site, severity),
            severity=severity,
            source=Source.ANNOTATED,
            fold=int(study_id > 0),
            crop=study_id * len(SITES) + number,
        )
        for study_id in range(studies + 1)
        for number, site in enumerate(SITES)
        for severity in [Severity(int(draw.choice(3, p=(0.8, 0.15, 0.05))))]
    ]


def _tiles(count: int) -> Crop:
    draw = np.random.default_rng(1)
    smooth = (
        gaussian_filter(
            draw.standard_normal((count, CROP_SLICES, DEFAULT_CROPS.size, DEFAULT_CROPS.size)), (0, 0, 8, 8)
        )
        * 600
    )
    fine = draw.normal(0, 4, smooth.shape)
    return np.clip(128 + smooth + fine, 0, 255).astype(np.uint8)
