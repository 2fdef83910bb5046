"""Print the peak of this process's memory in MB after one question to a segment; a child of `benchmarks.query`.

    python -m benchmarks.peak_memory                       # numpy alone
    python -m benchmarks.peak_memory FOLDER graded         # a graded question
    python -m benchmarks.peak_memory FOLDER vectors        # free words, compared with all vectors

The peak is that of this program's own memory (VmHWM of Linux): `resource` would count what its parent used before it
started the program. Pages of mapped files are part of it.
"""

import sys
from pathlib import Path

import numpy as np


def main(words: list[str]) -> None:
    if words:
        folder, question = words
        ask(Path(folder), question)
    print(peak_mb())


def ask(folder: Path, question: str) -> None:
    from benchmarks.random_index import FINGERPRINT
    from prompts.reading.parse import parse_query
    from vl_model.queries.index import load_segment
    from vl_model.queries.likeness import best_sites
    from vl_model.queries.search import Bounds, search

    segment = load_segment(folder, FINGERPRINT)
    if question == "graded":
        query = parse_query("severe canal stenosis at two levels without foraminal narrowing")
        assert query.tree is not None
        search(query.tree, [segment], [], Bounds(10))
    else:
        vector_D = np.array(segment.vector_XSD[0, 0])
        best_sites([segment], vector_D, None, 10)


def peak_mb() -> float:
    """Return the largest resident set of this program, in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
