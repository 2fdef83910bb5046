"""Embeddings: independent of the batch, written and read, refused if they belong to other weights or data."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.conversion.crops import open_crops
from data_prep.conversion.pairs import read_dataset
from data_prep.sites import SITES, Severity, View
from prompts.render import zero_shot_prompts
from vl_model.data.site_rows import SiteRow, group_sites
from vl_model.data.site_table import full_table, site_table
from vl_model.data.tiles import tiles_for_model
from vl_model.evaluation.embed import embed_ensembles, embed_ensembles_and_wordings, embed_rows
from vl_model.evaluation.embeddings import (
    Embeddings,
    TextEmbeddings,
    fingerprint,
    prompts_fingerprint,
    read_embeddings,
    read_text_embeddings,
    write_embeddings,
    write_text_embeddings,
)
from vl_model.model.settings import ModelSettings
from vl_model.model.site_model import SiteModel, build_site_model


@pytest.fixture(scope="module")
def model(tiny_base: str) -> SiteModel:
    torch.manual_seed(0)
    model = build_site_model(ModelSettings(tiny_base)).eval()
    with torch.no_grad():
        model.pooling.query_D.normal_()  # so that a padded tile would show
    return model


def rows_and_crops(root: Path) -> tuple[tuple[SiteRow, ...], np.ndarray]:
    processed = root / "train" / "processed_data"
    return group_sites(read_dataset(processed).pairs), open_crops(processed)


def test_a_batch_gives_the_embeddings_of_single_sites(model: SiteModel, tiny_root: Path) -> None:
    rows, crops = rows_and_crops(tiny_root)
    rows = rows[:37]
    assert {len(row.crops) for row in rows} == {1, 2}
    image_ND, weight_NV = embed_rows(model, rows, crops, batch_size=10)
    for place in (0, 9, 10, 36, *[i for i, row in enumerate(rows) if len(row.crops) == 1][:3]):
        tile_1T3HW = torch.from_numpy(crops[list(rows[place].crops)])[None]
        towers = model.towers
        tiles = tiles_for_model(tile_1T3HW, towers.image_size, towers.mean, towers.std)
        with torch.no_grad():
            alone = model.embed_sites(tiles, torch.ones(tiles.shape[:2], dtype=torch.bool))[0].numpy()
        assert image_ND[place] == pytest.approx(alone, abs=1e-5)
        assert weight_NV[place] == pytest.approx(pooled_by_hand(model, tiles[0], rows[place]), abs=1e-5)
    assert np.linalg.norm(image_ND, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    assert weight_NV.sum(axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)


def test_the_weight_of_a_view_is_the_sum_of_its_tiles(model: SiteModel, tiny_root: Path) -> None:
    rows, crops = rows_and_crops(tiny_root)
    row = next(row for row in rows if len(row.crops) == 2 and row.views[0] is not row.views[1])
    longer = replace(row, crops=(*row.crops, row.crops[0]), views=(*row.views, row.views[0]))
    [weight_V] = embed_rows(model, [longer], crops, batch_size=4)[1]
    tile_T3HW = torch.from_numpy(crops[list(longer.crops)])
    towers = model.towers
    tiles = tiles_for_model(tile_T3HW[None], towers.image_size, towers.mean, towers.std)[0]
    assert weight_V == pytest.approx(pooled_by_hand(model, tiles, longer), abs=1e-5)


def pooled_by_hand(model: SiteModel, tile_T3HW: torch.Tensor, row: SiteRow) -> list[float]:
    """Return the weight of each view of `View`: the softmax of each tile's score, one tile at a time."""
    with torch.no_grad():
        tiles = [model.towers.encode_images(tile[None])[0] for tile in tile_T3HW]
    scores = [float(tile @ model.pooling.query_D.detach()) * len(tile) ** 0.5 for tile in tiles]
    shares = np.exp(scores) / np.exp(scores).sum()
    return [sum(share for share, of in zip(shares, row.views, strict=True) if of is view) for view in View]


def test_without_rows_there_are_no_embeddings(model: SiteModel, tiny_root: Path) -> None:
    _, crops = rows_and_crops(tiny_root)
    image_ND, weight_NV = embed_rows(model, [], crops, batch_size=4)
    assert image_ND.shape == (0, model.towers.embed_dim) and weight_NV.shape == (0, 3)


