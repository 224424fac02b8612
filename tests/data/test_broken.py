"""Broken images: replaced the same way each time, counted, refused if many."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.broken import BrokenTally
from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError

OPTIONS = DataOptions.of(image_size=8, batch_size=20)


def jpeg(index: int, side: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (8 * index, 0, 0)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def source(tmp_path):
    """Ten images, of which 2 is empty, 3 is cut and 4 is junk."""
    data = [jpeg(i) for i in range(10)]
    data[2], data[3], data[4] = b"", data[3][:-99], b"junk"
    for i, content in enumerate(data):
        (tmp_path / f"{i}.jpg").write_bytes(content)
    return open_source(f"folder:{tmp_path}")


def test_substitutes_are_deterministic_and_reported(source):
    batch = Pipeline(source, OPTIONS).batch(4)  # two whole epochs
    again = Pipeline(source, OPTIONS, range(10, 20)).batch(4)
    for name in batch:
        assert np.array_equal(batch[name][10:], again[name])
    replaced = batch["broken"] >= 0
    assert sorted(batch["broken"][replaced].tolist()) == [2, 2, 3, 3, 4, 4]
    assert not set(batch["index"].tolist()) & {2, 3, 4}
    red = batch["image"][..., 0].mean((1, 2))
    assert np.abs(red - 8 * batch["index"]).max() < 4
    # What was whole is untouched by its neighbours' damage.
    wanted = np.where(replaced, batch["broken"], batch["index"])
    assert np.array_equal(np.sort(wanted), np.repeat(np.arange(10), 2))


def test_files_that_vanish_are_broken_too(source, tmp_path):
    (tmp_path / "7.jpg").unlink()
    batch = Pipeline(source, OPTIONS).batch(0)
    assert 7 in batch["broken"]
    assert 7 not in batch["index"]
    tally = BrokenTally(source)
    tally.add({"broken": np.array([7])})
    assert tally.names() == [
        "image 7 (cannot be read (No such file or directory))"
    ]


def test_too_small_counts_as_broken(source, tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0, side=12))
    options = DataOptions.of(image_size=8, batch_size=20, min_side=13)
    assert 0 in Pipeline(source, options).batch(0)["broken"]
    assert 0 not in Pipeline(source, OPTIONS).batch(0)["broken"]


@pytest.mark.parametrize("crop", ["random", "center"])
def test_nothing_readable_ends_at_once(tmp_path, crop):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"junk")
    source = open_source(f"folder:{tmp_path}")
    options = DataOptions.of(image_size=8, batch_size=2, crop=crop)
    with pytest.raises(UserError, match=r"no readable image.*\d\.jpg"):
        Pipeline(source, options).batch(0)
    iterator = Pipeline(source, options).batches_from(0)
    with pytest.raises(UserError, match="no readable image"):
        next(iterator)


def test_one_readable_image_is_enough(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i) if i == 4 else b"")
    source = open_source(f"folder:{tmp_path}")
    batch = Pipeline(source, OPTIONS).batch(0)
    assert (batch["index"] == 4).all()


def test_tally_counts_names_and_refuses(source):
    pipeline, tally = Pipeline(source, OPTIONS), BrokenTally(source)
    for step in range(4):
        tally.add(pipeline.batch(step))
    assert tally.seen == 80
    assert tally.broken == 24
    assert sorted(tally.indices) == [2, 3, 4]
    tally.check(0.01)  # too few seen to judge
    tally.add(pipeline.batch(4))
    tally.check(0.3)  # 30 of 100: just allowed
    with pytest.raises(UserError, match=r"30 of 100 .*") as caught:
        tally.check(0.29)
    text = str(caught.value)
    assert "2.jpg (is empty)" in text
    assert "3.jpg (cannot be decoded" in text
    assert "4.jpg (is no image of a known format)" in text
    assert "max_broken" in text
    assert sorted(name[:5] for name in tally.names()) == [
        "2.jpg",
        "3.jpg",
        "4.jpg",
    ]


def test_tally_of_sound_images_is_quiet(source):
    tally = BrokenTally(source)
    tally.add({"broken": np.full(1000, -1)})
    tally.check(0.0)
    assert tally.names() == []


def test_hosts_count_together_and_decide_the_same(source):
    """The second of two hosts also reads two examples of the first."""
    texts, met = ["", ""], threading.Barrier(2)

    def host(number):
        def gather(name, text):
            texts[number] = text
            met.wait(10)
            found = list(texts)
            met.wait(10)
            return found

        rows, places = [(range(10), None), (range(8, 20), range(2, 12))][number]
        pipeline = Pipeline(source, OPTIONS, rows)
        tally = BrokenTally(source, places, gather)
        for step in range(5):
            tally.add(pipeline.batch(step))
        tally.check(0.3)
        with pytest.raises(UserError) as caught:
            tally.check(0.29)
        return tally.seen, tally.broken, tally.names(), str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(host, range(2))
    assert first == second
    assert first[:2] == (100, 30)
    assert sorted(name[:5] for name in first[2]) == ["2.jpg", "3.jpg", "4.jpg"]
