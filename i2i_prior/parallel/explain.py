"""Table of the sharding of each array of a run."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.parallel.mesh import TENSOR
from i2i_prior.parallel.sharding import partition_spec, split_parts


def explain(state: Any) -> str:
    """Table with a line for each array of an abstract TrainState, and sums.

    A line has the part (params, ema, opt_state ...), the name, shape and
    dtype, the spec at rest, the spec while a layer uses it, and bytes a
    device.
    """
    lines = [
        f"{'array':64} {'shape':20} {'dtype':9} {'at rest':36} "
        f"{'in use':24} {'bytes/device':>14}"
    ]
    totals: dict[str, np.ndarray] = {}
    for path, array in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        part, _, inner = name.partition("/")
        shapes = array.sharding.shard_shape(array.shape), array.shape
        sizes = np.array([math.prod(shape) for shape in shapes], np.int64)
        sizes *= jnp.dtype(array.dtype).itemsize
        totals[part] = totals.get(part, 0) + sizes
        used = ""
        if part in ("params", "frozen"):
            mesh = array.sharding.mesh
            spec: Any = partition_spec(inner, array.shape, mesh, True)
            parts = split_parts(inner, array.shape, mesh)
            if parts > 1:
                spec = *spec[:-1], f"{parts} x {TENSOR}"
            used = _short(spec)
        lines.append(
            f"{name:64} {array.shape!s:20} {array.dtype!s:9} "
            f"{_short(array.sharding.spec):36} {used:24} {sizes[0]:>14,}"
        )
    for part, (local, whole) in totals.items():
        lines.append(
            f"sum of {part}: {local:,} bytes a device of {whole:,} "
            f"({local / max(whole, 1):.1%})"
        )
    return "\n".join(lines)


def _short(spec: Any) -> str:
    axes = (a if isinstance(a, str) else "*".join(a or "-") for a in spec)
    return f"({', '.join(axes)})"
