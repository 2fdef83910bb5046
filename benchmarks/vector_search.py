"""Other programs' exact search over the same vectors, for `benchmarks.query`: numpy, faiss's flat index, LanceDB.

faiss-cpu and LanceDB are no dependencies of this project; each is measured where it is installed. All search rows
`first` to `last` of a matrix and return ten of them. numpy's is the product alone, without the choice of the best.

Legend: N rows, D dimensions.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOP = 10
#: Searches a range of rows (first, last) for a vector (D,).
Search = Callable[[int, int, np.ndarray], object]


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def numpy_product(vector_ND: np.ndarray) -> Search:
    """Return one product of a matrix and a vector."""
    return lambda first, last, vector_D: vector_ND[first:last] @ vector_D


def faiss_flat(vector_ND: np.ndarray) -> Search:
    """Return faiss's exact search by inner product, limited to rows by a range selector; one thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vector_ND.shape[1])
    for block in _blocks(vector_ND):
        index.add(block)

    def search(first: int, last: int, vector_D: np.ndarray) -> object:
        if (first, last) == (0, index.ntotal):
            return index.search(vector_D[None], TOP)
        chosen = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, last))
        return index.search(vector_D[None], TOP, params=chosen)

    return search


def lance_flat(vector_ND: np.ndarray, folder: Path) -> Search:
    """Return LanceDB's exact search by inner product over a table without an index, rows filtered before it."""
    import lancedb
    import pyarrow as pa

    dimensions = vector_ND.shape[1]
    schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), dimensions))])

    def batches() -> Iterator[Any]:
        first = 0
        for block in _blocks(vector_ND):
            rows = pa.array(np.arange(first, first + len(block)))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), dimensions)
            yield pa.record_batch([rows, vectors], schema=schema)
            first += len(block)

    table = lancedb.connect(str(folder)).create_table("vectors", batches(), schema=schema)

    def search(first: int, last: int, vector_D: np.ndarray) -> object:
        found = table.search(vector_D).distance_type("dot").select(["row", "_distance"])
        if (first, last) != (0, len(vector_ND)):
            found = found.where(f"row >= {first} AND row < {last}", prefilter=True)
        return found.limit(TOP).to_arrow()

    return search


def _blocks(vector_ND: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vector_ND), 1 << 16):
        yield np.ascontiguousarray(vector_ND[start : start + (1 << 16)])