def test_an_ensemble_is_the_normalised_mean_of_its_prompts(model: SiteModel) -> None:
    ensembles = [[zero_shot_prompts(site, severity) for severity in Severity] for site in SITES]
    text_SCD = embed_ensembles(model, ensembles)
    assert text_SCD.shape == (25, 3, model.towers.embed_dim)
    for site, severity in ((0, 2), (13, 0), (24, 1)):
        mean = model.embed_texts(ensembles[site][severity]).numpy().mean(axis=0)
        assert text_SCD[site, severity] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    again_SCD, wording_WSCD = embed_ensembles_and_wordings(model, ensembles)
    assert np.array_equal(again_SCD, text_SCD) and len(wording_WSCD) == 4
    alone = model.embed_texts([ensembles[7][1][2]]).numpy()[0]
    assert wording_WSCD[2, 7, 1] == pytest.approx(alone / np.linalg.norm(alone), abs=1e-5)


def test_embeddings_are_written_and_read(tmp_path: Path, tiny_root: Path) -> None:
    rows, _ = rows_and_crops(tiny_root)
    mark = {"checkpoint": "a", "dataset": "b"}
    random = np.random.default_rng(0)
    image_ND = random.normal(size=(len(rows), 8)).astype(np.float32)
    kept = Embeddings(rows, image_ND, mark, random.dirichlet([1, 1, 1], len(rows)).astype(np.float32))
    write_embeddings(tmp_path, kept)
    read = read_embeddings(tmp_path, mark)
    assert read.rows == rows and np.array_equal(read.image_ND, kept.image_ND)
    assert np.array_equal(read.weight_NV, kept.weight_NV)
    files = ["embeddings.json", "image.npy", "rows.json", "weights.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    write_embeddings(tmp_path, replace(kept, weight_NV=None))
    assert np.isnan(read_embeddings(tmp_path, mark).weight_NV).all()
    ones_WSCD = np.ones((2, 25, 3, 8), dtype=np.float32)
    texts = TextEmbeddings(ones_WSCD[0], 14.0, {"checkpoint": "a", "prompts": "p"}, ones_WSCD)
    write_text_embeddings(tmp_path / "prompts", texts)
    assert read_text_embeddings(tmp_path / "prompts", texts.fingerprint).logit_scale == 14.0
    with pytest.raises(ValueError, match="other prompts"):
        read_text_embeddings(tmp_path / "prompts", {"checkpoint": "a", "prompts": "q"})


def test_damaged_embeddings_and_those_of_others_are_refused(tmp_path: Path, tiny_root: Path) -> None:
    rows, _ = rows_and_crops(tiny_root)
    mark = {"checkpoint": "a", "dataset": "b"}
    with pytest.raises(ValueError, match=r"no such file; eval_vl\.py writes it"):
        read_embeddings(tmp_path, mark)
    write_embeddings(tmp_path, Embeddings(rows[:3], np.zeros((3, 4), dtype=np.float32), mark))
    for name in mark:
        with pytest.raises(ValueError, match=f"another {name}"):
            read_embeddings(tmp_path, mark | {name: "x"})
    np.save(tmp_path / "image.npy", np.zeros((2, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="the shape of the embeddings"):
        read_embeddings(tmp_path, mark)
    np.save(tmp_path / "weights.npy", np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="the shape of the weights"):
        read_embeddings(tmp_path, mark)
    (tmp_path / "image.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        read_embeddings(tmp_path, mark)
    (tmp_path / "rows.json").write_text(json.dumps([{"study_id": 1}]))
    with pytest.raises(ValueError, match="cannot be read"):
        read_embeddings(tmp_path, mark)


def test_the_fingerprint_depends_on_weights_and_settings(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    (tmp_path / "site_model.json").write_text("{}")
    first = fingerprint(tmp_path, "data")
    (tmp_path / "README.md").write_text("nothing that matters")
    assert fingerprint(tmp_path, "data") == first
    (tmp_path / "site_model.json").write_text("{ }")
    second = fingerprint(tmp_path, "data")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"two")
    assert len({mark["checkpoint"] for mark in (first, second, fingerprint(tmp_path, "data"))}) == 3
    assert prompts_fingerprint([[["a"]]]) != prompts_fingerprint([[["b"]]])


def test_rows_of_a_table_and_of_sites_without_an_image(tiny_root: Path) -> None:
    rows, _ = rows_and_crops(tiny_root)
    fewer = Embeddings(rows[5:], np.zeros((len(rows) - 5, 2), dtype=np.float32), {})
    table = full_table([rows[0].study_id], site_table([]))
    assert fewer.rows_of(table).tolist() == [-1] * 5 + list(range(20))
    assert replace(fewer, rows=()).rows_of(table).tolist() == [-1] * 25
