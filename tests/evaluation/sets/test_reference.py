"""Statistics files of five tools and our own, the cache, and refusals."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.features.presets import PRESETS
from i2i_prior.evaluation.measures.statistics import (
    UNCOUNTED,
    FeatureStatistics,
)
from i2i_prior.evaluation.sets import reference
from i2i_prior.evaluation.sets.array_files import read_pickle
from i2i_prior.evaluation.sets.collect import collect
from i2i_prior.evaluation.sets.reference import open_place, open_side
from i2i_prior.evaluation.sets.statistics_files import (
    is_statistics,
    read_statistics,
    save_statistics,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), np.uint8)


def features(_, images: np.ndarray) -> dict[str, np.ndarray]:
    rows = images.reshape(len(images), -1) / 255.0
    return {"pool3": rows[:, :5], "spatial": rows[:, 5:8]}


# As the Inception extractor looks from outside, without its cost.
INCEPTION = Extractor(
    name="inception",
    label="FD-inception:0",
    taps={"pool3": 5, "spatial": 3},
    identity={"weights_sha256": "ab" * 32, "preset": asdict(PRESETS["adm"])},
    prepare=lambda images: images,
    apply=features,
    traced=False,
)


def by(preset: str) -> Extractor:
    identity = {**INCEPTION.identity, "preset": asdict(PRESETS[preset])}
    return replace(INCEPTION, identity=identity)


CLEAN = by("clean")
TAPS = ("pool3", "spatial")


@pytest.fixture
def collected():
    return collect([IMAGES], INCEPTION, moments=TAPS)


@pytest.fixture
def moments(collected) -> dict[str, np.ndarray]:
    first, second = (collected.statistics[tap] for tap in TAPS)
    return {
        "mu": first.mean,
        "sigma": first.cov,
        "mu_s": second.mean,
        "sigma_s": second.cov,
    }


def same(found: FeatureStatistics, wanted: FeatureStatistics) -> bool:
    # A file has the covariance, which was divided and is multiplied again.
    return np.array_equal(found.mean, wanted.mean) and np.allclose(
        found.cov, wanted.cov, rtol=1e-15, atol=0
    )


def test_our_own_file_keeps_everything(collected, tmp_path):
    path = tmp_path / "deep" / "ref.npz"
    collected.provenance = reference.provenance(
        open_place("builtin:photos"), INCEPTION
    )
    save_statistics(path, collected)
    assert is_statistics(path)
    found = read_statistics(path, INCEPTION)
    for tap in TAPS:
        assert same(found.statistics[tap], collected.statistics[tap])
        assert found.statistics[tap].count == 30
    assert found.hash == collected.hash
    assert (found.count, found.size) == (30, (4, 4))
    assert [file.name for file in path.parent.iterdir()] == ["ref.npz"]
    # Other FID tools read the first tap from it.
    with np.load(path, allow_pickle=False) as file:
        assert np.array_equal(file["mu_s"], found.statistics["spatial"].mean)
    with pytest.raises(UserError, match="with preset adm, here it is clean"):
        read_statistics(path, CLEAN)
    other = replace(
        INCEPTION,
        identity={**INCEPTION.identity} | {"weights_sha256": "cd" * 32},
    )
    with pytest.raises(UserError, match="weights_sha256 abababababab, here"):
        read_statistics(path, other)


def test_presets_that_differ_in_samples_only_share_statistics(
    collected, tmp_path
):
    """Checks that rounding and the Inception Score change no feature."""
    path = tmp_path / "ref.npz"
    collected.provenance = reference.provenance(
        open_place("builtin:photos"), INCEPTION
    )
    save_statistics(path, collected)
    found = read_statistics(path, by("edm2"))
    assert same(found.statistics["pool3"], collected.statistics["pool3"])
    assert found.provenance["identity"]["preset"]["name"] == "adm"
    for other in ("pytorch_fid", "clean"):
        with pytest.raises(UserError, match=f"adm, here it is {other}: the"):
            read_statistics(path, by(other))


@pytest.mark.parametrize(
    ("write", "taps"),
    [
        (lambda m: {**m, "arr_0": IMAGES}, TAPS),  # ADM
        (lambda m: {"mu": m["mu"], "sigma": m["sigma"]}, TAPS[:1]),
        (lambda m: {"ref_mu": m["mu"], "ref_sigma": m["sigma"]}, TAPS[:1]),
    ],
)
def test_npz_files_of_others(collected, moments, tmp_path, write, taps):
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, **write(moments))
    assert is_statistics(path)
    found = read_statistics(path, INCEPTION)
    assert tuple(found.statistics) == taps
    for tap in taps:
        np.testing.assert_allclose(
            found.statistics[tap].cov, collected.statistics[tap].cov, rtol=1e-15
        )
        assert found.statistics[tap].count == UNCOUNTED
    assert found.count is None
    assert "says nothing of the preset, the weights" in found.provenance["note"]
    assert "how many" in found.provenance["note"]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_edm2_pickles_of_any_protocol(collected, moments, tmp_path, protocol):
    path = tmp_path / "ref.pkl"
    fid = {"mu": moments["mu"], "sigma": moments["sigma"]}
    other = {"mu": np.zeros(2), "sigma": np.eye(2, dtype=">f8")}
    content = {"num_images": np.int64(30), "fid": fid, "fd_dinov2": other}
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_statistics(path, INCEPTION)
    assert found.count == found.statistics["pool3"].count == 30
    np.testing.assert_allclose(
        found.statistics["pool3"].cov, collected.statistics["pool3"].cov
    )
    dino = replace(INCEPTION, name="dinov2", taps={"cls": 2})
    assert np.array_equal(
        read_statistics(path, dino).statistics["cls"].cov, np.eye(2)
    )
    with pytest.raises(
        UserError, match=r"no statistics 'clip' .* fid, fd_dino"
    ):
        read_statistics(path, replace(INCEPTION, name="clip"))


class Hostile:
    """Would make a file if it were unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nested = []
    for _ in range(60):
        nested = [nested, nested]
    for content in (
        {"fid": Hostile()},
        {"fid": np.array([Hostile()])},
        {"fid": nested},
        {"fid": {"mu": {1, 2}}},
    ):
        path = Path("ref.pkl")
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="nothing of it was executed"):
            read_pickle(path)
        assert not Path("unpickled").exists()
    path.write_bytes(pickle.dumps({"fid": {"mu": np.zeros(9)}})[:-40])
    with pytest.raises(UserError, match="nothing of it was executed"):
        read_pickle(path)


