"""Histograms of oriented gradients (Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", 2005).

Legend: N images, H and W pixels, R and C rows and columns of cells, O = 9 orientations.
"""

import numpy as np
from numpy.typing import NDArray

ORIENTATIONS = 9
#: Largest share of one orientation in a block, before the block is normalised once more.
CLIP = 0.2
#: Added to the squared norm of a block: blocks of weak gradients, which are noise, stay small.
_FAINT = 1.0

_Singles = NDArray[np.float32]


def gradient_histograms(image_NHW: NDArray[np.uint8], cell: int) -> _Singles:
    """Return the histograms (N, (R - 1) * (C - 1) * 36) of grey images.

    The outermost pixels have no gradient: they serve their neighbours only, so that H - 2 = R * cell and
    W - 2 = C * cell. The gradients are central differences of the square root of the grey value. Each pixel votes with
    the length of its gradient for the two orientations, of nine in 180 degrees, that are next to its own, in proportion
    to their nearness. The histograms of 2 by 2 neighbouring cells are one block, whose norm is one, apart from faint
    blocks, with values of at most `CLIP` before a second normalisation.
    """
    root_NHW = np.sqrt(image_NHW.astype(np.float32))
    across_NHW = root_NHW[:, 1:-1, 2:] - root_NHW[:, 1:-1, :-2]
    down_NHW = root_NHW[:, 2:, 1:-1] - root_NHW[:, :-2, 1:-1]
    histogram_NRCO = _histograms(across_NHW, down_NHW, cell)
    block_NRCO = np.concatenate(
        [
            histogram_NRCO[:, :-1, :-1],
            histogram_NRCO[:, :-1, 1:],
            histogram_NRCO[:, 1:, :-1],
            histogram_NRCO[:, 1:, 1:],
        ],
        axis=-1,
    )
    block_NRCO = np.minimum(_normalised(block_NRCO, _FAINT), CLIP)
    return _normalised(block_NRCO, 1e-4).reshape(len(image_NHW), -1)


def _histograms(across_NHW: _Singles, down_NHW: _Singles, cell: int) -> _Singles:
    """Return the votes (N, R, C, O) of the pixels of each cell."""
    images, height, width = across_NHW.shape
    rows, columns = height // cell, width // cell
    assert (rows * cell, columns * cell) == (height, width), f"{height} x {width} pixels are not cells of {cell}"
    length_NHW = np.hypot(across_NHW, down_NHW)
    angle_NHW = np.arctan2(down_NHW, across_NHW) * np.float32(ORIENTATIONS / np.pi)
    lower_NHW = np.floor(angle_NHW)
    to_upper_NHW = angle_NHW - lower_NHW
    lower_NHW = lower_NHW.astype(np.int64) % ORIENTATIONS
    upper_NHW = (lower_NHW + 1) % ORIENTATIONS

    cell_HW = (np.arange(height) // cell)[:, None] * columns + np.arange(width) // cell
    first_NHW = (np.arange(images)[:, None, None] * (rows * columns) + cell_HW) * ORIENTATIONS
    count = images * rows * columns * ORIENTATIONS
    votes = np.bincount((first_NHW + lower_NHW).ravel(), (length_NHW * (1 - to_upper_NHW)).ravel(), count)
    votes += np.bincount((first_NHW + upper_NHW).ravel(), (length_NHW * to_upper_NHW).ravel(), count)
    return votes.reshape(images, rows, columns, ORIENTATIONS).astype(np.float32)


def _normalised(block_NRCO: _Singles, faint: float) -> _Singles:
    norm_NRC1: _Singles = np.sqrt((block_NRCO**2).sum(axis=-1, keepdims=True) + np.float32(faint))
    return block_NRCO / norm_NRC1
