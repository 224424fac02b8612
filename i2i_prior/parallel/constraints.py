"""Sharding constraints on activations, and the mesh of traced code.

`on_mesh(mesh)` is entered around the body of a jitted function; inside,
`constrain` sets the sharding of an activation. Without a mesh (a notebook),
and within `data_parallel_only`, it is the identity.
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from i2i_prior.parallel.mesh import AXES, BATCH, CONTEXT, TENSOR

# Tokens of the residual stream: over tensor as well as context, so that
# norms and residuals are not repeated on every tensor shard (sequence
# parallelism, arXiv 2205.05198 section 4.2.2).
TOKENS = (CONTEXT, TENSOR)


def on_mesh(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Context in which traced code sees the axes and platform of `mesh`."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def mesh_in_use() -> Any | None:
    """Mesh that the code being traced is for, None where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.axis_names != AXES else mesh


_data_parallel: ContextVar[bool] = ContextVar("data_parallel", default=False)


@contextlib.contextmanager
def data_parallel_only() -> Iterator[None]:
    """Context in which each device works on images of its own: only the batch
    is sharded, over all axes, and `constrain` does nothing."""
    token = _data_parallel.set(True)
    try:
        yield
    finally:
        _data_parallel.reset(token)


def shard_batch(batch: jax.Array) -> jax.Array:
    """Shards a batch over the data-parallel axes."""
    return constrain(batch, BATCH)


def replicate(x: jax.Array) -> jax.Array:
    """Copies an array to every device."""
    return constrain(x, None)


def platform() -> str:
    """Platform that the code being traced is for: cpu, gpu or tpu.

    It may differ from this process' own: a program for a TPU can be compiled
    on a machine that has none.
    """
    mesh = mesh_in_use()
    device = None if mesh is None else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def shards(*axes: str) -> int:
    """Number of shards of one image's activations over these mesh axes."""
    mesh = mesh_in_use()
    if mesh is None or _data_parallel.get():
        return 1
    return math.prod(mesh.shape[axis] for axis in axes)


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Shards the leading axes of `x` over mesh axes.

    Args:
      x: any array.
      axes: mesh axes of each leading axis; None, and axes without an entry,
        are not sharded. Of several, those are taken that divide the axis.
    """
    mesh = mesh_in_use()
    if mesh is None or mesh.size == 1 or _data_parallel.get():
        return x
    spec = [
        dividing(size, (axis,) if isinstance(axis, str) else axis or (), mesh)
        for size, axis in zip(x.shape, axes, strict=False)
    ]
    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(*[axis or None for axis in spec])
    )


def dividing(size: int, axes: tuple[str, ...], mesh: Any) -> tuple[str, ...]:
    """The longest prefix of `axes` with a number of shards that divides
    `size`."""
    while axes and size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes
