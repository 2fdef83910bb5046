"""Fingerprints of files, which are not read again as long as their sizes and times stay the same.

A run's weights take seconds to digest, and every question has to know whether they are still those that its index was
made from. So the sizes and times of the files are kept beside their digest: if they are the same, so is the digest.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs.run_record import files_sha256

#: Nanoseconds. A file that was changed so recently may be changed again within the resolution of its time.
UNSETTLED = 2 * 10**9

#: Name -> [size in bytes, time of modification, time of change, both in ns] of the files of one part. A copy
#: may keep the former (``cp -p``, archives), and weights of one shape have one size: the latter tells them apart.
Stamps = dict[str, list[int]]


@dataclass(frozen=True)
class Fingerprint:
    """The digests of several parts, for example of the data and the model, and the stamps of their files."""

    digests: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


def fingerprint_of(parts: Mapping[str, Sequence[Path]], known: Fingerprint) -> Fingerprint:
    """Return the fingerprint of files that are there.

    Args:
        parts: the files of each part.
        known: an earlier fingerprint, whose digests are taken for the parts whose stamps are the same.

    Raises FileNotFoundError for a missing file.
    """
    digests, files = {}, {}
    for part, paths in parts.items():
        stamps = _stamps(paths)  # before reading: a file that is replaced meanwhile has another stamp later
        if part in known.digests and stamps == known.files.get(part):
            digests[part], files[part] = known.digests[part], stamps
        else:
            digests[part] = files_sha256(paths)
            files[part] = stamps if _is_settled(stamps) else {}
    return Fingerprint(digests, files)


def _stamps(paths: Sequence[Path]) -> Stamps:
    found = {path.name: path.stat() for path in paths}
    return {name: [status.st_size, status.st_mtime_ns, status.st_ctime_ns] for name, status in found.items()}


def _is_settled(stamps: Stamps) -> bool:
    return all(max(times) < time.time_ns() - UNSETTLED for _, *times in stamps.values())
