"""The repeated blocks of a tower, and their compilation."""

from torch import nn


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of `module`: the members of its innermost rows of equal, composite modules.

    All families of towers are built of such rows: an `nn.ModuleList` or `nn.Sequential` whose members are of one class
    and have submodules of their own.
    """
    children = list(module.children())
    found = [block for child in children for block in blocks_of(child)]
    is_row = isinstance(module, nn.ModuleList | nn.Sequential) and len({type(child) for child in children}) == 1
    if found or not is_row or not all(any(child.children()) for child in children):
        return found
    return children


def compile_blocks(module: nn.Module, backend: str = "inductor") -> int:
    """Compile each block inside `module` with torch.compile, at its first call; return the number of blocks.

    Everything between the blocks stays uncompiled. The names of parameters, and so the files, do not change.
    """
    blocks = blocks_of(module)
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)
