"""Less memory for more time: the backward pass computes the towers' blocks a second time.

Chen et al. 2016, arXiv:1604.06174, by `torch.utils.checkpoint`. Gradients are identical to the bit, since the second
computation draws the same dropout masks.
"""

from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vl_model.towers.blocks import blocks_of


def checkpoint_blocks(module: nn.Module) -> int:
    """Make every block inside `module` keep only its input for the backward pass; return the number of such blocks.

    Blocks with batch normalisation are left as they are: a second computation would update their running statistics
    twice.
    """
    blocks = [block for block in blocks_of(module) if not any(isinstance(part, _BatchNorm) for part in block.modules())]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return len(blocks)


def is_checkpointed(module: nn.Module) -> bool:
    """Whether `checkpoint_blocks` has made this block keep only its input."""
    return isinstance(vars(module).get("forward"), partial)
