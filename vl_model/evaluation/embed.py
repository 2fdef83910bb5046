"""Compute embeddings of sites and of sentences with a run's model.

Dimensions: B sites per batch, T tiles per site, N sites, V = 3 views in the order of `View`, S = 25 sites of a study,
C = 3 severities, D embedding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.conversion.crop_geometry import DEFAULT_CROPS, CropGeometry
from data_prep.sites import View
from vl_model.data.batches import load_batch
from vl_model.data.site_rows import SiteRow
from vl_model.model.site_model import SiteModel

_TEXTS_PER_BATCH = 256
_VIEWS = tuple(View)
#: Sites, severities, sentences.
Ensembles = Sequence[Sequence[Sequence[str]]]


@torch.inference_mode()
def embed_rows(
    model: SiteModel,
    rows: Sequence[SiteRow],
    crops: NDArray[np.uint8],
    batch_size: int,
    label: str | None = "embedding",
    geometry: CropGeometry = DEFAULT_CROPS,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return L2-normalised embeddings (N, D) of sites, and the weights (N, V) that the pooling gave to their views.

    The weight of a view is the sum of those of its tiles; the weights of a site sum to 1.

    Args:
        model: the model, whose device is used.
        rows: the sites, which do not influence one another.
        crops: (R, 3, H, W), the tiles that the rows refer to.
        batch_size: sites per forward pass.
        label: the name of the progress bar; None for no bar.
        geometry: the geometry of the crops.
    """
    towers = model.towers
    image_ND = np.zeros((len(rows), towers.embed_dim), dtype=np.float32)
    weight_NV = np.zeros((len(rows), len(View)), dtype=np.float32)
    with tqdm(total=len(rows), desc=label, unit="site", disable=not rows or label is None) as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            stored = load_batch(batch, crops, geometry=geometry).to(model.device)
            tiles = stored.tiles(towers.image_size, towers.mean, towers.std, model.settings.view_mm)
            image_BD, weight_BT = model.embed_and_weigh_sites(tiles, stored.mask_BT)
            image_ND[start : start + len(batch)] = image_BD.float().cpu().numpy()
            weight_NV[start : start + len(batch)] = _by_view(batch, weight_BT.float().cpu().numpy())
            bar.update(len(batch))
    return image_ND, weight_NV


def _by_view(rows: Sequence[SiteRow], weight_BT: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum (B, V) of the weights of each view's tiles."""
    weight_BV = np.zeros((len(rows), len(View)), dtype=np.float32)
    for weight_V, weight_T, row in zip(weight_BV, weight_BT, rows, strict=True):
        np.add.at(weight_V, [_VIEWS.index(view) for view in row.views], weight_T[: len(row.views)])
    return weight_BV


def embed_ensembles(model: SiteModel, ensembles: Ensembles) -> NDArray[np.float32]:
    """Return (S, C, D): per site and severity the L2-normalised mean of its sentences' embeddings."""
    return _means(_embed_distinct(model, ensembles), ensembles)


def embed_ensembles_and_wordings(
    model: SiteModel, ensembles: Ensembles
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return `embed_ensembles`, and (W, S, C, D) with each sentence alone: wording w is sentence w of each ensemble.

    An ensemble with fewer sentences begins again.
    """
    text_of = _embed_distinct(model, ensembles)
    longest = max(len(prompts) for site in ensembles for prompts in site)
    singles = [[[[prompts[w % len(prompts)]] for prompts in site] for site in ensembles] for w in range(longest)]
    return _means(text_of, ensembles), np.stack([_means(text_of, single) for single in singles])


def _embed_distinct(model: SiteModel, ensembles: Ensembles) -> dict[str, NDArray[np.float32]]:
    texts = list(dict.fromkeys(text for site in ensembles for prompts in site for text in prompts))
    batches = [texts[start : start + _TEXTS_PER_BATCH] for start in range(0, len(texts), _TEXTS_PER_BATCH)]
    text_KD = np.concatenate([model.embed_texts(batch).float().cpu().numpy() for batch in batches])
    return dict(zip(texts, text_KD, strict=True))


def _means(text_of: dict[str, NDArray[np.float32]], ensembles: Ensembles) -> NDArray[np.float32]:
    mean_SCD = np.array(
        [[np.stack([text_of[text] for text in prompts]).mean(axis=0) for prompts in site] for site in ensembles]
    )
    normalised: NDArray[np.float32] = mean_SCD / np.linalg.norm(mean_SCD, axis=-1, keepdims=True)
    return normalised
