"""Ctrl-C: it ends a command without a traceback, whenever it comes and however often.

Nothing is imported here but the standard library: a script calls `end_at_ctrl_c` before the imports that take time.
"""

import atexit
import signal
import time
from types import FrameType

#: Seconds in which further Ctrl-Cs are the same one: what was broken off is put in order meanwhile.
PATIENCE = 5.0


def end_at_ctrl_c() -> None:
    """Let SIGINT end the process as it ends one that is no Python program; where it is ignored, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_at_ctrl_c() -> None:
    """Let SIGINT raise KeyboardInterrupt, once in `PATIENCE` seconds; where it is ignored, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    heeded = -PATIENCE

    def heed(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal heeded
        if time.monotonic() - heeded >= PATIENCE:
            heeded = time.monotonic()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, heed)
    # A process that is ending takes handlers off, and would be ended by the signal instead, with another status.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
