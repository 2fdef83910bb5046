"""A run's model over sites and over sentences: where embeddings come from.

Dimensions: B sites a batch, T tiles a site, N sites, S = 25 sites of a study, C = 3 severities, D embedding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vl_model.rows import SiteRow
from vl_model.site_model import SiteModel
from vl_model.tiles import tiles_for_model

_TEXTS_A_BATCH = 256


@torch.inference_mode()
def embed_rows(
    model: SiteModel, rows: Sequence[SiteRow], crops: NDArray[np.uint8], batch_size: int, label: str = "embedding"
) -> NDArray[np.float32]:
    """(N, D), L2-normalised: each row's tiles, as `crops` (R, 3, H, W) holds them, through model and pooling.

    One progress bar, named `label`. The model decides the device; rows do not influence one another.
    """
    image_ND = np.zeros((len(rows), model.towers.embed_dim), dtype=np.float32)
    with tqdm(total=len(rows), desc=label, unit="site", disable=not rows) as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            crops_BT3HW, mask_BT = _padded(batch, crops)
            tiles = tiles_for_model(
                torch.from_numpy(crops_BT3HW).to(model.device),
                model.towers.image_size,
                model.towers.mean,
                model.towers.std,
            )
            image_BD = model.embed_sites(tiles, torch.from_numpy(mask_BT).to(model.device))
            image_ND[start : start + len(batch)] = image_BD.float().cpu().numpy()
            bar.update(len(batch))
    return image_ND


def embed_ensembles(model: SiteModel, ensembles: Sequence[Sequence[Sequence[str]]]) -> NDArray[np.float32]:
    """(S, C, D): for each site and severity the normalised mean of its sentences' embeddings."""
    texts = list(dict.fromkeys(text for site in ensembles for prompts in site for text in prompts))
    place = {text: row for row, text in enumerate(texts)}
    batches = [texts[start : start + _TEXTS_A_BATCH] for start in range(0, len(texts), _TEXTS_A_BATCH)]
    text_KD = np.concatenate([model.embed_texts(batch).float().cpu().numpy() for batch in batches])
    mean_SCD = np.array(
        [[text_KD[[place[text] for text in prompts]].mean(axis=0) for prompts in site] for site in ensembles]
    )
    normalised: NDArray[np.float32] = mean_SCD / np.linalg.norm(mean_SCD, axis=-1, keepdims=True)
    return normalised


def _padded(rows: Sequence[SiteRow], crops: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Tiles of a batch (B, T, 3, H, W), zeros where a site has fewer than the most, and where there is one."""
    tiles = max(len(row.crops) for row in rows)
    crops_BT3HW = np.zeros((len(rows), tiles, *crops.shape[1:]), dtype=np.uint8)
    mask_BT = np.zeros((len(rows), tiles), dtype=bool)
    for place, row in enumerate(rows):
        crops_BT3HW[place, : len(row.crops)] = crops[list(row.crops)]
        mask_BT[place, : len(row.crops)] = True
    return crops_BT3HW, mask_BT
