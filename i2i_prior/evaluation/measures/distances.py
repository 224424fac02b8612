"""Checks of two feature sets, and their distances, a slab at a time."""

from collections.abc import Iterator

import numpy as np

from i2i_prior.errors import UserError

_SLAB = 1 << 22  # numbers of a slab, 32 MB of float64
# Share of |x|^2 below the resolution of float32 features: taken as equal.
_EQUAL = 2e-14


def feature_rows(
    first: np.ndarray, second: np.ndarray, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Checks two feature sets (n, d), (m, d) and converts them to float64.

    UserError for other widths, fewer rows, or a value that is not finite.
    """
    pair = np.asarray(first, np.float64), np.asarray(second, np.float64)
    shapes = " and ".join(str(rows.shape) for rows in pair)
    if (
        any(rows.ndim != 2 for rows in pair)
        or len({rows.shape[-1] for rows in pair}) != 1
    ):
        raise UserError(
            f"features of shapes {shapes} do not compare; pass two arrays "
            "(n, d) and (m, d) of the same features."
        )
    fewest = min(map(len, pair))
    if fewest < at_least:
        raise UserError(
            f"this measure needs at least {at_least} images a side, one side "
            f"has {fewest}; draw more samples."
        )
    if not all(np.isfinite(rows).all() for rows in pair):
        raise UserError(
            "the features hold NaN or infinity; look at the images and at "
            "the function that computed them."
        )
    return pair


def squared_distances(
    x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields slabs (rows of x, |x_i - y_j|^2 (len(rows), m)) in float64.

    Computed as |x|^2 + |y|^2 - 2 x.y about the mean of y. The rounding error
    of equal rows is set to 0, so that copies are at distance 0 exactly.
    """
    centre = y.mean(axis=0)
    y = y - centre
    y_squares = np.einsum("nd,nd->n", y, y)
    step = max(_SLAB // len(y), 1)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        part = x[rows] - centre
        squares = np.einsum("nd,nd->n", part, part)[:, None]
        slab = part @ y.T
        slab *= -2.0
        slab += squares
        slab += y_squares
        slab[slab <= _EQUAL * squares] = 0.0
        yield rows, slab
