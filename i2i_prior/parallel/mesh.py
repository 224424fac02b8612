"""Devices laid out as (replica, fsdp, context, tensor), slow links outermost.

replica   copies of everything, for the slowest links: one gradient
          reduction a step crosses them
fsdp      shards of the batch, and of parameters and optimizer (ZeRO-3)
context   shards of the tokens of one image, and of the parameters too
tensor    shards of heads and hidden channels, for the fastest links
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from i2i_prior.errors import UserError

REPLICA, FSDP, CONTEXT, TENSOR = AXES = ("replica", "fsdp", "context", "tensor")
BATCH = (REPLICA, FSDP)


def mesh_shape(
    replica: int, fsdp: int, context: int, tensor: int, devices: int
) -> tuple[int, int, int, int]:
    """Fills in the one axis given as -1.

    Raises:
      UserError: where the product is not the device count.
    """
    sizes = [replica, fsdp, context, tensor]
    given = math.prod(size for size in sizes if size != -1)
    text = f"mesh ({', '.join(AXES)}) = ({', '.join(map(str, sizes))})"
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"{text}: sizes are positive, at most one is -1")
    if sizes.count(-1) == 1 and devices % given == 0:
        sizes[sizes.index(-1)] = devices // given
    if math.prod(sizes) != devices:
        raise UserError(
            f"{text} does not lay out {devices} devices; its product must "
            f"be {devices}, or one axis -1"
        )
    return sizes[0], sizes[1], sizes[2], sizes[3]


def slow_shape(
    shape: tuple[int, int, int, int], groups: int
) -> tuple[int, int, int, int]:
    """Number of each axis' shards on different sides of slow links.

    `groups` is the number of sets of devices with fast links among
    themselves: TPU slices, or hosts of GPUs.

    Raises:
      UserError: where context or tensor shards would have to talk over slow
        links in every layer.
    """
    replica = math.gcd(shape[0], groups)
    fsdp = math.gcd(shape[1], groups // replica)
    if replica * fsdp != groups:
        raise UserError(
            f"mesh.replica {shape[0]} and mesh.fsdp {shape[1]} do not cover "
            f"the {groups} slices or hosts of these devices; make "
            f"mesh.replica a multiple of {groups}"
        )
    return replica, fsdp, 1, 1


def make_mesh(
    replica: int = 1,
    fsdp: int = -1,
    context: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with automatic axes (XLA propagates shardings).

    Devices of several TPU slices or GPU hosts are laid out so that replica,
    then fsdp, crosses the slow links between them. One of the axis sizes may
    be -1; devices are all when None.

    Raises:
      UserError: where the sizes do not fit the devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    shape = mesh_shape(replica, fsdp, context, tensor, len(devices))
    # Mesh, unlike jax.make_mesh, has Auto axes; said all the same.
    return Mesh(layout(shape, devices), AXES, axis_types=(AxisType.Auto,) * 4)


def layout(shape: tuple[int, int, int, int], devices: list[Any]) -> np.ndarray:
    """Devices as an array of this shape, neighbours along the inner axes."""
    groups = {getattr(device, "slice_index", 0) for device in devices}
    if len(groups) > 1:
        slow = slow_shape(shape, len(groups))
        fast = tuple(n // m for n, m in zip(shape, slow, strict=True))
        return mesh_utils.create_hybrid_device_mesh(
            fast, slow, devices, allow_split_physical_axes=True
        )
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:
        # No product of the torus' own axes: an axis is then cut in two, and
        # both halves share its links.
        return mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over replica and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())
