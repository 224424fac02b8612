"""Batches of prepared latents: the same for any hosts, workers and restarts."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from i2i_prior.data.cached import CachedPipeline, CachedSource
from i2i_prior.errors import UserError
from tests.fixtures_prepared import write_prepared

COUNT = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything tells its number; the mirrored variant is negative."""
    numbers = np.arange(COUNT)[:, None] * np.array([1, -1])
    ones = np.ones((1, 1, 4, 4, 8))
    return write_prepared(
        tmp_path_factory.mktemp("prepared"),
        (numbers[:, :, None, None, None] * ones).astype(np.float16),
        np.repeat(numbers[:, :, None, None], 6, -1).astype(ml_dtypes.bfloat16),
    )


def pipeline(folder, **options) -> CachedPipeline:
    options = {"seed": 3, "flip": 0.5, **options}
    return CachedPipeline(CachedSource(folder), "dino", 12, **options)


def same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_batch_holds_one_variant_of_each_example(folder):
    seen, flipped = [], 0
    for step in range(15):
        batch = pipeline(folder).batch(step)
        assert batch["latent"].shape == (12, 4, 4, 8)
        assert batch["embedding"].shape == (12, 1, 6)
        assert (batch["broken"] == -1).all()
        signs = np.sign(batch["latent"][:, 0, 0, 0])
        number = np.abs(batch["latent"][:, 0, 0, 0])
        np.testing.assert_array_equal(number, batch["index"])
        # Latent and embedding are of the same variant.
        embedded = batch["embedding"].astype(np.float32)[:, 0, 0]
        np.testing.assert_array_equal(embedded, signs * number)
        seen += batch["index"].tolist()
        flipped += int((signs < 0).sum())
    assert sorted(seen) == sorted(list(range(COUNT)) * 2)  # two epochs
    assert 60 < flipped < 120
    plain = pipeline(folder, flip=0.0).batch(0)
    assert (plain["latent"] >= 0).all()


@pytest.mark.parametrize(("hosts", "workers"), [(1, 3), (2, 2), (4, 0)])
def test_hosts_and_workers_share_the_same_batches(folder, hosts, workers):
    whole = pipeline(folder)
    for host in range(hosts):
        rows = range(host * 12 // hosts, (host + 1) * 12 // hosts)
        here = pipeline(folder, rows=rows, workers=workers)
        batches = here.batches_from(7)
        for step in (7, 8):
            part = {n: a[list(rows)] for n, a in whole.batch(step).items()}
            same(next(batches), part)
        batches.close()


def test_a_damaged_example_is_replaced(folder, tmp_path, monkeypatch):
    source = CachedSource(folder)
    read = source.read

    def damaged(indices):
        if 17 in indices:
            raise OSError(5, "CRC mismatch")
        return read(indices)

    monkeypatch.setattr(source, "read", damaged)
    reader = CachedPipeline(source, "dino", 12, seed=3)
    whole = pipeline(folder, flip=0.0)
    replaced = 0
    for step in range(8):
        batch, wanted = reader.batch(step), whole.batch(step)
        bad = batch["broken"] >= 0
        replaced += int(bad.sum())
        np.testing.assert_array_equal(bad, wanted["index"] == 17)
        np.testing.assert_array_equal(
            batch["latent"][~bad], wanted["latent"][~bad]
        )
        assert 17 not in batch["index"]
    assert replaced >= 1
    with pytest.raises(OSError, match="CRC"):
        source[17]
    assert source[18].name == "n18"


def test_a_set_of_images_is_refused(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["kind"] = "images"
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"set data.cached=false"):
        CachedSource(tmp_path)
