"""Random streams: every draw of a run is a function of the run's seed, of what it is for, and of where it is made.

So a resumed run repeats them, whatever the number of loader workers, and no two purposes share their numbers, as they
would if each took (seed, step) or (seed, epoch, ...) alone: shorter tuples are longer ones that end in zeros.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn; behind each, where."""

    WORDINGS = 0  # step
    ORDER = 1  # epoch
    SAMPLE = 2  # epoch, row, turn
    TEXT_DROPOUT = 3  # step, part
    IMAGE_DROPOUT = 4  # step, part, process
    HELD_OUT = 5
    PICTURE = 6  # step, place in the global batch, orientation


def random_stream(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    return np.random.default_rng(_sequence(seed, stream, place))


def torch_seed(seed: int, stream: Stream, *place: int) -> int:
    """For `torch.manual_seed`."""
    return int(_sequence(seed, stream, place).generate_state(1, np.uint64)[0])


def _sequence(seed: int, stream: Stream, place: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *place))