def changed(moments, name, value):
    return {**moments, name: value}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: {"mu": m["mu"]}, "lacks mu or sigma"),
        (lambda m: changed(m, "mu", np.zeros(4)), "are no mean"),
        (lambda m: changed(m, "sigma", np.zeros((5, 4))), "are no mean"),
        (lambda m: changed(m, "mu", np.full(5, np.nan)), "NaN or infinity"),
        (lambda m: changed(m, "sigma", m["sigma"] * np.inf), "NaN or infinity"),
        (
            lambda m: changed(m, "sigma", m["sigma"] + np.triu(m["sigma"], 1)),
            "sigma is not symmetric",
        ),
        (lambda m: changed(m, "sigma", -m["sigma"]), "a negative variance"),
        (lambda m: changed(m, "mu", m["mu"].astype("f2")), "float16"),
        (lambda m: changed(m, "mu", np.array([{}])), "not a readable"),
        (lambda m: changed(m, "count", np.arange(2)), "no whole number"),
        (lambda m: changed(m, "count", np.nan), "no whole number"),
        (lambda m: changed(m, "count", "a"), "no whole number"),
        (lambda m: changed(m, "count", -4), "of -4 images"),
        *(
            (
                lambda m, text=text: m | {"count": 9, "provenance": text},
                "is a damaged statistics file",
            )
            for text in (
                "no JSON",
                "[1]",
                '{"taps": 5, "size": null, "hash": "", "identity": null}',
                '{"taps": [], "size": [1], "hash": "", "identity": null}',
                '{"taps": [], "size": null, "hash": "", "identity": 3}',
            )
        ),
        (
            lambda m: {"mu": np.zeros(7), "sigma": np.eye(7)},
            "mu has 7 numbers, not 5",
        ),
    ],
)
def test_numbers_that_are_no_statistics(moments, tmp_path, change, said):
    path = tmp_path / "ref.npz"
    np.savez(path, **change(moments))
    with pytest.raises(UserError, match=said):
        read_statistics(path, INCEPTION)


