"""The locator's networks: every weight learns, and what a batch holds beside a picture does not change its maps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from locator.locator import new_network
from locator.network import LocatorNetwork, load_weights, save_network


@pytest.fixture(scope="module")
def network() -> LocatorNetwork:
    torch.manual_seed(0)
    return new_network()


def test_every_weight_gets_a_gradient(network: LocatorNetwork) -> None:
    """One that does not would stop two processes at their second step."""
    sagittal, axial = network(torch.rand(2, 3, 144, 112), torch.rand(2, 3, 96, 96))
    (sagittal.logsumexp(2).sum() + axial.logsumexp(2).sum()).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_maps_are_probabilities_of_one_picture_alone(network: LocatorNetwork) -> None:
    network.eval()
    pictures = torch.rand(3, 3, 144, 112)
    maps = network.sagittal.places(pictures)
    assert maps.shape == (3, 10, 144, 112)
    mass = maps.sum(dim=(2, 3))
    assert (maps >= 0).all() and (mass < 1).all() and (mass > 0.2).all()  # "not here" has the rest
    torch.testing.assert_close(network.sagittal.places(pictures[1:2])[0], maps[1], atol=1e-6, rtol=1e-3)
    # Neither the scanner's gain nor its offset counts.
    torch.testing.assert_close(network.sagittal.places(pictures * 200 + 30), maps, atol=1e-5, rtol=1e-2)
    assert np.isfinite(network.sagittal.places(torch.zeros(1, 3, 144, 112))).all()


def test_weights_come_back_and_others_are_refused(network: LocatorNetwork, tmp_path: Path) -> None:
    save_network(network, tmp_path / "w.safetensors")
    other = new_network()
    load_weights(other, tmp_path / "w.safetensors")
    for one, two in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:1000])
    for path in (tmp_path / "cut.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(ValueError, match=path.name):
            load_weights(other, path)
