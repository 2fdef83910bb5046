"""Less memory for more time: the blocks of the towers are computed again on the way back.

Chen et al. 2016, arXiv:1604.06174, by `torch.utils.checkpoint`. Gradients are the same to the bit: dropout draws again
what it drew.
"""

from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vl_model.towers.blocks import blocks_of


def checkpoint_blocks(module: nn.Module) -> int:
    """Have every block inside `module` keep its input alone; how many there are.

    Blocks with batch statistics are left as they are: computed twice, they would move twice.
    """
    blocks = [block for block in blocks_of(module) if not any(isinstance(part, _BatchNorm) for part in block.modules())]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return len(blocks)


def keeps_its_input_alone(module: nn.Module) -> bool:
    return isinstance(vars(module).get("forward"), partial)
