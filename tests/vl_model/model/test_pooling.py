"""Pooling of tiles: its start, its learned weights, masks and precision."""

import torch
import torch.nn.functional as F

from vl_model.model.pooling import TilePooling


def tiles(sites: int = 3, count: int = 4, dimensions: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(sites, count, dimensions), dim=-1)


def test_starts_as_the_plain_mean() -> None:
    tile_BTD = tiles()
    mask_BT = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    pooled, weight_BT = TilePooling(8)(tile_BTD, mask_BT)
    for site in range(3):
        mean = tile_BTD[site, mask_BT[site]].mean(dim=0)
        assert torch.allclose(pooled[site], mean / mean.norm(), atol=1e-6)
    assert torch.allclose(weight_BT, mask_BT / mask_BT.sum(dim=1, keepdim=True))


def test_autocast_rounds_nothing() -> None:
    pooling = TilePooling(8)
    torch.nn.init.normal_(pooling.query_D)
    tile_BTD, mask_BT = tiles(), torch.ones(3, 4).bool()
    expected, weight_BT = pooling(tile_BTD, mask_BT)
    with torch.autocast("cpu", torch.bfloat16):
        again, weight_again_BT = pooling(tile_BTD, mask_BT)
    assert torch.equal(again, expected) and torch.equal(weight_again_BT, weight_BT)


def test_one_tile_is_returned_whatever_was_learned() -> None:
    pooling = TilePooling(8)
    torch.nn.init.normal_(pooling.query_D)
    tile_BTD = tiles()
    mask_BT = torch.zeros(3, 4).bool()
    mask_BT[:, 2] = True
    assert torch.allclose(pooling(tile_BTD, mask_BT)[0], tile_BTD[:, 2], atol=1e-6)


def test_learned_weights_are_the_softmax_of_the_scores() -> None:
    pooling = TilePooling(8)
    torch.nn.init.normal_(pooling.query_D)
    tile_BTD = tiles(sites=1)
    scores = [(pooling.query_D @ tile_BTD[0, t]).item() * 8**0.5 for t in range(3)]
    weights = torch.tensor(scores).exp() / torch.tensor(scores).exp().sum()
    expected = sum(weights[t] * tile_BTD[0, t] for t in range(3))
    mask_BT = torch.tensor([[True, True, True, False]])
    [pooled], [weight_T] = pooling(tile_BTD, mask_BT)
    assert torch.allclose(pooled, expected / expected.norm(), atol=1e-6)
    assert torch.allclose(weight_T[:3], weights, atol=1e-6) and weight_T[3] == 0


def test_masked_tiles_get_no_gradient_and_the_query_does() -> None:
    pooling, tile_BTD = TilePooling(8), tiles().requires_grad_()
    mask_BT = torch.ones(3, 4).bool()
    mask_BT[:, 3] = False
    pooling(tile_BTD, mask_BT)[0][:, 0].sum().backward()
    assert not tile_BTD.grad[:, 3].any() and tile_BTD.grad[:, :3].abs().sum() > 0
    assert pooling.query_D.grad.abs().sum() > 0
