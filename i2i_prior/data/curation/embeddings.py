"""Near duplicates by given embeddings; records are kept as by hash.

Exact, and so quadratic: a million of 768 numbers are 4e14 multiplications, an
hour on a few cores. Beyond that hash first, and embed the kept records.
"""

import numpy as np

from i2i_prior.errors import UserError

_BLOCK = 4096  # rows compared at once: 64 MiB of products


def open_embeddings(path: str, n: int) -> np.ndarray:
    """Memory map of an .npy file of numbers (n, D); UserError if it is no such
    file, or has another number of rows."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"embeddings {path} are no .npy file of numbers ({error}): write "
            "them with numpy.save, or give phash"
        ) from error
    numbers = isinstance(found, np.ndarray) and found.dtype.kind in "fiu"
    if not numbers or found.ndim != 2 or len(found) != n or not found.shape[1]:
        shape = getattr(found, "shape", "several arrays")
        raise UserError(
            f"embeddings {path} are {shape}, and the source has {n} records: "
            f"give numbers of shape ({n}, D), one row a record in its order"
        )
    return found


def near_by_embedding(
    embeddings: np.ndarray,
    numbers: np.ndarray,
    rank: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Finds near duplicates among embeddings: O(n * kept * D) products.

    Exact, in memory that does not grow with n: blocks of rows are compared
    with blocks of the rows kept so far.

    Args:
        embeddings: (N, D) of any real dtype, a memory map or an array; a row
            of zeros is near nothing.
        numbers: int64 (n,), the rows to compare.
        rank: (n,), see `near_by_hash`.
        threshold: least cosine of near duplicates.

    Returns int64 (n,), see `near_by_hash`: places in `numbers`. UserError if a
    row is not finite.
    """
    threshold -= 1e-6  # in float32 cos(x, x) may be just below 1
    order = np.argsort(rank)
    instead = np.full(len(order), -1, np.int64)
    kept = np.empty(len(order), np.int64)
    count = 0
    for block in np.split(order, range(_BLOCK, len(order), _BLOCK)):
        rows = _unit_rows(embeddings, numbers[block])
        for start in range(0, count, _BLOCK):
            others = kept[start : min(start + _BLOCK, count)]
            near = rows @ _unit_rows(embeddings, numbers[others]).T >= threshold
            found = near.any(1) & (instead[block] < 0)
            instead[block[found]] = others[near[found].argmax(1)]
        free = np.flatnonzero(instead[block] < 0)
        near = np.triu(rows[free] @ rows[free].T >= threshold, 1)
        for place, row in enumerate(near):  # those above `place` are worse
            if instead[block[free[place]]] < 0:
                taken = block[free[row]]
                taken = taken[instead[taken] < 0]
                instead[taken] = block[free[place]]
        stay = block[instead[block] < 0]
        kept[count : count + len(stay)] = stay
        count += len(stay)
    return instead


def _unit_rows(embeddings: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Rows as float32 of length 1; zeros stay zeros."""
    rows = np.asarray(embeddings[numbers], np.float32)
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise UserError(
            f"embedding {numbers[~finite].min()} holds a value that is not "
            "finite: compute it again, or set the row to zeros, which are near "
            "nothing"
        )
    largest = np.abs(rows).max(1, keepdims=True, initial=1e-30)
    rows = rows / largest  # squares of large numbers would overflow
    return rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)[:, None]
