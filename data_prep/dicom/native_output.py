"""Capture what native decoders print to the terminal without going through Python.

libjpeg reports only there that a stream is damaged and its image partly invented, and the decoder in Rust prints a
stack trace if it stops. These messages must not fill the terminal of someone who converts 147,000 files.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_STDERR = 2
#: File descriptors belong to the process: only one thread at a time may redirect one.
_LOCK = RLock()


class NativeOutput:
    """Captured output: `text` holds what was written during the block; it is empty until the block has ended."""

    text = ""


@contextmanager
def captured_stderr() -> Iterator[NativeOutput]:
    """Redirect the standard error of the process to a scratch file during the block."""
    output = NativeOutput()
    with _LOCK:
        try:
            terminal = os.dup(_STDERR)
        except OSError:  # a daemon without standard error: there is nothing to capture
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
    """Return the scratch file of this process: a forked process must not share the file offset of its parent."""
    process = os.getpid()
    if process not in _scratch:
        with tempfile.TemporaryFile() as file:
            _scratch[process] = os.dup(file.fileno())
    return _scratch[process]
