"""Fused attention as separate query, key, value and output layers, and back.

open_clip's transformers, and SigLIP's pooling, use `nn.MultiheadAttention`, which keeps the query, key and value
weights in one parameter that no adapter can wrap: peft then adapts the output projection alone, without a gradient,
or adds its update twice. A *frozen* `nn.MultiheadAttention` under bf16 autocast on the CPU is also about six times
slower than a trainable one. With un-fused attention each projection is an `nn.Linear`, and neither problem occurs;
`fused_state_dict` returns the weights under the library's own names.

Dimensions: N sequences, L tokens, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl_model.towers.plain_attention import plain_attention

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SeparateAttention(nn.Module):
    """Self-attention with the weights of an `nn.MultiheadAttention`, in four `nn.Linear` layers."""

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        assert fused._qkv_same_embed_dim and fused.batch_first and not fused.dropout, "no tower has other attention"
        self.heads = fused.num_heads
        self.uses_kernel = True  # `vl_model.towers.plain_attention.use_plain_attention` sets it to False
        weights = fused.in_proj_weight.detach().chunk(3)
        biases = (None, None, None) if fused.in_proj_bias is None else fused.in_proj_bias.detach().chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (_linear(w_DD, b_D) for w_DD, b_D in zip(weights, biases, strict=True))
        self.out_proj = _linear(fused.out_proj.weight.detach(), _detached(fused.out_proj.bias))
        self.requires_grad_(fused.in_proj_weight.requires_grad)

    def forward(
        self,
        query_NLD: Tensor,
        key_NLD: Tensor,
        value_NLD: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend, with the signature of `nn.MultiheadAttention`.

        attn_mask: added to the scores; of shape (L, L) or (N * H, L, L).
        """
        assert not need_weights, "attention weights are not returned"
        q_NHLd = self._heads(self.q_proj(query_NLD))
        k_NHLd = self._heads(self.k_proj(key_NLD))
        v_NHLd = self._heads(self.v_proj(value_NLD))
        if attn_mask is not None:
            attn_mask = attn_mask.to(q_NHLd.dtype)
            if attn_mask.ndim == 3:
                attn_mask = attn_mask.unflatten(0, (-1, self.heads))  # NLL of each head -> NHLL
        attend = F.scaled_dot_product_attention if self.uses_kernel else plain_attention
        mixed_NHLd = attend(q_NHLd, k_NHLd, v_NHLd, attn_mask=attn_mask)
        return self.out_proj(mixed_NHLd.transpose(1, 2).flatten(2)), None

    def _heads(self, tokens_NLD: Tensor) -> Tensor:
        return tokens_NLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # NLD -> NHLd


def unfuse_attention(module: nn.Module, owner: type[nn.Module], name: str) -> int:
    """Un-fuse, in place, the attention `name` of each `owner` inside `module`; return how many were replaced."""
    owners = [child for child in module.modules() if isinstance(child, owner)]
    fused = [child for child in owners if isinstance(getattr(child, name), nn.MultiheadAttention)]
    for child in fused:
        setattr(child, name, SeparateAttention(getattr(child, name)))
    return len(fused)


def fused_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of `module` with attention fused again, under the names of the stock library."""
    state = dict(module.state_dict())
    for path, child in module.named_modules():
        if isinstance(child, SeparateAttention):
            prefix = f"{path}." if path else ""
            for kind in ("weight", "bias"):
                parts = [state.pop(f"{prefix}{name}.{kind}", None) for name in PROJECTIONS]
                if parts[0] is not None:
                    state[f"{prefix}in_proj_{kind}"] = torch.cat([part for part in parts if part is not None])
    return state


def _linear(weight_DD: Tensor, bias_D: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight_DD.shape[1], weight_DD.shape[0], bias=bias_D is not None, device="meta")
    linear.weight = nn.Parameter(weight_DD.clone())
    if bias_D is not None:
        linear.bias = nn.Parameter(bias_D.clone())
    return linear


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
