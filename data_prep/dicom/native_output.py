"""What native decoders write to the terminal, past Python: kept from it, and read.

libjpeg says nowhere else that a stream is damaged and its image partly invented; Rust's decoder
prints a stack when it stops. Nothing of that is for a person who converts 147,000 files.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_STDERR = 2
#: File descriptors belong to the process: two threads must not exchange one at a time.
_LOCK = RLock()


class NativeOutput:
    """`text` is what was written while the block ran; empty until it has ended."""

    text = ""


@contextmanager
def captured_stderr() -> Iterator[NativeOutput]:
    """Point the process's standard error at a scratch file for the time of the block."""
    output = NativeOutput()
    with _LOCK:
        try:
            terminal = os.dup(_STDERR)
        except OSError:  # a daemon without one: nothing to keep clean
            yield output
            return
        scratch = _scratch_file()
        os.dup2(scratch, _STDERR)
        try:
            yield output
        finally:
            os.dup2(terminal, _STDERR)
            os.close(terminal)
            if length := os.lseek(scratch, 0, os.SEEK_CUR):
                output.text = os.pread(scratch, min(length, 1 << 16), 0).decode("utf-8", "replace")
                os.ftruncate(scratch, 0)
                os.lseek(scratch, 0, os.SEEK_SET)


_scratch: dict[int, int] = {}


def _scratch_file() -> int:
    """One file for each process: a forked one must not share its parent's place in it."""
    process = os.getpid()
    if process not in _scratch:
        with tempfile.TemporaryFile() as file:
            _scratch[process] = os.dup(file.fileno())
    return _scratch[process]
