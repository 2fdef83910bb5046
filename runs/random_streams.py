"""Random streams: each random number is a function of the run's seed, of its purpose and of its index.

A resumed run therefore repeats the numbers of an uninterrupted run, whatever the number of loader workers. No two
purposes share numbers. They would if numpy's generators were seeded with (seed, step) and (seed, epoch, ...): a tuple
and the same tuple followed by zeros give the same numbers.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purpose of random numbers. The comment after each value lists the components of the index."""

    WORDINGS = 0  # step
    ORDER = 1  # epoch
    SAMPLE = 2  # epoch, row, turn
    TEXT_DROPOUT = 3  # step, batch of the step
    IMAGE_DROPOUT = 4  # step, batch of the step, process
    HELD_OUT = 5
    LOCATOR_IMAGE = 6  # step, position in the global batch, orientation


def random_stream(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """Return the generator of one purpose at one index (non-negative integers)."""
    return np.random.default_rng(_sequence(seed, stream, index))


def torch_seed(seed: int, stream: Stream, *index: int) -> int:
    """Return the seed for `torch.manual_seed` of one purpose at one index (non-negative integers)."""
    return int(_sequence(seed, stream, index).generate_state(1, np.uint64)[0])


def _sequence(seed: int, stream: Stream, index: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *index))
