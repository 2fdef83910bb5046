"""The reason why weights cannot be read, in words for an error message."""

from pickle import UnpicklingError
from textwrap import shorten

MOST_CHARACTERS = 300


def why_unreadable(error: BaseException) -> str:
    """Return a library's error message in one line, for weights that it could not load.

    Torch's message for a file that is no plain file of tensors is replaced, because it advises to load it unsafely.
    """
    if isinstance(error, UnpicklingError):
        return "damaged, or more than tensors"
    return shorten(str(error), MOST_CHARACTERS, placeholder=" ...")
