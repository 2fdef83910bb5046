"""Gradient caching: the gradient of one large batch, computed in parts that fit into memory.

Gao et al. 2021, arXiv:2101.06983. All parts are embedded without a graph, and the loss is computed over the embeddings
of all parts together. Then each part is embedded again, with a graph, and backpropagates the gradient with respect to
its own embeddings. For the loss L and the embeddings e_p of part p, the chain rule gives
dL/dw = sum_p dL/de_p de_p/dw, so nothing is approximated; the price is a second forward pass. Batch statistics are
those of the parts.

Dimensions: B images of a part, N of all parts, D embedding, K captions.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vl_model.training.loss import LossTerms

#: image_BD, text_KD (None if the text tower is frozen), the logit scale, the bias (None without one).
Embedded = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


def backward_through_pool(
    parts: int,
    embed: Callable[[int], Embedded],
    loss: Callable[[Embedded], LossTerms],
    backward: Callable[[Tensor], None],
    synchronised: Callable[[bool], AbstractContextManager[None]],
) -> LossTerms:
    """Add the gradient of the joint loss of all parts to the parameters' gradients; return the terms of the loss.

    Args:
        parts: number of parts.
        embed: embeds part p, with equal results at each call; the texts are used with the last part only.
        loss: computes the loss of the images of all parts, in order.
        backward: runs the backward pass from a scalar, which it may scale first.
        synchronised: returns the context in which a part is embedded and backpropagated. It is called with True for
            the last part, after which the processes exchange their gradients, else with False.
    """
    with torch.no_grad():
        cached = [embed(part) for part in range(parts)]
    image_ND = torch.cat([image_BD for image_BD, *_ in cached])
    leaves = [None if value is None else value.detach().requires_grad_() for value in (image_ND, *cached[-1][1:])]
    terms = loss((leaves[0], leaves[1], leaves[2], leaves[3]))  # type: ignore[arg-type]
    known = [leaf for leaf in leaves if leaf is not None]
    found = dict(zip(map(id, known), torch.autograd.grad(terms.total, known, allow_unused=True), strict=True))
    gradients = [None if leaf is None else found[id(leaf)] for leaf in leaves]
    assert gradients[0] is not None
    part_gradients = gradients[0].split([len(image_BD) for image_BD, *_ in cached])
    for part, gradient_BD in enumerate(part_gradients):
        is_last = part == parts - 1
        with synchronised(is_last):
            image_BD, *others = embed(part)
            total = (image_BD * gradient_BD).sum()
            for value, gradient in zip(others, gradients[1:], strict=True):
                if is_last and value is not None and gradient is not None:
                    total = total + (value * gradient).sum()
            backward(total)
    return terms