def test_float32_moments_are_taken(collected, moments, tmp_path):
    path = tmp_path / "ref.npz"
    np.savez(path, **{n: a.astype(np.float32) for n, a in moments.items()})
    found = read_statistics(path, INCEPTION).statistics["pool3"]
    assert found.cov.dtype == np.float64
    np.testing.assert_allclose(
        found.cov, collected.statistics["pool3"].cov, rtol=1e-5, atol=1e-8
    )


def test_a_damaged_file_is_refused(collected, tmp_path):
    path = tmp_path / "ref.npz"
    save_statistics(path, collected)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match="not a readable"):
        open_side(open_place(path), INCEPTION)


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    for number, pixels in enumerate(IMAGES):
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        (place / f"{number:02}.png").write_bytes(encoded.getvalue())
    return place


@pytest.fixture
def calls(monkeypatch, tmp_path) -> list[int]:
    """List with an entry for each pass over images, with a new cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: list[int] = []

    def counted(*arguments, **options):
        made.append(1)
        return collect(*arguments, **options)

    monkeypatch.setattr(reference, "collect", counted)
    return made


def test_a_set_is_looked_at_once(folder, calls):
    first = open_side(open_place(folder), INCEPTION)
    again = open_side(open_place(folder), INCEPTION)
    assert len(calls) == 1
    assert same(first.statistics["pool3"], again.statistics["pool3"])
    assert (again.hash, again.count, again.size) == (first.hash, 30, (4, 4))
    assert again.provenance["cached"]
    # Anything else that the numbers depend on is another key.
    open_side(open_place(folder), CLEAN)
    open_side(open_place(folder), INCEPTION, moments=TAPS)
    open_side(open_place(folder, num=20), INCEPTION)
    open_side(open_place(folder, size=3), INCEPTION)
    open_side(open_place(folder), INCEPTION, cached=False)
    assert len(calls) == 6
    (folder / "07.png").write_bytes((folder / "08.png").read_bytes())
    changed = open_side(open_place(folder), INCEPTION)
    assert len(calls) == 7
    assert changed.hash != first.hash


def test_a_damaged_or_forbidden_cache_is_none(folder, calls, tmp_path):
    first = open_side(open_place(folder), INCEPTION)
    (kept,) = (tmp_path / "cache/i2i_prior/statistics").iterdir()
    kept.write_bytes(b"no zip")
    again = open_side(open_place(folder), INCEPTION)
    assert len(calls) == 2
    assert again.hash == first.hash
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("in the way")
    open_side(open_place(folder), INCEPTION)
    assert len(calls) == 3


def test_features_come_from_the_images_beside_the_statistics(moments, tmp_path):
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, **moments, arr_0=IMAGES[:7])
    side = open_side(open_place(path), INCEPTION, keep=("pool3",))
    wanted = features(None, IMAGES[:7])["pool3"].astype(np.float32)
    assert np.array_equal(side.features["pool3"], wanted)
    assert np.array_equal(side.statistics["pool3"].mean, moments["mu"])
    np.savez(path, mu=moments["mu"], sigma=moments["sigma"])
    with pytest.raises(UserError, match="has no statistics 'spatial'; give"):
        open_side(open_place(path), INCEPTION, moments=TAPS)
    with pytest.raises(UserError, match="statistics and no images"):
        open_side(open_place(path), INCEPTION, keep=("pool3",))
    with pytest.raises(UserError, match="no 5 images can be taken"):
        open_place(path, num=5)


def test_what_was_left_out_is_noted(folder, calls):
    (folder / "03.png").write_bytes(b"")
    place = open_place(folder, skip_broken=True)
    for _ in range(2):  # and once more, from the cache
        side = open_side(place, INCEPTION)
        assert side.count == 29
        assert "1 of 30 images" in side.provenance["note"]
        assert "03.png (is empty)" in side.provenance["note"]
    assert len(calls) == 1
