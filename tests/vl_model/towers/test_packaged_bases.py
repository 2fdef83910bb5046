"""Base folders from packaged weights: the towers compute what the stock libraries compute with the same weights."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
import transformers
from torch import nn

from vl_model.towers import packaged_bases
from vl_model.towers.packaged_bases import OWN_PREFIX, TEXT_PREFIX, Settings, load_onnx, read_onnx, write_base
from vl_model.towers.towers import load_towers
from workspace.cli import run_command


@pytest.fixture(scope="module")
def image_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a classifier with random weights, under the names that the package's file has."""
    torch.manual_seed(7)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    tensors = {name: torch.rand_like(x.float()).to(x.dtype) for name, x in network.state_dict().items()}
    renamed = {name.replace("classifier.", "_fc."): x for name, x in tensors.items()}
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save({f"_{name}" if not name.startswith("_") else name: x for name, x in renamed.items()}, path)
    return path


def test_the_image_tower_has_the_weights_of_the_file(image_weights: Path, tmp_path: Path) -> None:
    write_base(tmp_path, Settings(out="unused", image_size=64, image_weights=str(image_weights)))
    towers = load_towers(f"local-dir:{tmp_path}", None)
    assert (towers.image_size, towers.mean, towers.std) == (64, (0.5,) * 3, (0.5,) * 3)
    given = torch.load(image_weights, weights_only=True)
    stock = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    stock.load_state_dict({name.removeprefix("_"): x for name, x in given.items() if not name.startswith("_fc")})
    image = torch.rand(2, 3, 64, 64)
    own: Any = towers.eval().clip.visual.trunk
    assert torch.equal(own(image), stock(image))
    assert towers.encode_texts(towers.tokenize(["severe", "normal"])).shape == (2, 256)


def test_random_weights_need_no_file_and_follow_the_seed(tmp_path: Path) -> None:
    states = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        torch.manual_seed(3)
        write_base(tmp_path / name, Settings(out="unused", image_size=32, random_weights=True))
        states.append(load_towers(f"local-dir:{tmp_path / name}", None).state_dict())
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


class Clip(nn.Module):
    """Holds a text tower under the names that open_clip gives it."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.text = nn.Module()
        self.text.transformer = bert


def bert(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, vocab_size=30
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def write_onnx(network: nn.Module, path: Path, left_out: str = "") -> None:
    """Write the tensors as an export does: transposed matrices of linear layers without a name, behind their bias."""
    linear = {f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    tensors, nodes = [], []
    for number, (name, x) in enumerate(network.state_dict().items()):
        values = x.numpy().copy()
        if name == left_out:
            continue
        if name not in linear:
            tensors.append(onnx.numpy_helper.from_array(values, TEXT_PREFIX + name))
            continue
        matrix, product = f"onnx::MatMul_{number}", f"product_{number}"
        tensors.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values.T), matrix))
        bias = TEXT_PREFIX + name.removesuffix(".weight") + ".bias"
        nodes.append(onnx.helper.make_node("MatMul", [f"in_{number}", matrix], [product]))
        nodes.append(onnx.helper.make_node("Add", [bias, product], [f"out_{number}"]))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "text", [], [], tensors)), path)


def test_the_text_tower_has_the_weights_of_an_onnx_file(tmp_path: Path) -> None:
    theirs, clip = bert(0), Clip(bert(1))
    write_onnx(theirs, tmp_path / "text.onnx")
    assert set(read_onnx(tmp_path / "text.onnx")) >= {TEXT_PREFIX + name for name in theirs.state_dict()}
    load_onnx(clip, tmp_path / "text.onnx")
    for name, x in theirs.state_dict().items():
        assert torch.equal(clip.state_dict()[OWN_PREFIX + name], x), name


def test_an_incomplete_text_file_is_refused(tmp_path: Path) -> None:
    write_onnx(bert(0), tmp_path / "text.onnx", left_out="encoder.layer.1.output.dense.weight")
    with pytest.raises(ValueError, match=r"no weights for text\.transformer\.encoder\.layer\.1\.output\.dense\.weight"):
        load_onnx(Clip(bert(1)), tmp_path / "text.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\xff not a model")
    with pytest.raises(ValueError, match="cannot be read as an ONNX file"):
        read_onnx(tmp_path / "broken.onnx")


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs the command with these flags, which it refuses, and returns what it prints."""

    def run(*flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["packaged_bases", "--out", str(tmp_path / "base"), *flags])
        with pytest.raises(SystemExit) as left:
            run_command(packaged_bases.PROG, packaged_bases.main)
        assert left.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--image_weights 'none.pth': no such file"),
        (b"text", "cannot be read as weights"),
        ({}, "are not the weights"),
    ],
)
def test_wrong_weights_are_refused(content: Any, message: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    name = "none.pth" if content is None else str(tmp_path / "weights.pth")
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        torch.save(content, name)
    assert message in refused("--image_weights", name)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--image_size", "100"), "--image_size 100: is no multiple of 32"),
        (("--vocabulary", "README.md", "--random_weights", "true"), "--vocabulary 'README.md': has"),
        (("--out", "tests"), "--out 'tests': exists already"),
    ],
)
def test_wrong_settings_are_refused(flags: tuple[str, ...], message: str, refused: Callable[..., str]) -> None:
    assert message in refused(*flags)
