"""The batch of a step: the same on any hosts, threads, workers, restarts."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest

from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.record import Record
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError


class Planes:
    """Images of one colour each: red tells the record."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        noise = np.random.default_rng(index).integers(256, size=(20, 24, 3))
        noise[..., 0] = index % 256
        return Record(str(index), noise.astype(np.uint8))

    def fingerprint(self) -> str:
        return "0" * 16


def options(**changes) -> DataOptions:
    plain = {
        "image_size": 8,
        "batch_size": 12,
        "view_size": 6,
        "view_min_scale": 0.5,
        "view_flip": 0.5,
        "view_jitter": 0.1,
    }
    return DataOptions.of(**{**plain, **changes})


OPTIONS = options()


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert np.array_equal(first[name], second[name]), name


def test_a_batch_has_the_stated_arrays():
    batch = Pipeline(Planes(30), OPTIONS).batch(3)
    stated = {name: (a.shape, a.dtype.name) for name, a in batch.items()}
    assert stated == {
        "image": ((12, 8, 8, 3), "uint8"),
        "view": ((12, 6, 6, 3), "uint8"),
        "index": ((12,), "int32"),
        "broken": ((12,), "int32"),
    }
    assert (batch["image"][:, 0, 0, 0] == batch["index"]).all()
    assert (batch["broken"] == -1).all()
    assert "view" not in Pipeline(Planes(30), options(view_size=0)).batch(3)


def test_a_batch_is_a_function_of_seed_and_step():
    pipeline = Pipeline(Planes(30), OPTIONS)
    assert_same(pipeline.batch(5), Pipeline(Planes(30), OPTIONS).batch(5))
    first = pipeline.batch(5)["image"]
    assert not np.array_equal(first, pipeline.batch(6)["image"])
    other = Pipeline(Planes(30), options(seed=1)).batch(5)["image"]
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("length", [7, 5000])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(length, hosts):
    whole = Pipeline(Planes(length), OPTIONS).batch(11)
    parts = [
        Pipeline(Planes(length), OPTIONS, rows).batch(11)
        for rows in np.split(np.arange(OPTIONS.batch_size), hosts)
    ]
    joined = {k: np.concatenate([part[k] for part in parts]) for k in whole}
    assert_same(whole, joined)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_change_nothing_and_resuming_is_slicing(threads):
    pipeline = Pipeline(Planes(30), options(threads=threads, prefetch=5))
    for start in (0, 4):
        iterator = pipeline.batches_from(start)
        for step in range(start, start + 9):
            assert_same(next(iterator), pipeline.batch(step))
        iterator.close()


# One test for all that worker processes do: starting them takes seconds.
def test_workers_change_nothing(tmp_path):
    source = open_source("builtin:photos")
    pipeline = Pipeline(source, options(batch_size=4, threads=1))
    parallel = Pipeline(
        source, options(batch_size=4, threads=1, workers=2), [2, 3]
    )
    iterator = parallel.batches_from(3)
    for step in range(3, 8):
        batch = next(iterator)
        whole = pipeline.batch(step)
        assert_same(batch, {k: whole[k][2:] for k in whole})
        assert all(type(array) is np.ndarray for array in batch.values())
    iterator.close()


def test_a_far_start_does_not_replay():
    pipeline = Pipeline(Planes(30), OPTIONS)
    start = time.monotonic()
    iterator = pipeline.batches_from(1_000_000)
    batch = next(iterator)
    assert time.monotonic() - start < 2
    assert_same(batch, pipeline.batch(1_000_000))
    iterator.close()


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    iterator = Pipeline(Planes(30), OPTIONS).batches_from(0)
    next(iterator)
    started = set(threading.enumerate()) - before
    assert started
    iterator.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


