"""Exactness of one pass over images, on any mesh and in any batches."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.features.registry import pixel_extractor
from i2i_prior.evaluation.measures.frechet import frechet_distance
from i2i_prior.evaluation.measures.statistics import FeatureStatistics
from i2i_prior.evaluation.sets.collect import BLOCKS, collect

DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (403, 4, 4, 3)).astype(np.uint8)
WEIGHTS = DRAW.normal(size=(48, 24)).astype(np.float32)


def project(weights, images):
    # Beside a large mean raw sums would lose their digits.
    rows = images.reshape(len(images), -1) @ weights + 5
    return {"wide": rows, "narrow": rows[:, :3]}


TOY = Extractor(
    name="toy",
    label="FD-toy",
    taps={"wide": 24, "narrow": 3},
    identity={"code": 1},
    prepare=lambda images: images.astype(np.float32) / 255,
    apply=project,
    parameters=WEIGHTS,
)


def exact(images: np.ndarray) -> FeatureStatistics:
    rows = images.reshape(len(images), -1).astype(np.float64) / 255
    statistics = FeatureStatistics(24)
    statistics.update(rows @ WEIGHTS.astype(np.float64) + 5)
    return statistics


@pytest.fixture
def windows(monkeypatch):
    """Several windows, the last one short."""
    monkeypatch.setattr("i2i_prior.evaluation.sets.collect.WINDOW", 128)


@pytest.mark.parametrize(("devices", "batch"), [(1, 7), (2, 32), (4, 30)])
def test_any_mesh_and_batch_size_give_the_same(windows, devices, batch):
    found = collect(
        [IMAGES[:5], IMAGES[5:6], IMAGES[6:]],
        TOY,
        devices=jax.devices()[:devices],
        batch_size=batch,
        keep=("narrow",),
    )
    wanted = exact(IMAGES)
    assert found.count == found.statistics["wide"].count == 403
    assert frechet_distance(found.statistics["wide"], wanted) < 1e-9
    np.testing.assert_allclose(
        found.statistics["wide"].cov, wanted.cov, rtol=2e-5, atol=2e-5
    )
    assert list(found.statistics) == ["wide"]
    assert found.features["narrow"].dtype == np.float32
    np.testing.assert_allclose(
        found.features["narrow"].mean(0), wanted.mean[:3], rtol=1e-5
    )
    assert found.hash == collect([IMAGES], TOY, batch_size=32).hash
    assert found.hash != collect([IMAGES[::-1]], TOY, batch_size=32).hash


def test_rows_in_another_order_are_the_same_set(windows):
    order = np.random.default_rng(1).permutation(len(IMAGES))
    found = collect([IMAGES[order]], TOY).statistics["wide"]
    assert frechet_distance(found, exact(IMAGES)) < 1e-9


def test_blocks_are_the_rows_modulo_their_number(windows):
    blocks = collect([IMAGES], TOY).blocks["wide"]
    assert len(blocks) == BLOCKS
    for number, block in enumerate(blocks):
        wanted = exact(IMAGES[number::BLOCKS])
        assert block.count == wanted.count
        np.testing.assert_allclose(block.mean, wanted.mean, atol=1e-5)
        np.testing.assert_allclose(block.cov, wanted.cov, rtol=2e-5, atol=2e-5)


def test_one_block_is_none(windows):
    found = collect([IMAGES], TOY, blocks=1)
    assert found.blocks == {}
    assert found.statistics["wide"].count == 403
    assert frechet_distance(found.statistics["wide"], exact(IMAGES)) < 1e-9


def test_a_share_puts_its_rows_into_the_blocks_of_the_whole(windows):
    share = collect([IMAGES[1::2]], TOY, share=(1, 2)).blocks["wide"]
    whole = collect([IMAGES], TOY).blocks["wide"]
    for number, (part, block) in enumerate(zip(share, whole, strict=True)):
        if number % 2:  # of an even number of processes, odd blocks only
            assert part.count == block.count
            np.testing.assert_allclose(part.mean, block.mean, atol=1e-5)
        else:
            assert part.count == 0


def test_numpy_features_are_summed_in_float64(windows):
    extractor = pixel_extractor("colour_texture")
    found = collect([IMAGES], extractor, batch_size=50, keep=("features",))
    rows = found.features["features"]
    wanted = FeatureStatistics(rows.shape[1])
    wanted.update(rows)
    assert len(rows) == 403
    np.testing.assert_allclose(
        found.statistics["features"].cov, wanted.cov, rtol=1e-12, atol=1e-14
    )


def test_one_image_has_no_spread():
    found = collect([IMAGES[:1]], TOY)
    assert found.count == 1
    assert not found.statistics["wide"].cov.any()
    assert [block.count for block in found.blocks["wide"]] == [1] + [0] * 9


def test_progress_ends_at_the_count():
    seen = []
    collect([IMAGES[:70]], TOY, batch_size=32, progress=seen.append)
    assert seen == [32, 64, 70]


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "there is no image"),
        ([IMAGES[:3], IMAGES[:3, :2]], "of several sizes, as 4 x 4 and 4 x 2"),
        ([IMAGES[:3].astype(np.float32)], "uint8 images"),
    ],
)
def test_bad_images_are_refused(batches, said):
    with pytest.raises(UserError, match=said):
        collect(batches, TOY)


def test_features_that_are_not_finite_are_refused():
    bad = Extractor(
        "bad",
        "FD-bad",
        {"x": 2},
        {},
        lambda images: images.astype(np.float32),
        lambda _, x: {"x": x[:, 0, 0, :2] / x[:, 1, 1, :2]},
    )
    images = IMAGES[:40].copy()
    images[17, :2] = 0
    with pytest.raises(UserError, match="NaN or infinity"):
        collect([images], bad)
