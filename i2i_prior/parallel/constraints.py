"""What a traced function knows of the mesh it will run on.

`on_mesh(mesh)` is entered around the body of a jitted function; inside,
`constrain` says how an activation lies. Without a mesh (a notebook), and
`data_parallel_only`, it is the identity.
"""

from __future__ import annotations

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
    """Traced code inside sees the axes and the platform of `mesh`."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def mesh_in_use() -> Any | None:
    """The mesh that the code being traced is for, None where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.axis_names != AXES else mesh


_per_image: ContextVar[bool] = ContextVar("data_parallel_only", default=False)


@contextlib.contextmanager
def data_parallel_only() -> Iterator[None]:
    """Inside, a device works on whole images of its own: only the batch is
    sharded, over all axes (`shard_all`), and activations are left alone."""
    token = _per_image.set(True)
    try:
        yield
    finally:
        _per_image.reset(token)


def shard_all(batch: jax.Array) -> jax.Array:
    """A batch laid over all mesh axes, as far as they divide it."""
    return constrain(batch, AXES)


def shard_batch(batch: jax.Array) -> jax.Array:
    """A batch laid over the data-parallel axes."""
    return constrain(batch, BATCH)


def whole(x: jax.Array) -> jax.Array:
    """The same on every device."""
    return constrain(x, None)


def platform() -> str:
    """What the code being traced will run on: cpu, gpu or tpu.

    Not always this process' own: a program for a TPU can be compiled on a
    machine that has none.
    """
    mesh = mesh_in_use()
    device = None if mesh is None else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def shards(*axes: str) -> int:
    """Into how many parts these mesh axes cut one image's activations."""
    mesh = mesh_in_use()
    if mesh is None or _per_image.get():
        return 1
    return math.prod(mesh.shape[axis] for axis in axes)


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Lays the leading axes of `x` over mesh axes; None and the rest: whole.

    Of mesh axes that do not divide an axis, those that do are taken.
    """
    mesh = mesh_in_use()
    if mesh is None or mesh.size == 1 or _per_image.get():
        return x
    spec = [
        dividing(size, (axis,) if isinstance(axis, str) else axis or (), mesh)
        for size, axis in zip(x.shape, axes, strict=False)
    ]
    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(*[axis or None for axis in spec])
    )


def dividing(size: int, axes: tuple[str, ...], mesh: Any) -> tuple[str, ...]:
    """The longest beginning of `axes` whose shards together divide `size`."""
    while axes and size % math.prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes
