"""Less memory for more time: the blocks of the towers are computed again on the way back.

Chen et al. 2016, arXiv:1604.06174, by `torch.utils.checkpoint`. Gradients are the same to the bit: dropout draws again
what it drew. A block is one of several modules of one class in a row, which is how all families of towers are built.
"""

from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(module: nn.Module) -> int:
    """Have every block inside `module` keep its input alone; how many there are.

    Blocks with batch statistics are left as they are: computed twice, they would move twice.
    """
    blocks = [block for block in _blocks(module) if not any(isinstance(part, _BatchNorm) for part in block.modules())]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return len(blocks)


def keeps_its_input_alone(module: nn.Module) -> bool:
    return isinstance(vars(module).get("forward"), partial)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The members of the innermost rows of modules of one class that have parts of their own."""
    children = list(module.children())
    found = [block for child in children for block in _blocks(child)]
    is_row = isinstance(module, nn.ModuleList | nn.Sequential) and len({type(child) for child in children}) == 1
    if found or not is_row or not all(any(child.children()) for child in children):
        return found
    return children
