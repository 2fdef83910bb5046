"""Measure how long questions take, and how much memory: graded trees, free words, opening, the command, reading.

    python -m benchmarks.query              # 50,000 and 1,000,000 sites: 6 GB of disk, 5 GB of memory, ten minutes
    python -m benchmarks.query --quick      # 5,000 sites, a few turns

The studies are random (`benchmarks.random_index`): 25 sites each, vectors of 512 dimensions, written as a segment of
the query index and opened as a question opens it. All times are CPU time, of one thread, because other programs may be
using the machine: the median of several turns. Searches of vectors are measured in turn with other programs on the
same vectors, those that are installed (`benchmarks.vector_search`); the time of a text's embedding is not part of them.
Trees are a list of kinds, and every meaning in ``tests/query_phrases.csv``. Nothing is kept from one turn to the next.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.comparison import REPOSITORY
from benchmarks.machine import describe_machine
from benchmarks.phrases import long_texts, read_phrases
from benchmarks.random_index import DIMENSIONS, FINGERPRINT, RUN, random_segment, random_vectors, write_indexed_run
from benchmarks.vector_search import TOP, Search, faiss_flat, is_installed, lance_flat, numpy_product
from data_prep.sites import SITES
from prompts.canonical import parse_canonical
from prompts.formula import support
from prompts.reading.parse import parse_query
from prompts.tree import Tree
from vl_model.queries.index import load_segment, save_segment
from vl_model.queries.likeness import best_sites
from vl_model.queries.search import Bounds, search
from vl_model.queries.segment import Segment
from workspace.cli import run_command
from workspace.settings_parser import read_settings

PROG = "-m benchmarks.query"
#: Other libraries take as many threads as they find, unless the environment says otherwise before they are imported.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LANCE_CPU_THREADS"), "1")
KNOWN = (400, 2000)
#: More than the cache of any processor.
_CACHE_BYTES = 512 << 20
KINDS = {
    "one finding": "any(left foramen, L4-L5) = severe",
    "any of 25": "any(site) = severe",
    "all of 25": "all(site) = normal/mild",
    "at least two levels": "at_least_2_levels(canal) >= moderate",
    "exactly three levels, all conditions": "exactly_3_levels(site) = severe",
    "two adjacent levels": "adjacent_2_levels(canal, foramen) >= moderate",
    "and": "any(canal, L4-L5) = severe and any(foramen) >= moderate",
    "and not": "any(recess) = severe and not any(foramen) >= moderate",
    "both sides": "both_sides(recess, foramen) >= moderate",
    "only here": "only_here(canal, L4-L5) >= moderate",
    "side against side": "worse(left foramen)",
    "same level": "same_level(any(recess) = severe and all(foramen) = normal/mild)",
}
#: A command whose words are understood: what is asked of the run.
QUESTION = "severe left foraminal narrowing at L4-L5"


@dataclass(frozen=True)
class Size:
    """How many studies are searched, and what is expected: ms of a tree, of all vectors, of opening; MB of both."""

    studies: int
    turns: int
    tree_ms: float
    opening_ms: float
    graded_mb: float
    vectors_mb: float | None = None
    product_ms: float | None = None
    product_ratio: float | None = None

    @property
    def sites(self) -> int:
        return self.studies * len(SITES)


SIZES = (
    Size(2_000, 21, 2, 20, 30, vectors_mb=150, product_ratio=1.2),
    Size(40_000, 7, 30, 100, 150, product_ms=300),
)
QUICK = (Size(200, 3, 2, 20, 30, vectors_mb=150, product_ratio=1.2),)


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark of queries."""

    quick: bool = False
    """Search 5,000 sites, in a few turns."""


def main() -> None:
    settings = read_settings(PROG, __doc__, Settings)
    if any(os.environ.get(name) != count for name, count in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *PROG.split(), *sys.argv[1:]], {**os.environ, **ONE_THREAD})
    describe_machine("numpy", *(package for package in ("faiss-cpu", "lancedb") if is_installed(_module(package))))
    print("CPU time of one thread: median of several turns; D = 512, float32; ten answers")
    measure_reading()
    with tempfile.TemporaryDirectory(prefix="lumbar-bench-") as folder:
        measure_command(Path(folder), 3 if settings.quick else 7)
        for size in QUICK if settings.quick else SIZES:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                measure_size(size, Path(place))


def _module(package: str) -> str:
    return package.removesuffix("-cpu")


