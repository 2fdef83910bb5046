"""A time budget for work that is done piece by piece."""

from collections.abc import Callable
from time import monotonic


class TimeBudget:
    """Seconds that may be used from now on; None: as many as it takes.

    `may_go_on` is asked before each piece of work. It answers yes if the longest piece so far would still fit.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._started = clock()
        self._piece_began: float | None = None
        self._longest = 0.0

    @property
    def is_used_up(self) -> bool:
        return self.seconds is not None and self._clock() - self._started >= self.seconds

    def may_go_on(self) -> bool:
        """Return whether there is time for another piece, which begins now if so."""
        now = self._clock()
        if self._piece_began is not None:
            self._longest = max(self._longest, now - self._piece_began)
        self._piece_began = now
        return not self.is_used_up and (self.seconds is None or now - self._started + self._longest <= self.seconds)
