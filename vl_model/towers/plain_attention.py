"""Attention as matrix products and a softmax, which replaces torch's fused kernel in bf16 training on the CPU.

In bf16 on the CPU the backward pass through torch 2.15's kernel takes 40 to 160 ms, through products 6 to 46 ms
(ViT-B-32's 50 tokens, ViT-B-16's 197, and captions). Rounding errors grow by a third to a half, which is still the
precision of bf16. In float32 both are equally fast. For long sequences the backward pass recomputes the attention
weights instead of keeping them, one sequence at a time, so that they stay in the processor's cache.

Dimensions: N sequences, H heads, L tokens, d width of a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: From this number of tokens on, the weights of all heads take more memory than the rest that attention keeps.
MANY_TOKENS = 100
#: The name under which `plain_attention` is registered with transformers.
PLAIN = "lumbar_plain"


def use_plain_attention(module: nn.Module) -> None:
    """Switch all attention inside `module` (this project's, timm's and transformers') to `plain_attention`."""
    child: Any
    for child in module.modules():
        if isinstance(getattr(child, "uses_kernel", None), bool):  # `vl_model.towers.separate_attention`
            child.uses_kernel = False
        elif isinstance(getattr(child, "fused_attn", None), bool):  # timm's own switch
            child.fused_attn = False
        elif hasattr(child, "set_attn_implementation"):
            _register_with_transformers()
            child.set_attn_implementation(PLAIN)


def plain_attention(
    q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor, attn_mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Compute `F.scaled_dot_product_attention`; `attn_mask` is added to the scores."""
    if attn_mask is None and not dropout and k_NHLd.shape[-2] >= MANY_TOKENS:
        mixed_NHLd: Tensor = _Recomputed.apply(q_NHLd, k_NHLd, v_NHLd)
        return mixed_NHLd
    scores_NHLL = _scaled(q_NHLd) @ k_NHLd.transpose(-2, -1)
    if attn_mask is not None:
        scores_NHLL = scores_NHLL + attn_mask
    return F.dropout(_weights(scores_NHLL).to(v_NHLd.dtype), dropout) @ v_NHLd


class _Recomputed(torch.autograd.Function):
    """Attention that keeps only queries, keys and values, and recomputes its weights in the backward pass.

    With weights P = softmax(S), S = q k' / sqrt(d), and G the gradient with respect to P v:

    dv = P' G,  dP = G v',  dS = P (dP - sum_over_keys(dP P)),  dq = dS k / sqrt(d),  dk = dS' q / sqrt(d)
    """

    @staticmethod
    def forward(ctx: Any, q_NHLd: Tensor, k_NHLd: Tensor, v_NHLd: Tensor) -> Tensor:
        ctx.save_for_backward(q_NHLd, k_NHLd, v_NHLd)
        mixed_NHLd = _empty_heads_like(q_NHLd)
        for q_HLd, k_HLd, v_HLd, mixed_HLd in zip(q_NHLd, k_NHLd, v_NHLd, mixed_NHLd, strict=True):
            weights_HLL = _weights(_scaled(q_HLd) @ k_HLd.transpose(-2, -1)).to(v_HLd.dtype)
            mixed_HLd.copy_(weights_HLL @ v_HLd)
        return mixed_NHLd

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_NHLd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = ctx.saved_tensors
        input_gradients = tuple(_empty_heads_like(tensor) for tensor in inputs)
        for n, gradient_HLd in enumerate(gradient_NHLd):
            q_HLd, k_HLd, v_HLd = (tensor[n] for tensor in inputs)
            dq_HLd, dk_HLd, dv_HLd = (tensor[n] for tensor in input_gradients)
            q_HLd = _scaled(q_HLd)
            weights_HLL = _weights(q_HLd @ k_HLd.transpose(-2, -1))
            dv_HLd.copy_(weights_HLL.to(v_HLd.dtype).transpose(-2, -1) @ gradient_HLd)
            dweights_HLL = (gradient_HLd @ v_HLd.transpose(-2, -1)).to(weights_HLL.dtype)
            dscores_HLL = torch.ops.aten._softmax_backward_data(dweights_HLL, weights_HLL, -1, weights_HLL.dtype)
            dscores_HLL = dscores_HLL.to(q_HLd.dtype)
            dq_HLd.copy_(_scaled(dscores_HLL @ k_HLd))
            dk_HLd.copy_(dscores_HLL.transpose(-2, -1) @ q_HLd)
        return input_gradients[0], input_gradients[1], input_gradients[2]


def _scaled(q_NHLd: Tensor) -> Tensor:
    return q_NHLd * q_NHLd.shape[-1] ** -0.5


def _weights(scores_NHLL: Tensor) -> Tensor:
    """Return the softmax of the scores, in at least float32 as under autocast."""
    return scores_NHLL.softmax(dim=-1, dtype=torch.promote_types(scores_NHLL.dtype, torch.float32))


def _empty_heads_like(tensor_NHLd: Tensor) -> Tensor:
    """Return an empty tensor of the same shape, in a memory layout whose heads are joined without a copy."""
    heads_first = tensor_NHLd.transpose(1, 2)
    return torch.empty(heads_first.shape, dtype=tensor_NHLd.dtype, device=tensor_NHLd.device).transpose(1, 2)


def _register_with_transformers() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface  # 30 MB, needed by its own towers only
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(PLAIN, _transformers_attention)
    AttentionMaskInterface.register(PLAIN, eager_mask)  # a mask that is added to the scores


def _transformers_attention(
    _module: nn.Module,
    query_NHLd: Tensor,
    key_NHLd: Tensor,
    value_NHLd: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Compute `plain_attention` under the signature that transformers requires."""
    assert scaling == query_NHLd.shape[-1] ** -0.5, "all towers scale by 1 / sqrt(d)"
    mixed_NHLd = plain_attention(query_NHLd, key_NHLd, value_NHLd, attention_mask, dropout)
    return mixed_NHLd.transpose(1, 2).contiguous(), None
