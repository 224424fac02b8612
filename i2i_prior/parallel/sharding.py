"""Which axis of which parameter lies on which mesh axis: one table.

Parameters are a flat dict name -> array. A name decides the sharding, the
same for a parameter, its EMA and its Adam moments.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from i2i_prior.parallel.mesh import FSDP, TENSOR

# First match wins; specs are for the last two axes (in, out), a leading
# layer axis is never sharded. Column-parallel, then row-parallel
# (Megatron-LM, arXiv 1909.08053), so a pair needs one reduction.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/(qkv|q|k|v|fc1|gate_value|modulation)/kernel$", (FSDP, TENSOR)),
    (r"/(out|fc2)/kernel$", (TENSOR, FSDP)),
    (r"/kernel$", (None, FSDP)),
    (r"", ()),  # biases, gains, tables, null tokens: replicated
)


def partition_spec(
    name: str, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
    """The spec of one parameter; axes that do not divide stay whole."""
    axes = next(axes for rule, axes in RULES if re.search(rule, name))
    spec: list[str | None] = [None] * len(shape)
    for offset, axis in enumerate(axes):
        dimension = len(shape) - len(axes) + offset
        if axis is not None and shape[dimension] % mesh.shape[axis] == 0:
            spec[dimension] = axis
    return PartitionSpec(*spec)


def parameter_shardings(
    parameters: dict[str, Any], mesh: Mesh
) -> dict[str, NamedSharding]:
    """name -> NamedSharding for a flat dict of (abstract) arrays."""
    return {
        name: NamedSharding(mesh, partition_spec(name, array.shape, mesh))
        for name, array in parameters.items()
    }


def optimizer_shardings(
    transform: optax.GradientTransformation,
    abstract_state: Any,
    shardings: dict[str, NamedSharding],
    mesh: Mesh,
) -> Any:
    """Shardings of the optimizer state, mirroring the parameters'.

    Computed, never inferred: jit of `transform.init` would return the
    moments replicated.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    return optax.tree.map_params(
        transform,
        lambda _, sharding: sharding,
        abstract_state,
        shardings,
        transform_non_params=lambda _: whole,
    )


def explain(parameters: dict[str, Any], mesh: Mesh) -> str:
    """One line a parameter: name, shape, spec, bytes on each device."""
    lines = []
    for name, sharding in parameter_shardings(parameters, mesh).items():
        array = parameters[name]
        local = sharding.shard_shape(array.shape)
        size = int(np.prod(local)) * jax.numpy.dtype(array.dtype).itemsize
        lines.append(
            f"{name:58} {array.shape!s:20} {sharding.spec!s:40} {size:>12,}"
        )
    return "\n".join(lines)
