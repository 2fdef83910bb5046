"""The locator's networks: every weight has a gradient; an image's heatmaps do not depend on the rest of its batch."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from locator.encoders import IMAGE_TOWER, PRETRAINED, load_pretrained, weights_sha256
from locator.files import BASE_WEIGHTS
from locator.network import LocatorNetwork, load_weights, new_network, save_weights
from tests.locator.lite0_base import write_base
from vl_model.towers.open_clip_towers import WEIGHTS_FILE
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
    """Neither a step nor batch statistics change it; every other weight learns."""
    tower = write_base(tmp_path)
    network = new_network(PRETRAINED)
    load_pretrained(network.sagittal.encoder, tmp_path)
    before = {name: tensor.clone() for name, tensor in network.sagittal.state_dict().items()}
    network.train()
    learning = [one for one in network.sagittal.parameters() if one.requires_grad]
    network({"sagittal": torch.rand(2, 3, 144, 112)})["sagittal"].logsumexp(2).sum().backward()
    assert all(one.grad is not None for one in learning)
    torch.optim.SGD(learning, 0.1).step()
    changed = {name for name, tensor in network.sagittal.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any(name.startswith("unet.encoder.") for name in changed)
    for name, tensor in network.sagittal.encoder.state_dict().items():
        torch.testing.assert_close(tensor, tower[name])
    own, other = network.sagittal.encoder, new_network(PRETRAINED).sagittal.encoder
    assert weights_sha256(own) == weights_sha256(own) != weights_sha256(other)


def test_a_base_without_such_an_image_tower_is_refused(tmp_path: Path) -> None:
    encoder = new_network(PRETRAINED).sagittal.encoder
    tower = write_base(tmp_path)
    problems: dict[str, dict[str, torch.Tensor] | bytes | None] = {
        "does not exist": None,
        "cannot be read": b"no weights",
        "has no tensor visual.trunk.bn1.bias": {name: one for name, one in tower.items() if name != "bn1.bias"},
        "visual.trunk.conv_stem.weight of the shape (1,)": {**tower, "conv_stem.weight": torch.zeros(1)},
    }
    for problem, content in problems.items():
        (tmp_path / BASE_WEIGHTS).unlink(missing_ok=True)
        if isinstance(content, bytes):
            (tmp_path / BASE_WEIGHTS).write_bytes(content)
        elif content is not None:
            save_file({IMAGE_TOWER + name: one.contiguous() for name, one in content.items()}, tmp_path / BASE_WEIGHTS)
        with pytest.raises(SettingError, match=f"{re.escape(str(tmp_path))}.*{re.escape(problem)}"):
            load_pretrained(encoder, tmp_path)


def test_a_base_of_the_packages_has_the_tensors_of_the_encoder(tmp_path: Path) -> None:
    """The locator knows the file's name and its tensors' without importing the modules that write it."""
    assert BASE_WEIGHTS == WEIGHTS_FILE
    arguments = ["--out", str(tmp_path / "base"), "--random_weights", "true", "--image_size", "64"]
    done = subprocess.run(
        [sys.executable, "-m", "vl_model.towers.packaged_bases", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    load_pretrained(new_network(PRETRAINED).sagittal.encoder, tmp_path / "base")
