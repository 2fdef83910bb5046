"""The locator's networks: every weight has a gradient; an image's heatmaps do not depend on the rest of its batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from locator.encoders import BASE_WEIGHTS, PRETRAINED, load_pretrained
from locator.locator import new_network
from locator.network import LocatorNetwork, load_weights, save_weights
from tests.locator.lite0_base import write_base
from workspace.setting_error import SettingError


@pytest.fixture(scope="module")
def network() -> LocatorNetwork:
    torch.manual_seed(0)
    return new_network()


def test_every_weight_has_a_gradient(network: LocatorNetwork) -> None:
    """A weight without one would stop a training of two processes at its second step."""
    logits = network({"sagittal": torch.rand(2, 3, 144, 112), "axial": torch.rand(2, 3, 96, 96)})
    (logits["sagittal"].logsumexp(2).sum() + logits["axial"].logsumexp(2).sum()).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_heatmaps_are_probabilities_and_depend_on_one_image_alone(network: LocatorNetwork) -> None:
    network.eval()
    images = torch.rand(3, 3, 144, 112)
    heatmaps = network.sagittal.heatmaps(images)
    assert heatmaps.shape == (3, 10, 144, 112)
    mass = heatmaps.sum(dim=(2, 3))
    assert (heatmaps >= 0).all() and (mass < 1).all() and (mass > 0.2).all()  # the rest is the probability of "absent"
    torch.testing.assert_close(network.sagittal.heatmaps(images[1:2])[0], heatmaps[1], atol=1e-6, rtol=1e-3)
    # The scanner's gain and offset have no effect.
    torch.testing.assert_close(network.sagittal.heatmaps(images * 200 + 30), heatmaps, atol=1e-5, rtol=1e-2)
    assert np.isfinite(network.sagittal.heatmaps(torch.zeros(1, 3, 144, 112))).all()


def test_saved_weights_load_again_and_damaged_files_are_refused(network: LocatorNetwork, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "w.safetensors")
    other = new_network()
    load_weights(other, tmp_path / "w.safetensors")
    for one, two in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:1000])
    for path in (tmp_path / "cut.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(ValueError, match=path.name):
            load_weights(other, path)


def test_a_pretrained_encoder_gets_the_base_s_weights_and_keeps_them(tmp_path: Path) -> None:
    """Neither a step nor batch statistics change it; what follows it learns."""
    tower = write_base(tmp_path)
    network = new_network(PRETRAINED)
    load_pretrained(network.sagittal.unet.encoder.model, tmp_path)
    before = {name: tensor.clone() for name, tensor in network.sagittal.state_dict().items()}
    network.train()
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], 0.1)
    network({"sagittal": torch.rand(2, 3, 144, 112)})["sagittal"].logsumexp(2).sum().backward()
    optimizer.step()
    changed = {name for name, tensor in network.sagittal.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any(name.startswith("unet.encoder.") for name in changed)
    stem = network.sagittal.unet.encoder.model.conv_stem.weight
    torch.testing.assert_close(stem, tower["conv_stem.weight"])


def test_a_base_without_such_an_image_tower_is_refused(tmp_path: Path) -> None:
    encoder = new_network(PRETRAINED).sagittal.unet.encoder.model
    save_file({"visual.trunk.conv_stem.weight": torch.zeros(1)}, tmp_path / BASE_WEIGHTS)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / BASE_WEIGHTS).write_bytes(b"no weights")
    for folder in (tmp_path, tmp_path / "none", tmp_path / "damaged"):
        with pytest.raises(SettingError, match=str(folder)):
            load_pretrained(encoder, folder)
