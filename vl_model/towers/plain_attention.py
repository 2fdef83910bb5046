"""Attention as matrix products and a softmax: what bf16 training on the CPU uses in the place of torch's fused kernel.

There the way back through torch 2.15's kernel takes 40 to 160 ms where products take 6 to 46 (ViT-B-32's 50 tokens,
ViT-B-16's 197, and captions); rounding errors grow by a third to a half, and stay bf16's. In float32 both are as fast.
Long sequences' weights are computed again on the way back instead of being kept, one sequence after the other, so that
they stay in the processor's cache.

Dimensions: N sequences, H heads, L tokens, d width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: From so many tokens on the weights of all heads take more memory than all else that a block keeps of its attention.
MANY_TOKENS = 100
#: The name under which transformers knows `plain_attention`.
PLAIN = "lumbar_plain"


def use_plain_attention(module: nn.Module) -> None:
    """Attention inside `module`, ours, timm's and transformers', as plain products."""
    child: Any
    for child in module.modules():
        if isinstance(getattr(child, "uses_kernel", None), bool):  # `vl_model.towers.separate_attention`
            child.uses_kernel = False
        elif isinstance(getattr(child, "fused_attn", None), bool):  # timm's own switch
            child.fused_attn = False
        elif hasattr(child, "set_attn_implementation"):
            _tell_transformers()
            child.set_attn_implementation(PLAIN)


def plain_attention(
    q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, attn_mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """`F.scaled_dot_product_attention`; `attn_mask` is added to the scores."""
    if attn_mask is None and not dropout and k_NHLd.shape[-2] >= MANY_TOKENS:
        mixed_NHLd: Tensor = _Recomputed.apply(q_NHLd, k_NHLd, v_NHLd)
        return mixed_NHLd
    scores_NHLL = _scaled(q_NHLd) @ k_NHLd.transpose(-2, -1)
    if attn_mask is not None:
        scores_NHLL = scores_NHLL + attn_mask
    return F.dropout(_weights(scores_NHLL).to(v_NHLd.dtype), dropout) @ v_NHLd


class _Recomputed(torch.autograd.Function):
    """Keeps queries, keys and values alone. With weights P = softmax(S), S = q k' / sqrt(d) and G the gradient at P v:

    dv = P' G,  dP = G v',  dS = P (dP - sum_over_keys(dP P)),  dq = dS k / sqrt(d),  dk = dS' q / sqrt(d)
    """

    @staticmethod
    def forward(ctx: Any, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor) -> Tensor:
        ctx.save_for_backward(q_NHLd, k_NHLd, v_NHLd)
        mixed_NHLd = _like_blocks_want_it(q_NHLd)
        for q_HLd, k_HLd, v_HLd, mixed_HLd in zip(q_NHLd, k_NHLd, v_NHLd, mixed_NHLd, strict=True):
            weights_HLL = _weights(_scaled(q_HLd) @ k_HLd.transpose(-2, -1)).to(v_HLd.dtype)
            mixed_HLd.copy_(weights_HLL @ v_HLd)
        return mixed_NHLd

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_NHLd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = ctx.saved_tensors
        found = tuple(_like_blocks_want_it(tensor) for tensor in inputs)
        for place, gradient_HLd in enumerate(gradient_NHLd):
            q_HLd, k_HLd, v_HLd = (tensor[place] for tensor in inputs)
            dq_HLd, dk_HLd, dv_HLd = (tensor[place] for tensor in found)
            q_HLd = _scaled(q_HLd)
            weights_HLL = _weights(q_HLd @ k_HLd.transpose(-2, -1))
            dv_HLd.copy_(weights_HLL.to(v_HLd.dtype).transpose(-2, -1) @ gradient_HLd)
            dweights_HLL = (gradient_HLd @ v_HLd.transpose(-2, -1)).to(weights_HLL.dtype)
            dscores_HLL = torch.ops.aten._softmax_backward_data(dweights_HLL, weights_HLL, -1, weights_HLL.dtype)
            dscores_HLL = dscores_HLL.to(q_HLd.dtype)
            dq_HLd.copy_(_scaled(dscores_HLL @ k_HLd))
            dk_HLd.copy_(dscores_HLL.transpose(-2, -1) @ q_HLd)
        return found[0], found[1], found[2]


def _scaled(q_NHLd: Tensor) -> Tensor:
    return q_NHLd * q_NHLd.shape[-1] ** -0.5


def _weights(scores_NHLL: Tensor) -> Tensor:
    """In float32 at least, as autocast has it."""
    return scores_NHLL.softmax(dim=-1, dtype=torch.promote_types(scores_NHLL.dtype, torch.float32))


def _like_blocks_want_it(tensor_NHLd: Tensor) -> Tensor:
    """Empty, of the same shape; heads are joined again without a copy."""
    heads_first = tensor_NHLd.transpose(1, 2)
    return torch.empty(heads_first.shape, dtype=tensor_NHLd.dtype, device=tensor_NHLd.device).transpose(1, 2)


def _tell_transformers() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface  # 30 MB, where towers are its own
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(PLAIN, _as_transformers_call_it)
    AttentionMaskInterface.register(PLAIN, eager_mask)  # one that is added to the scores


def _as_transformers_call_it(
    _module: nn.Module,
    query_NHLd: Tensor,
    key_NHLd: Tensor,
    value_NHLd: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    assert scaling == query_NHLd.shape[-1] ** -0.5, "no tower has another"
    mixed_NHLd = plain_attention(query_NHLd, key_NHLd, value_NHLd, attention_mask, dropout)
    return mixed_NHLd.transpose(1, 2).contiguous(), None
