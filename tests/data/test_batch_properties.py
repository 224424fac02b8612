"""Properties of batches for any seed, step, hosts and batch size."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.record import Record


class Coloured:
    """Images of random colours, of different sizes; some are broken."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> Record:
        if index % 9 == 4:
            return Record(str(index), b"no image")
        rng = np.random.default_rng(index)
        sides = rng.integers(5, 30, 2)
        return Record(str(index), rng.integers(0, 256, (*sides, 3), np.uint8))

    def fingerprint(self) -> str:
        return "0" * 16


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    step=st.integers(0, 2**40),
    hosts=st.integers(1, 6),
    rows=st.integers(1, 4),
    crop=st.sampled_from(["random", "center"]),
    view=st.sampled_from([0, 6]),
)
def test_hosts_see_parts_of_one_batch(seed, step, hosts, rows, crop, view):
    options = DataOptions.of(
        image_size=8,
        batch_size=hosts * rows,
        seed=seed,
        crop=crop,
        view_size=view,
        view_min_scale=0.5,
        view_jitter=0.2,
    )
    whole = Pipeline(Coloured(), options).batch(step)
    parts = [
        Pipeline(
            Coloured(), options, range(host * rows, (host + 1) * rows)
        ).batch(step)
        for host in range(hosts)
    ]
    for name, array in whole.items():
        together = np.concatenate([part[name] for part in parts])
        assert together.tobytes() == array.tobytes()
        assert together.dtype == array.dtype
    # Example n of a run is the same in whatever batches it is cut.
    single = dataclasses.replace(options, batch_size=1)
    number = step * hosts * rows + hosts * rows - 1
    last = Pipeline(Coloured(), single).batch(number)
    for name, array in whole.items():
        assert last[name][0].tobytes() == array[-1].tobytes()
