"""The blocks that towers are built of, and their compilation."""

from torch import nn


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """One of several modules of one class in a row, which is how all families of towers are built: the innermost rows
    whose members have parts of their own."""
    children = list(module.children())
    found = [block for child in children for block in blocks_of(child)]
    is_row = isinstance(module, nn.ModuleList | nn.Sequential) and len({type(child) for child in children}) == 1
    if found or not is_row or not all(any(child.children()) for child in children):
        return found
    return children


def compile_blocks(module: nn.Module, backend: str = "inductor") -> int:
    """Have torch.compile make one kernel sequence for the blocks of a kind, at their first call; how many blocks.

    What is between the blocks stays as it is. Names and files do not change.
    """
    blocks = blocks_of(module)
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)
