"""Plain attention against torch's kernel in every family of towers: outputs, gradients and memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.small_families import FAMILIES
from vl_model.towers import plain_attention
from vl_model.towers.plain_attention import use_plain_attention
from vl_model.towers.towers import load_towers, save_towers

TEXTS = ["L4-L5: severe", "mild stenosis at L1-L2"]


@pytest.mark.parametrize("many_tokens", [1, 1000], ids=["recomputed", "kept"])
@pytest.mark.parametrize("family", [*FAMILIES, "lumbar-tiny"])
def test_plain_attention_has_the_outputs_and_gradients_of_the_kernel(
    family: str,
    many_tokens: int,
    family_base: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Compare in float64, for captions with masks and images without."""
    monkeypatch.setattr(plain_attention, "MANY_TOKENS", many_tokens)
    torch.manual_seed(2)
    towers = load_towers(family if family == "lumbar-tiny" else family_base(family)).double()
    towers.eval()  # BERT has dropout
    image_N3HW = torch.randn(2, 3, towers.image_size, towers.image_size, dtype=torch.float64)
    token_NL = towers.tokenize(TEXTS)

    def outcome() -> list[Tensor]:
        towers.zero_grad()
        out_ND = torch.cat([towers.encode_images(image_N3HW), towers.encode_texts(token_NL)]).double()
        (out_ND * torch.linspace(-1, 1, out_ND.shape[1])).sum().backward()
        return [out_ND.detach(), *(p.grad.clone() for p in towers.parameters() if p.grad is not None)]

    kernel = outcome()
    use_plain_attention(towers)
    monkeypatch.delattr(F, "scaled_dot_product_attention")
    for before, after in zip(kernel, outcome(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    save_towers(towers, tmp_path / "saved")  # saved towers do not refer to it
    assert not any(plain_attention.PLAIN in file.read_text() for file in (tmp_path / "saved").glob("*.json"))


def test_long_sequences_keep_no_weights() -> None:
    """With 120 tokens the weights would be 2.7 times as large as queries, keys and values."""
    qkv = [torch.randn(2, 3, 120, 16, requires_grad=True) for _ in range(3)]
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        plain = plain_attention.plain_attention(*qkv)
    assert sum(kept.values()) == sum(tensor.numel() for tensor in qkv)
    assert torch.allclose(plain, F.scaled_dot_product_attention(*qkv), atol=1e-6)


def test_dropped_weights_are_scaled_up() -> None:
    qkv = [torch.randn(4, 2, 60, 8) for _ in range(2)] + [torch.ones(4, 2, 60, 8)]
    torch.manual_seed(0)
    dropped = plain_attention.plain_attention(*qkv, dropout=0.5)
    assert abs(float(dropped.mean()) - 1) < 0.05 and float(dropped.std()) > 0.1