# 7 and 30: permuted whole; 4100: shuffled place by place.
@pytest.mark.parametrize(("length", "batch"), [(7, 5), (30, 12), (4100, 82)])
def test_every_epoch_shows_every_image_once_in_a_new_order(length, batch):
    class Counted(Planes):
        def __getitem__(self, index):
            return Record(str(index), np.zeros((1, 1, 3), np.uint8))

    small = DataOptions.of(image_size=1, batch_size=batch)
    pipeline = Pipeline(Counted(length), small)
    steps = -(-2 * length // batch)
    shown = np.concatenate([pipeline.batch(k)["index"] for k in range(steps)])
    first, second = shown[:length], shown[length : 2 * length]
    assert np.array_equal(np.sort(first), np.arange(length))
    assert np.array_equal(np.sort(second), np.arange(length))
    assert not np.array_equal(first, second)
    # Seed 1 does not begin with an epoch of seed 0.
    other = Pipeline(Counted(length), dataclasses.replace(small, seed=1))
    begin = np.concatenate([other.batch(k)["index"] for k in range(steps)])
    assert not np.array_equal(begin[:length], first)
    assert not np.array_equal(begin[:length], second)


def test_small_orders_are_uniform():
    small = DataOptions.of(image_size=1, batch_size=3, crop="center")
    pipeline = Pipeline(Planes(3), small)
    orders = [tuple(pipeline.batch(k)["index"].tolist()) for k in range(600)]
    counts = [orders.count(p) for p in itertools.permutations(range(3))]
    assert sum(counts) == 600
    assert min(counts) > 65  # 100 expected, 9 the standard deviation


def test_no_shuffle_keeps_the_order():
    pipeline = Pipeline(Planes(5), options(shuffle=False, batch_size=4))
    shown = [pipeline.batch(k)["index"].tolist() for k in range(3)]
    assert shown == [[0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1]]


def test_a_source_of_one_image_works():
    batch = Pipeline(Planes(1), OPTIONS).batch(0)
    assert (batch["index"] == 0).all()
    assert len(np.unique(batch["image"].reshape(12, -1), axis=0)) == 12


def test_the_same_image_is_cropped_anew_each_epoch():
    pipeline = Pipeline(Planes(12), options(shuffle=False))
    first, second = pipeline.batch(0), pipeline.batch(1)
    assert np.array_equal(first["index"], second["index"])
    assert (first["image"] != second["image"]).any((1, 2, 3)).all()


def test_the_target_does_not_depend_on_the_view():
    with_view = Pipeline(Planes(30), OPTIONS).batch(0)
    without = Pipeline(Planes(30), options(view_size=0)).batch(0)
    assert np.array_equal(with_view["image"], without["image"])


def test_a_plain_view_shows_the_target_mirrored_alike():
    plain = options(
        view_size=8, view_min_scale=1.0, view_flip=0.0, view_jitter=0.0
    )
    batch = Pipeline(Planes(30), plain).batch(0)
    assert np.array_equal(batch["image"], batch["view"])


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_come_at_their_rate(probability):
    class Ramp(Planes):
        def __getitem__(self, index):
            row = np.arange(32, dtype=np.uint8)
            return Record("r", np.tile(row[None, :, None], (32, 1, 3)))

    plain = DataOptions.of(
        image_size=8, batch_size=400, crop="center", flip=probability
    )
    image = Pipeline(Ramp(3), plain).batch(0)["image"].astype(int)
    share = (image[:, 0, 0, 0] > image[:, 0, -1, 0]).mean()
    assert share == pytest.approx(probability, abs=0.08)


def test_center_crops_are_all_alike():
    plain = options(crop="center", flip=0.0, view_size=0, shuffle=False)
    pipeline = Pipeline(Planes(6), plain)
    image = pipeline.batch(0)["image"]
    assert np.array_equal(image[:6], image[6:])


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"crop": "centre"},
        {"min_scale": 0.0},
        {"flip": 1.5},
        {"view_min_scale": 2.0},
        {"view_jitter": -0.1},
        {"threads": 0},
        {"workers": -1},
        {"max_broken": float("nan")},
    ],
)
def test_bad_options_are_named_in_one_sentence(changes):
    with pytest.raises(UserError) as caught:
        options(**changes)
    assert next(iter(changes)) in str(caught.value)
    assert str(caught.value).count(".") >= 1
    assert str(caught.value).endswith(".")


def test_a_host_makes_any_rows():
    whole = Pipeline(Planes(30), OPTIONS).batch(3)
    some = Pipeline(Planes(30), OPTIONS, [1, 2, 5]).batch(3)
    assert_same(some, {name: whole[name][[1, 2, 5]] for name in whole})
    for rows in ([], [OPTIONS.batch_size]):
        with pytest.raises(ValueError, match="rows"):
            Pipeline(Planes(3), OPTIONS, rows)


def test_negative_steps_are_refused():
    with pytest.raises(IndexError):
        Pipeline(Planes(3), OPTIONS).batch(-1)