def row(quantity: str, value: float, unit: str, aim: float | None = None, more: str = "") -> None:
    """Print a quantity, beside its aim if it has one, which it must not exceed."""
    verdict = (
        "" if aim is None else f"aim {aim:g}{'' if unit == 'x' else ' ' + unit}  {'met' if value <= aim else 'MISSED'}"
    )
    print(f"  {quantity:<58} {_number(value):>8} {unit:<3} {verdict:<22} {more}".rstrip(), flush=True)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def cpu_ms(call: Callable[[], object], turns: int) -> list[float]:
    """Return the CPU time of each of several calls in ms; one more call before them is not measured."""
    call()
    times = []
    for _ in range(turns):
        begun = time.process_time()
        call()
        times.append(1000 * (time.process_time() - begun))
    return times


def median_ms(call: Callable[[], object], turns: int) -> float:
    return float(np.median(cpu_ms(call, turns)))


def measure_reading() -> None:
    """Measure how long texts are read."""
    texts = [phrase.text for phrase in read_phrases()]
    print(f"\nReading a text: {len(texts)} phrases, and texts of 1,000 characters")
    begun = time.process_time()
    read(texts[0])
    row("the first one, which reads the vocabulary", 1000 * (time.process_time() - begun), "ms")
    of_texts = [median_ms(partial(read, text), 3) for text in texts]
    row("mean of the phrases", float(np.mean(of_texts)), "ms", 1, f"worst {max(of_texts):.2f} ms")
    of_long = {name: median_ms(partial(read, text), 3) for name, text in long_texts().items()}
    worst = max(of_long, key=of_long.__getitem__)
    row("worst of 1,000 characters", of_long[worst], "ms", 50, worst)


def read(text: str) -> None:
    """Read a text; many are refused, which takes time as well."""
    with suppress(ValueError):
        parse_query(text)


def measure_command(folder: Path, turns: int) -> None:
    """Measure query_vl.py as a user starts it."""
    write_indexed_run(folder / "root", studies=2000, known=400)
    command = [sys.executable, "query_vl.py", "--root", str(folder / "root"), "--run", RUN, QUESTION]
    (folder / "numpy_alone.py").write_text("import numpy\n", encoding="utf-8")
    reference = [sys.executable, str(folder / "numpy_alone.py")]
    seconds, references, peaks, loaded = [], [], [], ""
    for _ in range(turns + 1):
        references.append(run_measured(reference)[0])
        second, peak, loaded = run_measured(command)
        seconds.append(second)
        peaks.append(peak)
    print(f'\nquery_vl.py "{QUESTION}": 2,000 studies of 25 sites, 400 more whose grades are known')
    row("CPU time of the command", float(np.median(seconds[1:])), "s", 0.35, f"fastest {min(seconds):.2f} s")
    row("of a script that imports numpy, in turn", float(np.median(references[1:])), "s")
    row("peak of its memory", float(np.median(peaks[1:])), "MB", 60)
    print(f"  large libraries that it imports: {loaded or 'none'}")


#: Runs a script as __main__, and then tells what it took.
_MEASURED = """
import os, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
seconds = sum(os.times()[:2])
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
loaded = [name for name in ("torch", "sklearn", "pandas", "scipy") if name in sys.modules]
print(seconds, int(peak) / 1024, ",".join(loaded), file=sys.stderr)
"""


def run_measured(command: list[str]) -> tuple[float, float, str]:
    """Run a script; return its CPU seconds, the peak of its memory in MB, and which large libraries it imported."""
    python, *words = command
    paths = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    finished = subprocess.run(
        [python, "-c", _MEASURED, *words], cwd=REPOSITORY, env=paths, capture_output=True, text=True
    )
    if finished.returncode:
        raise RuntimeError(f"{' '.join(words)}: failed\n{finished.stderr[-2000:]}")
    seconds, peak, *loaded = finished.stderr.splitlines()[-1].split()
    return float(seconds), float(peak), " ".join(loaded)


def measure_size(size: Size, folder: Path) -> None:
    """Measure questions to a segment of so many studies."""
    print(f"\n{size.studies:,} studies, {size.sites:,} sites")
    save_segment(random_segment("random", size.studies, seed=size.studies), folder / "index")
    measure_opening(size, folder / "index")
    segment = load_segment(folder / "index", FINGERPRINT)
    measure_trees(size, segment)
    measure_vectors(size, segment, folder)


def measure_opening(size: Size, index: Path) -> None:
    row("opening the index", median_ms(lambda: load_segment(index, FINGERPRINT), size.turns), "ms", size.opening_ms)
    numpy_alone = peak_mb()
    graded, vectors = (peak_mb(str(index), question) - numpy_alone for question in ("graded", "vectors"))
    row("peak memory beyond numpy's, graded question", graded, "MB", size.graded_mb)
    row("the same, free words and all vectors", vectors, "MB", size.vectors_mb)


def peak_mb(*words: str) -> float:
    command = [sys.executable, "-m", "benchmarks.peak_memory", *words]
    return float(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)


