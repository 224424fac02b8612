"""Statistics saved by us, read by us and by other tools."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.statistics import FeatureStatistics
from i2i_prior.evaluation.sets.collect import Collected
from i2i_prior.evaluation.sets.statistics_files import (
    read_statistics,
    save_statistics,
)

DRAW = np.random.default_rng(0)
ROWS = DRAW.normal(size=(200, 7)) @ DRAW.normal(size=(7, 7)) + 3
EXTRACTOR = Extractor(
    name="thumbnails",
    label="FD-thumbnails",
    taps={"features": 7},
    identity={"code": 1},
    prepare=lambda images: images,
    apply=lambda _, images: {"features": images},
    traced=False,
)


def save(path, rows: np.ndarray) -> FeatureStatistics:
    statistics = FeatureStatistics(7, "thumbnails:features")
    statistics.update(rows)
    provenance = {"identity": dict(EXTRACTOR.identity)}
    collected = Collected({"features": statistics}, provenance=provenance)
    save_statistics(path, collected)
    return statistics


def test_saved_and_loaded(tmp_path):
    half = save(tmp_path / "deep" / "reference.npz", ROWS[:120])
    found = read_statistics(tmp_path / "deep" / "reference.npz", EXTRACTOR)
    loaded = found.statistics["features"]
    assert (found.count, loaded.count, loaded.dim) == (120, 120, 7)
    assert loaded.features == "thumbnails:features"
    np.testing.assert_array_equal(loaded.mean, half.mean)
    np.testing.assert_allclose(loaded.cov, half.cov, rtol=1e-15)
    loaded.update(ROWS[120:])
    np.testing.assert_allclose(
        loaded.cov, np.cov(ROWS, rowvar=False), rtol=1e-12, atol=1e-12
    )
    files = [path.name for path in (tmp_path / "deep").iterdir()]
    assert files == ["reference.npz"]


def test_other_tools_find_mu_and_sigma(tmp_path):
    save(tmp_path / "a.npz", ROWS)
    with np.load(tmp_path / "a.npz") as file:
        assert file["mu"].shape == (7,)
        assert file["sigma"].shape == (7, 7)


def test_loading_the_wrong_file(tmp_path):
    absent, text, array, npz, half, shapes = (
        tmp_path / f"{name}.npz"
        for name in ("absent", "text", "array", "npz", "half", "shapes")
    )
    text.write_text("hello")
    with array.open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(npz, images=np.zeros(3))
    save(half, ROWS)
    half.write_bytes(half.read_bytes()[:200])
    np.savez(
        shapes, mu=np.zeros(3), sigma=np.zeros((2, 2)), count=5, features=""
    )
    for path, said in (
        (absent, "No such file"),
        *((path, "not a readable statistics") for path in (text, array, half)),
        (npz, "lacks mu or sigma"),
        (shapes, "are no mean"),
    ):
        with pytest.raises(UserError, match=said):
            read_statistics(path, EXTRACTOR)


def test_a_count_beside_published_moments_is_read(tmp_path):
    """Checks files of earlier versions."""
    moments = {"mu": np.zeros(7), "sigma": np.eye(7)}
    np.savez(tmp_path / "old.npz", **moments, count=np.int64(9))
    assert read_statistics(tmp_path / "old.npz", EXTRACTOR).count == 9
