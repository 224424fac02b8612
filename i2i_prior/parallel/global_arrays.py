"""Global arrays from those of each process, on any mesh."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding


@dataclass(frozen=True)
class Rows:
    """Rows of the global batch."""

    size: int  # of the global batch
    # Rows that lie on devices of this process, in order. Where an axis of the
    # mesh other than the batch's crosses processes, several processes have the
    # same row.
    here: tuple[int, ...]
    # Places in `here` of the rows that no process of a lower number has, so
    # that what is counted over them is counted once
    counted: tuple[int, ...]


def local_rows(sharding: NamedSharding, size: int) -> Rows:
    """Rows of a global batch of this size on devices of this process, from
    the sharding of its first axis."""
    me = jax.process_index()
    owner: dict[int, int] = {}
    here = set()
    device: Any
    for device, index in sharding.devices_indices_map((size,)).items():
        for row in range(*index[0].indices(size)):
            process = device.process_index
            owner[row] = min(process, owner.get(row, process))
            if process == me:
                here.add(row)
    rows = tuple(sorted(here))
    counted = [place for place, row in enumerate(rows) if owner[row] == me]
    return Rows(size, rows, tuple(counted))


def place(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """Global array of values that every process holds in full.

    `jax.device_put` would first compare the array over all processes.
    """
    return jax.make_array_from_callback(
        array.shape, sharding, array.__getitem__
    )


def to_global(
    array: np.ndarray, sharding: NamedSharding, rows: Rows
) -> jax.Array:
    """Global array (rows.size, ...) of this process' rows (len(here), ...).

    `jax.make_array_from_process_local_data` needs a batch that is sharded
    over all processes, which tensor and context axes need not do.
    """
    shape = (rows.size, *array.shape[1:])
    place = {row: number for number, row in enumerate(rows.here)}

    def shard(index: Any) -> np.ndarray:
        wanted = range(*index[0].indices(rows.size))
        first = place[wanted[0]]
        # Rows that lie together globally do so here: both are in order.
        return array[first : first + len(wanted)][(slice(None), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, shard)