def measure_trees(size: Size, segment: Segment) -> None:
    """Measure trees by their kind, all meanings of the phrases, and what it takes to tell a question's worth."""

    def searched(tree: Tree, *known: Segment) -> Callable[[], object]:
        def call() -> object:
            support.cache_clear()  # a question that was not asked before
            return search(tree, [segment], known, Bounds(TOP))

        return call

    trees = {kind: _tree(line) for kind, line in KINDS.items()}
    for kind, tree in trees.items():
        times = cpu_ms(searched(tree), size.turns)
        row(f"tree: {kind}", float(np.median(times)), "ms", size.tree_ms, f"worst turn {max(times):.3g} ms")
    columns_SX = np.array(segment.graded_SX3[..., 2])
    row("numpy: 1 - prod(1 - column) over 25 columns, and its best ten", median_ms(lambda: _dense(columns_SX), 5), "ms")
    meanings = {phrase.meaning for phrase in read_phrases() if phrase.meaning}
    turns = max(size.turns // 7, 1)
    times_of = {line: median_ms(searched(_tree(line)), turns) for line in sorted(meanings)}
    worst = max(times_of, key=times_of.__getitem__)
    row(f"trees: median of {len(meanings)} meanings", float(np.median([*times_of.values()])), "ms", size.tree_ms)
    slow = sum(milliseconds > size.tree_ms for milliseconds in times_of.values())
    row("trees: the slowest of them", times_of[worst], "ms", size.tree_ms, f"{worst}; {slow} exceed the aim")
    for count in KNOWN:
        known = random_segment("known", count, seed=count, dimensions=2, labelled=True)
        of_kinds = [median_ms(searched(tree, known), size.turns) for tree in trees.values()]
        alone = [median_ms(searched(tree), size.turns) for tree in trees.values()]
        more = [told - ranked for told, ranked in zip(of_kinds, alone, strict=True)]
        row(f"to tell the worth by {count:,} known studies, in addition", float(np.median(more)), "ms")


def _tree(line: str) -> Tree:
    tree = parse_canonical(line).tree
    assert tree is not None
    return tree


def _dense(column_SX: np.ndarray) -> np.ndarray:
    score_S = 1 - (1 - column_SX).prod(axis=1)
    best = np.argpartition(score_S, -TOP)[-TOP:]
    return best[np.argsort(-score_S[best])]


def measure_vectors(size: Size, segment: Segment, folder: Path) -> None:
    """Measure the likeness of sites to a vector, in turn with other programs."""
    vector_ND = segment.vector_XSD.reshape(-1, DIMENSIONS)
    vector_D = random_vectors(np.random.default_rng(1), 1, DIMENSIONS)[0, 0]
    places = {"one site": range(7, 8), "one condition": range(5, 15), "all sites": range(len(SITES))}
    others: dict[str, Search] = {"numpy's product": numpy_product(vector_ND)}
    if is_installed("faiss"):
        others["faiss flat"] = faiss_flat(vector_ND)
    if is_installed("lancedb"):
        others["LanceDB flat"] = lance_flat(vector_ND, folder / "lance")
    for name, sites in places.items():
        first, last = sites.start * len(segment), sites.stop * len(segment)
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(best_sites, [segment], vector_D, [SITES[index] for index in sites], TOP),
            **{other: partial(search_rows, first, last, vector_D) for other, search_rows in others.items()},
        }
        times = in_turn(calls, size.turns)
        print_vectors(size, f"free words, {name}", times, is_all=name == "all sites")


def in_turn(calls: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the median CPU time of each call in ms, measured in turn.

    Before it is timed, each call is made once, and then the processor's cache is emptied. So none pays for memory that
    was not used for a while, as after another program's long call, and none finds the vectors in the cache.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    other = np.ones(_CACHE_BYTES, dtype=np.uint8)
    for _ in range(turns):
        for name, call in calls.items():
            call()
            other += 1
            begun = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - begun))
    return {name: float(np.median(of_call)) for name, of_call in times.items()}


def print_vectors(size: Size, quantity: str, times: Mapping[str, float], is_all: bool) -> None:
    ours = times["ours"]
    row(quantity, ours, "ms", size.product_ms if is_all else None)
    for name, package in (("numpy's product", None), ("faiss flat", "faiss"), ("LanceDB flat", "lancedb")):
        if name not in times:
            print(f"    {name}: not installed ({package})")
            continue
        compared = "numpy's product" if is_all else "faiss flat"
        aim = (size.product_ratio if is_all else 1.2) if name == compared else None
        row(f"  relative to {name}", ours / times[name], "x", aim, f"{times[name]:.3g} ms")


if __name__ == "__main__":
    run_command(PROG, main)
