"""Extract the values from the cells of native and RLE pixels, and judge by the pixels where they stand.

A cell has `bits_allocated` bits. The header states that a value takes `bits_stored` of them, the highest being bit
`high_bit`; the other bits may hold anything. Two mistakes of headers are recognised:

1. **HighBit too high.** A HighBit of 15 over 12 stored bits puts the values at the high end of a cell of 16. If bits
   below that window vary, one beside the other, and no bit above the lowest 12 is in use (except for signs), the
   values stand at the low end: what would be dropped is the picture, and what would be read is a small part of it.
2. **BitsStored too small.** If bits above the window vary, they may be an overlay or garbage, or the upper bits of the
   values. The lower bits decide: where the upper part of two neighbouring pixels differs by one step, whole values are
   near each other (..., 255, 256, ...), while the lower parts alone jump.

If the pixels cannot decide, the header is followed, and bits in use that it leaves out are noted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.integer[Any]]

#: Among neighbours that differ by one step above the window, the fraction of near ones from which the upper bits belong
#: to the values. It is 1 for smooth images whose values use them, and at most 1/8 for bits that mean something else.
LEAST_NEAR = 0.75
#: Fewer such neighbours decide nothing.
LEAST_STEPS = 16
#: Number of rows that are widened to 64 bits at once.
_BLOCK_ROWS = 64


@dataclass(frozen=True)
class BitWindow:
    """The bits of a cell that hold its value: `bits` of them, from bit `high` downwards."""

    allocated: int
    bits: int
    high: int
    signed: bool

    @property
    def below(self) -> int:
        """Number of unused bits below the window."""
        return self.high + 1 - self.bits

    @property
    def above(self) -> int:
        """Number of unused bits above the window."""
        return self.allocated - self.high - 1

    def holds(self, cells: Cells) -> bool:
        """Return whether cells are equal to their values, so that nothing has to be extracted."""
        if self.below or not self.above:
            return not self.below
        limit = 1 << (self.bits - self.signed)
        return bool(cells.max() < limit and (not self.signed or cells.min() >= -limit))

    def values(self, cells: Cells) -> Cells:
        """Return the values of cells; zeros, or the sign, replace the other bits."""
        if self.holds(cells):
            return cells
        if self.signed:
            return np.right_shift(np.left_shift(cells, self.above), self.above + self.below)
        return np.bitwise_and(np.right_shift(cells, self.below), (1 << self.bits) - 1).astype(cells.dtype)


def stated_too_high(window: BitWindow, images: Iterable[Cells]) -> bool:
    """Return whether the values of a file stand at the low end of their cells, below the stated window."""
    low = BitWindow(window.allocated, window.bits, window.bits - 1, window.signed)
    upper = (1 << window.allocated) - (1 << window.bits)
    varying = 0
    for cells in images:
        if _used(cells) & upper and not low.holds(cells):
            return False
        varying |= _varying(cells)
    dropped = varying & ((1 << window.below) - 1)
    if dropped.bit_count() < min(2, window.below):  # an overlay below the values takes one bit
        return False
    # The bits of values all vary, from the first that does up to the last.
    after = dropped + (dropped & -dropped)
    return after == 1 << window.below if varying >> window.below else not after & dropped


def stated_too_narrow(window: BitWindow, images: Iterable[Cells]) -> bool:
    """Return whether the values of a file also use the bits above the stated window, which must begin at bit 0."""
    steps = near = 0
    for cells in images:
        for first in range(0, len(cells), _BLOCK_ROWS):
            whole = cells[first : first + _BLOCK_ROWS + 1].astype(np.int64)
            upper = whole >> window.bits
            for axis in (0, 1):
                one_step = np.abs(np.diff(upper, axis=axis)) == 1
                steps += int(np.count_nonzero(one_step))
                apart = np.abs(np.diff(whole, axis=axis)[one_step])
                near += int(np.count_nonzero(apart < 1 << (window.bits - 1)))
    return steps >= LEAST_STEPS and near >= LEAST_NEAR * steps


def spare_bits_vary(window: BitWindow, cells: Cells) -> bool:
    """Return whether bits that are not part of the values vary from pixel to pixel, and are not merely the sign."""
    spare = (1 << window.allocated) - 1 - (((1 << window.bits) - 1) << window.below)
    if not _varying(cells) & spare:
        return False
    return bool(_varying(np.bitwise_xor(cells, np.left_shift(window.values(cells), window.below))) & spare)


def _used(cells: Cells) -> int:
    """Return the bits that are set in any of the cells; for a negative one, also all bits above the cell."""
    return int(np.bitwise_or.reduce(cells, axis=None))


def _varying(cells: Cells) -> int:
    """Return the bits of the cells that are not the same in all pixels."""
    return _used(cells) & ~int(np.bitwise_and.reduce(cells, axis=None))
