"""Positions of tokens: fixed sin-cos tables and rotary phases, both 2-D."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def sincos_2d(
    width: int,
    grid: tuple[int, int],
    base_size: int | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Fixed 2-D table, float32 (h * w, width), tokens in row-major order.

    The first half of the channels encodes the column, the second half the
    row ("w first", as MAE, DiT and PixArt have it); each half is
    [sin | cos] with frequencies 1 / 10000^(k / (width / 4)). Positions are
    arange(n) / (n / base_size) / scale.

    `width` is divisible by 4, `grid` is (h, w) in tokens. `base_size` is the
    number of tokens a side the model was designed for; the row count when None,
    which leaves integer positions on a square grid. `scale` is PixArt's
    `lewei_scale`, a further division of the positions.
    """
    base = base_size or grid[0]
    # float32 positions under float64 frequencies, as in the official code.
    rows = np.arange(grid[0], dtype=np.float32) / (grid[0] / base) / scale
    columns = np.arange(grid[1], dtype=np.float32) / (grid[1] / base) / scale
    column, row = np.meshgrid(columns, rows)
    return sincos_at(width, row, column)


def sincos_at(width: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The table of `sincos_2d`, float32 (N, width), at any N positions, whose
    rows and columns are in tokens; width is divisible by 4."""
    omega = 1.0 / 10_000 ** (np.arange(width // 4) / (width / 4))

    def encode(position: np.ndarray) -> np.ndarray:
        angles = position.reshape(-1)[:, None] * omega
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    table = np.concatenate([encode(columns), encode(rows)], axis=1)
    return table.astype(np.float32)


def rope_2d(head_width: int, grid: tuple[int, int]) -> np.ndarray:
    """Angles of 2-D rotary embeddings, float32 (h * w, head_width // 2).

    The first half of the pairs turns with the row, the second with the
    column (axial RoPE, arXiv 2403.13298 section 3.2), base 10,000. Any
    remainder of head_width / 4 stays unrotated.
    """
    pairs = head_width // 4
    omega = 1.0 / 10_000 ** (np.arange(pairs) / max(pairs, 1))
    rows, columns = np.indices(grid).reshape(2, -1, 1)
    angles = np.concatenate([rows * omega, columns * omega], axis=1)
    rest = head_width // 2 - angles.shape[1]
    return np.pad(angles, ((0, 0), (0, rest))).astype(np.float32)


def rotate(x: Array, angles: np.ndarray) -> Array:
    """Turns channel pairs (i, i + d/2) of x (B, N, heads, d) by the angles of
    `rope_2d`, (N, d // 2)."""
    cos = jnp.cos(angles)[None, :, None]
    sin = jnp.sin(angles)[None, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return turned.astype(x.dtype)
