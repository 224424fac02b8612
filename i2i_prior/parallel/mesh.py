"""Devices laid out as (replica, fsdp, tensor), slow links outermost."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from i2i_prior.errors import UserError

REPLICA, FSDP, TENSOR = AXES = ("replica", "fsdp", "tensor")
BATCH = PartitionSpec((REPLICA, FSDP))


def mesh_shape(
    replica: int, fsdp: int, tensor: int, devices: int
) -> tuple[int, int, int]:
    """Fills in the one axis given as -1.

    Raises:
      UserError: where the product is not the device count.
    """
    sizes = [replica, fsdp, tensor]
    given = int(np.prod([size for size in sizes if size != -1]))
    text = f"mesh (replica, fsdp, tensor) = ({replica}, {fsdp}, {tensor})"
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"{text}: sizes are positive, at most one is -1")
    if sizes.count(-1) == 1 and devices % given == 0:
        sizes[sizes.index(-1)] = devices // given
    if int(np.prod(sizes)) != devices:
        raise UserError(
            f"{text} does not lay out {devices} devices; its product must "
            f"be {devices}, or one axis -1"
        )
    return sizes[0], sizes[1], sizes[2]


def make_mesh(
    replica: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with automatic axes (XLA propagates shardings).

    Args:
      replica, fsdp, tensor: axis sizes; one may be -1.
      devices: all devices when None.

    Raises:
      UserError: where the sizes do not fit the devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    shape = mesh_shape(replica, fsdp, tensor, len(devices))
    # jax.make_mesh defaults to Explicit axes: the types are always said.
    return jax.make_mesh(
        shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over replica and fsdp."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())
