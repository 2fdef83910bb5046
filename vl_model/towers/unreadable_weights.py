"""What may be said of weights that cannot be read."""

from pickle import UnpicklingError


def why_unreadable(error: BaseException) -> str:
    """What may be said of a library's error over weights: torch advises to load what are none unsafely."""
    return "damaged, or more than tensors" if isinstance(error, UnpicklingError) else " ".join(str(error).split())[:300]
