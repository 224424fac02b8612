"""Which rows a process needs, where axes of the mesh cross processes."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from i2i_prior.parallel.global_arrays import Rows, local_rows, place, to_global
from i2i_prior.parallel.mesh import batch_sharding


@dataclass(frozen=True)
class Device:
    """What is asked of a device."""

    process_index: int
    number: int


class Laid:
    """A sharding of a batch of 8 over devices of several processes."""

    def __init__(self, *rows: tuple[int, slice]):
        self._rows = rows

    def devices_indices_map(self, shape):
        assert shape == (8,)
        return {
            Device(process, number): (rows,)
            for number, (process, rows) in enumerate(self._rows)
        }


QUARTERS = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]


@pytest.mark.parametrize(
    ("laid", "here", "counted"),
    [
        # Data parallel: this process (0) has the first half.
        (list(zip((0, 0, 1, 1), QUARTERS, strict=True)), range(4), range(4)),
        # Devices laid out for a torus: its rows lie apart.
        (
            list(zip((1, 0, 1, 0), QUARTERS, strict=True)),
            (2, 3, 6, 7),
            range(4),
        ),
        # Tensor shards on another process: both have all rows.
        ([(0, slice(None)), (1, slice(None))], range(8), range(8)),
        ([(2, slice(0, 4)), (0, slice(0, 4))], range(4), range(4)),
    ],
)
def test_rows_of_the_devices_here(laid, here, counted):
    assert local_rows(Laid(*laid), 8) == Rows(8, tuple(here), tuple(counted))


def test_a_row_is_counted_by_one_process(monkeypatch):
    laid = Laid((0, slice(0, 4)), (1, slice(2, 8)), (1, slice(0, 2)))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    rows = local_rows(laid, 8)
    assert rows.here == tuple(range(8))
    assert rows.counted == (4, 5, 6, 7)


def test_rows_become_global_arrays(meshes):
    array = np.arange(8 * 6).reshape(8, 6)
    for mesh in meshes.values():
        sharding = batch_sharding(mesh)
        rows = local_rows(sharding, 8)
        assert rows.here == rows.counted == tuple(range(8))
        found = to_global(array, sharding, rows)
        assert found.sharding.is_equivalent_to(sharding, 2)
        assert np.array_equal(found, array)
        assert np.array_equal(place(array, sharding), array)
