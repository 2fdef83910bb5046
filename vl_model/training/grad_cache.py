"""A pool of negatives larger than what fits into memory: the gradient of one large batch, in parts.

Gao et al. 2021, arXiv:2101.06983. Every part is embedded without a graph, the loss is taken over the embeddings of all,
and each part is then embedded again, with a graph, and handed the gradient of its own embeddings. For the loss L of the
pool and the embeddings e_p of part p, the chain rule gives dL/dw = sum_p dL/de_p de_p/dw, so nothing is approximated;
the price is a second way forward. Batch statistics are those of the parts.

Dimensions: B images of a part, N of all parts, D embedding, K captions.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vl_model.training.loss import LossTerms

#: image_BD, text_KD (None where it does not learn), the inverse temperature, the bias (None without one).
Embedded = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


def backward_through_pool(
    parts: int,
    embed: Callable[[int], Embedded],
    loss: Callable[[Embedded], LossTerms],
    backward: Callable[[Tensor], None],
    synchronised: Callable[[bool], AbstractContextManager[None]],
) -> LossTerms:
    """Add the gradient of the loss of all parts together to the parameters; its terms.

    Args:
        embed: of a part, alike each time it is asked; the texts are needed with the last part alone.
        loss: of the pool, whose images are those of all parts in order.
        backward: takes a scalar, and may scale it.
        synchronised: the context in which a part is embedded and sent backward; true for the last, after which the
            processes exchange their gradients.
    """
    with torch.no_grad():
        firsts = [embed(part) for part in range(parts)]
    image_ND = torch.cat([image_BD for image_BD, *_ in firsts])
    leaves = [None if value is None else value.detach().requires_grad_() for value in (image_ND, *firsts[-1][1:])]
    terms = loss((leaves[0], leaves[1], leaves[2], leaves[3]))  # type: ignore[arg-type]
    known = [leaf for leaf in leaves if leaf is not None]
    found = dict(zip(map(id, known), torch.autograd.grad(terms.total, known, allow_unused=True), strict=True))
    gradients = [None if leaf is None else found[id(leaf)] for leaf in leaves]
    assert gradients[0] is not None
    shares = gradients[0].split([len(image_BD) for image_BD, *_ in firsts])
    for part, share_BD in enumerate(shares):
        is_last = part == parts - 1
        with synchronised(is_last):
            image_BD, *others = embed(part)
            total = (image_BD * share_BD).sum()
            for value, gradient in zip(others, gradients[1:], strict=True):
                if is_last and value is not None and gradient is not None:
                    total = total + (value * gradient).sum()
            backward(total)
    return terms
