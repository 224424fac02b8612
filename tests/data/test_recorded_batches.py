"""Batches equal to recorded ones: the data of a run never change unnoticed.

The digests are of this project's commit a063313. Pixels come from NumPy and
PNG, and crops are as large as their arrays, so that no decoder or resizer of
another version can change them; random crops are recorded as boxes.
"""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.buckets import Buckets
from i2i_prior.data.cached import CachedPipeline, CachedSource
from i2i_prior.data.order import Mixed, Shuffled
from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.sources.registry import open_source
from i2i_prior.data.transforms import Draft, apply, make_transforms
from tests.data.fixtures_sources import write_tar
from tests.fixtures_prepared import write_prepared

STEPS = (0, 7, 1000)
RECORDED = {
    "images": {
        None: ["14d2afe1b17dec4b", "3229055fa929db9f", "cd7a6c7242757ac3"],
        (1, 4, 5): ["cf735069a3ed9d14", "4d1cf1be02b048ca", "ebda5dd9b26462d5"],
    },
    "orders": {30: "dfc0b2efc507bd54", 10000: "3751dcd9021641c0"},
    "mixture": "19375d09e930899d",
    "crops": "273233bbd4c3540e",
    "buckets": "e1ce9d341a867f7a",
    "latents": {
        90: ["c68fb453e86db5c2", "dc803d3c8aa156f1", "6e582e2389d1c5e9"],
        5000: ["17a8f083253608c8", "3d3c7df120853792", "ed7fb2d41b617f50"],
    },
}


def digest(*arrays) -> str:
    found = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def png(number: int) -> bytes:
    """Noise of 16 x 16 pixels."""
    noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3))
    file = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """An archive in which every seventh image is broken."""
    path = tmp_path_factory.mktemp("recorded") / "x.tar"
    data = [b"" if n % 7 == 3 else png(n) for n in range(40)]
    write_tar(path, {f"{n:02}.png": each for n, each in enumerate(data)})
    return f"tar:{path}"


def test_images(spec):
    options = DataOptions.of(
        image_size=16,
        batch_size=12,
        seed=3,
        crop="center",
        view_size=16,
        view_flip=0.3,
    )
    source = open_source(spec)
    names = ("image", "view", "index", "broken")
    for rows, wanted in RECORDED["images"].items():
        pipeline = Pipeline(source, options, rows)
        batches = map(pipeline.batch, STEPS)
        assert [digest(*(b[n] for n in names)) for b in batches] == wanted


@pytest.mark.parametrize("length", [30, 10_000])
def test_orders(length):
    order = Shuffled(length, 5)
    numbers = [order[n] for n in (*range(2 * 30), *range(10**9, 10**9 + 30))]
    assert digest(numbers) == RECORDED["orders"][length]


def test_mixtures():
    order = Mixed([30, 5000, 3], (0.5, 0.3, 0.2), seed=5)
    numbers = [order[n] for n in (*range(900, 1100), 10**9)]
    assert digest(numbers) == RECORDED["mixture"]


def test_crops():
    """Boxes, flips and jitter of 300 examples."""
    transforms = make_transforms(
        min_scale=0.1,
        view_size=8,
        view_min_scale=0.4,
        view_flip=0.5,
        view_jitter=0.4,
    )
    drawn = []
    for number in range(300):
        rng = np.random.default_rng((3, number))
        draft = Draft(40 + number, 90, (8, 12) if number % 2 else 8)
        apply(transforms, draft, rng, (3, number))
        for cut in draft.cuts.values():
            factors = [a.keywords["factors"] for a in cut.adjust] or [
                np.ones(3)
            ]
            drawn.append([*cut.box, cut.flipped, *factors[0]])
    assert digest(np.array(drawn)) == RECORDED["crops"]


def test_buckets():
    sizes = np.random.default_rng(0).integers(100, 900, (2000, 2))
    table = {0.5: (8, 16), 1.0: (12, 12), 2.0: (16, 8)}
    buckets = Buckets(sizes, table, 8, seed=1)
    shapes = [buckets.shape(step) for step in range(500)]
    records = [buckets[n] for n in range(4000)]
    assert digest(np.array(shapes), records) == RECORDED["buckets"]


@pytest.mark.parametrize("count", [90, 5000])
def test_prepared_latents(tmp_path, count):
    rng = np.random.default_rng(0)
    write_prepared(
        tmp_path,
        rng.standard_normal((count, 2, 2, 2, 4)).astype("f2"),
        rng.standard_normal((count, 2, 1, 3)).astype("f2"),
    )
    source = CachedSource(tmp_path)
    pipeline = CachedPipeline(source, "dino", 12, seed=4, flip=0.5)
    names = ("latent", "embedding", "index", "broken")
    found = [digest(*(b[n] for n in names)) for b in map(pipeline.batch, STEPS)]
    assert found == RECORDED["latents"][count]
