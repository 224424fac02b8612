"""Pairs: two images of one record, cut and flipped together."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.decode_image import decode
from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.record import Record, split_name
from i2i_prior.data.sources.registry import open_source
from i2i_prior.errors import UserError
from tests.data.fixtures_sources import write_folder, write_tar

FACADES = Path(__file__).parents[3] / "shared/data/facades/val.tar"
COUNT = 9


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (20, 24, 3), np.uint8)


@pytest.fixture
def members() -> dict[str, bytes]:
    """Photographs, and labels that are their negatives."""
    found = {}
    for number in range(COUNT):
        photo = pixels(number)
        found[f"a/{number}.labels.png"] = png(255 - photo)
        found[f"a/{number}.photo.png"] = png(photo)
        found[f"a/{number}.photo.txt"] = b"a house"
    return found


@pytest.fixture(params=["tar", "folder"])
def spec(request, tmp_path, members) -> str:
    if request.param == "tar":
        write_tar(tmp_path / "x.tar", members)
        return f"tar:{tmp_path}/x.tar"
    write_folder(tmp_path / "x", members)
    return f"folder:{tmp_path}/x"


def options(**changes) -> DataOptions:
    plain = {"image_size": 8, "batch_size": COUNT, "seed": 3}
    return DataOptions.of(**{**plain, **changes})


def test_files_of_one_key_are_one_record(spec):
    source = open_source(f"{spec}#image=photo.png")
    assert len(source) == COUNT
    record = source[4]
    assert record.name.endswith("4.photo.png")
    assert np.array_equal(decode(record), pixels(4))
    assert record.image() == record.image("photo.png") == record.data
    labels = decode(Record("", record.image("labels.png")))
    assert np.array_equal(labels, 255 - pixels(4))
    with pytest.raises(KeyError):
        record.image("depth.png")


def test_a_folder_without_the_option_holds_each_image_by_itself(
    tmp_path, members
):
    write_folder(tmp_path, members)
    source = open_source(f"folder:{tmp_path}")
    assert len(source) == 2 * COUNT
    assert source[1].fields == {"captions": ("a house",)}


def test_a_folder_lacks_the_image_that_is_named(tmp_path, members):
    write_folder(tmp_path, members)
    with pytest.raises(UserError, match=r"holds no image depth\.png"):
        open_source(f"folder:{tmp_path}#image=depth.png")


@pytest.mark.parametrize("crop", ["random", "center"])
@pytest.mark.parametrize("image", ["photo.png", "labels.png"])
def test_both_images_are_cut_and_flipped_together(spec, crop, image):
    source = open_source(f"{spec}#image={image}")
    pair = options(pair="labels.png:photo.png", crop=crop)
    batch = Pipeline(source, pair).batch(2)
    assert batch["image"].shape == batch["source_image"].shape
    assert batch["source_image"].dtype == np.uint8
    total = batch["image"].astype(int) + batch["source_image"]
    assert np.abs(total - 255).max() <= 2  # each is rounded by itself
    plain = Pipeline(source, options(crop=crop)).batch(2)
    own = "image" if image == "photo.png" else "source_image"
    assert np.array_equal(plain["image"], batch[own])
    assert np.array_equal(plain["index"], batch["index"])


def test_the_target_may_be_left_to_the_source(spec):
    source = open_source(f"{spec}#image=photo.png")
    short = Pipeline(source, options(pair="labels.png")).batch(0)
    long = Pipeline(source, options(pair="labels.png:photo.png")).batch(0)
    for name, array in long.items():
        assert np.array_equal(short[name], array)


def test_hosts_see_parts_of_one_batch_of_pairs(spec):
    source = open_source(f"{spec}#image=photo.png")
    pair = options(pair="labels.png:photo.png", view_size=4, view_jitter=0.2)
    whole = Pipeline(source, pair).batch(5)
    part = Pipeline(source, pair, [1, 4, 5]).batch(5)
    for name, array in whole.items():
        assert np.array_equal(array[[1, 4, 5]], part[name])


def test_a_pair_that_is_not_whole_counts_as_broken(tmp_path, members):
    del members["a/3.labels.png"]
    members["a/5.labels.png"] = png(pixels(5)[:-1])
    write_folder(tmp_path, members)
    source = open_source(f"folder:{tmp_path}#image=photo.png")
    batch = Pipeline(source, options(pair="labels.png:photo.png")).batch(0)
    broken = batch["broken"]
    assert sorted(broken[broken >= 0].tolist()) == [3, 5]
    assert not {3, 5} & set(batch["index"].tolist())


def test_a_source_without_the_pair_ends_in_a_sentence(spec):
    source = open_source(f"{spec}#image=photo.png")
    with pytest.raises(UserError, match="min_side and pair"):
        Pipeline(source, options(pair="depth.png:photo.png")).batch(0)


@pytest.mark.parametrize(
    "pair", [":", "a.png:", ":a.png", "a.png:a.png", "a.png:b.png:c.png"]
)
def test_bad_pairs_are_named(pair):
    with pytest.raises(UserError, match="option pair must be"):
        options(pair=pair)


def test_keys_end_at_the_first_dot():
    assert split_name("a.b/x.photo.PNG") == ("a.b/x", "photo.png")
    assert split_name("x") == ("x", "")


@pytest.mark.skipif(
    not FACADES.exists(), reason="the shared data is not on this machine"
)
def test_real_pairs():
    source = open_source(f"tar:{FACADES}#image=photo.jpg")
    pair = options(image_size=64, pair="labels.jpg:photo.jpg")
    batch = Pipeline(source, pair).batch(1)
    assert (batch["broken"] == -1).all()
    # The labels are flat areas, the photographs are not.
    flat = [
        (np.diff(batch[name].astype(int), axis=2) == 0).mean()
        for name in ("source_image", "image")
    ]
    assert flat[0] > 2 * flat[1]
