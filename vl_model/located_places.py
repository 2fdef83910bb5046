"""The held-out studies, placed as new studies are: without a look at their marks.

Sites of new studies are where a locator or an atlas puts them, not where readers marked them. Each held-out study that
has marks is placed once more, by the run's own placer, and its regions are cut from the PNG files of
``processed_data``. The copy has the layout of ``processed_data`` without images, in ``checkpoints/<run>/located/``.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data_prep.conversion.crop_geometry import CROP_SLICES, CropGeometry
from data_prep.conversion.crops import Crop, write_crops
from data_prep.conversion.executors import open_pool
from data_prep.conversion.merge import region_pairs
from data_prep.conversion.pairs import Dataset, read_dataset, write_dataset
from data_prep.conversion.study_regions import crop_of, find_regions
from data_prep.placement.placer import Placer
from data_prep.placement.regions import Region
from data_prep.sites import Source
from locator.carried import placer_for_run
from locator.marked_studies import MarkedStudy, read_marked_studies
from locator.seen_studies import studies_seen
from prompts.render import caption
from vl_model.evaluation.embeddings import Embeddings
from vl_model.loaded_run import LoadedRun
from vl_model.run_embeddings import kept_embeddings

#: Increased if the same studies and placer give other regions than before.
VERSION = 1
LOCATED_FOLDER = "located"


@dataclass(frozen=True)
class Located:
    """Embeddings of held-out studies at places as in use, and how many sites were placed by what (`Source`).

    Studies without marks are placed so already: their embeddings are those of the train split.
    """

    embeddings: Embeddings
    sources: Mapping[str, int]


def embed_located(
    run: LoadedRun, dataset: Dataset, studies: Collection[int], marked: Embeddings, batch_size: int, workers: int
) -> Located | str:
    """Return the embeddings of these held-out studies at located places, or the reason in words why there are none.

    Args:
        run: the run, whose placer is used.
        dataset: the train split.
        studies: the ids of the studies.
        marked: the embeddings of the train split.
        batch_size: sites per forward pass.
        workers: processes that place studies.
    """
    annotated = {pair.study_id for pair in dataset.pairs if pair.source is Source.ANNOTATED} & set(studies)
    if not annotated:
        return "no held-out study has marks, so that all are placed as new studies are"
    placer = placer_for_run(run.root, run.folder, None)
    series_of: dict[int, set[int]] = defaultdict(set)
    for pair in dataset.pairs:
        series_of[pair.study_id].add(pair.series_id)
    seen = studies_seen(placer, {study: series_of[study] for study in annotated})
    if seen is None:
        return "the locator does not record which studies it was trained on; train it again with train_locator.py"
    if seen:
        return (
            f"the locator was trained on {len(seen)} of the {len(annotated)} held-out studies that have marks; train "
            "one that holds out the same folds"
        )
    processed = run.processed["train"]
    try:
        marked_studies = read_marked_studies(processed, {study: dataset.fold_of[study] for study in annotated})
    except ValueError as error:  # the tables are needed for nothing else here
        return str(error)
    folder = run.folder / LOCATED_FOLDER
    located = place_studies(marked_studies, dataset, processed, folder, placer, run.crops, workers)
    own = kept_embeddings(run, "located", located, folder, batch_size)
    unmarked = set(studies) - annotated
    others = [index for index, row in enumerate(marked.rows) if row.study_id in unmarked]
    rows = (*own.rows, *(marked.rows[index] for index in others))
    image_ND = np.concatenate([own.image_ND, marked.image_ND[others]])
    return Located(Embeddings(rows, image_ND, marked.fingerprint), Counter(row.source.value for row in rows))


def place_studies(
    studies: Sequence[MarkedStudy],
    dataset: Dataset,
    processed: Path,
    folder: Path,
    placer: Placer,
    geometry: CropGeometry,
    workers: int,
) -> Dataset:
    """Return the studies at the places that `placer` finds without their marks; `folder` keeps them and their crops.

    Nothing is done if the folder holds them already. Raises ValueError if an image cannot be read.
    """
    ids = [study.study_id for study in studies]
    made_from = (VERSION, dataset.fingerprint, placer.fingerprint, ids, geometry)
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()
    try:
        kept = read_dataset(folder)
        if kept.metadata.get("made_from") == key and (folder / "crops.json").is_file():
            return kept
    except ValueError:
        pass  # it is missing, damaged or of another version, and made again
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").unlink(missing_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".parts-") as parts:
        work = partial(_place_study, processed=processed, parts=Path(parts), placer=placer, geometry=geometry)
        with open_pool(min(workers, len(studies))) as pool:
            found = list(pool.map(work, studies, description="locating held-out studies", name=_name, weight=_weight))
        crops: Iterator[Crop] = (np.load(Path(parts) / f"{study}.npy", allow_pickle=False) for study in ids)
        tiles = [sum(region.tiles for region in own) for own in found]
        fingerprint = write_crops(folder, crops, sum(tiles), geometry)
    fold_of = {study.study_id: study.fold for study in studies}
    first_crops = np.cumsum([0, *tiles]).tolist()
    pairs = [
        pair
        for study, own, first_crop in zip(ids, found, first_crops, strict=False)
        for pair in region_pairs(study, own, caption, {}, fold_of[study], first_crop)
    ]
    folds = {"count": len(set(fold_of.values())), "of_study": {str(study): fold for study, fold in fold_of.items()}}
    write_dataset(folder, {"study_ids": ids, "folds": folds, "made_from": key}, pairs, fingerprint)
    return read_dataset(folder)


def _place_study(
    study: MarkedStudy, processed: Path, parts: Path, placer: Placer, geometry: CropGeometry
) -> list[Region]:
    """Return a study's regions at located places, and write their crops."""
    images = study.read(processed)
    regions, _ = find_regions(images, placer.place(images, {}), geometry.tiles_per_view)
    crops = [crop_of(images, found, geometry) for found in regions]
    none = np.zeros((0, CROP_SLICES, geometry.size, geometry.size), dtype=np.uint8)
    np.save(parts / f"{study.study_id}.npy", np.concatenate([none, *crops]))
    return regions


def _name(study: MarkedStudy) -> str:
    return f"study {study.study_id}"


def _weight(study: MarkedStudy) -> int:
    return study.lines.count("\n")
