"""`i2i-prior fid A B`: its line of results, its files, its errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_prior.evaluation.features.colour_texture import FEATURES
from i2i_prior.evaluation.measures.frechet import frechet_distance
from i2i_prior.evaluation.measures.statistics import FeatureStatistics

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)


@pytest.fixture
def fid(command, tmp_path):
    """fid(A, B, ...) over colour and texture, writing result.json."""

    def run(*arguments):
        return command(
            *("fid", *arguments, "--features", "colour_texture"),
            *("--json", tmp_path / "result.json"),
        )

    return run


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "samples.npz"
    images = PIXELS.repeat(2, axis=1).repeat(2, axis=2)
    np.savez(path, arr_0=images)
    return path


def direct(photos, samples, size=16) -> float:
    """The distance by functions that have their own tests."""
    found = []
    for images in (
        [np.asarray(Image.open(p)) for p in sorted(photos.iterdir())],
        np.load(samples)["arr_0"],
    ):
        statistics = FeatureStatistics(32)
        cut = [
            image[:, 2:18] if image.shape[1] == 20 else image
            for image in images
        ]
        statistics.update(FEATURES["colour_texture"](np.stack(cut)))
        found.append(statistics)
    return frechet_distance(*found)


def test_a_folder_against_samples(fid, photos, samples, tmp_path):
    kept = tmp_path / "reference.npz"
    ended = fid(
        *(photos, samples, "--size", "16", "--metrics", "fd,kid,pr"),
        *("--save-statistics", kept, "--picture", tmp_path / "sheet.png"),
        *("--save-features", tmp_path / "features.npz"),
    )
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "result.json").read_text())
    value = result["metrics"]["FD-colourtexture"]
    assert value == pytest.approx(direct(photos, samples), rel=1e-9)
    assert re.fullmatch(
        r"FD-colourtexture [\d.]+ \+- [\d.]+ \(95 %\), KID-colourtexture \S+, "
        r"KID_std-colourtexture \S+, precision-colourtexture \S+, "
        r"recall-colourtexture \S+, N 30, reference photos0? "
        r"\([0-9a-f]{8}\), features colour_texture\n",
        ended.out,
    ), ended.out
    assert "note: " in ended.err
    assert "rank at most 23 of 32" in ended.err
    with np.load(tmp_path / "features.npz") as file:
        assert file["reference"].shape == (24, 32)
        assert file["generated"].shape == (30, 32)
    assert Image.open(tmp_path / "sheet.png").height > 4 * 96
    # The statistics stand for the images from now on.
    ended = fid(kept, samples)
    assert ended.code == 0, ended.err
    again = json.loads((tmp_path / "result.json").read_text())
    assert again["metrics"]["FD-colourtexture"] == pytest.approx(
        value, rel=1e-9
    )
    assert again["reference"]["hash"] == result["reference"]["hash"]


def test_statistics_of_others_say_nothing(fid, samples, tmp_path):
    foreign, again = tmp_path / "foreign.npz", tmp_path / "again.npz"
    np.savez(foreign, mu=np.zeros(32), sigma=np.eye(32))
    lines = []
    for reference in (foreign, again):
        ended = fid(reference, samples, "--save-statistics", again)
        assert ended.code == 0, ended.err
        assert "note: foreign.npz says nothing of the preset" in ended.err
        lines.append(ended.out.partition(" reference")[0])
    assert lines[0] == lines[1]


def test_photographs_are_nearer_to_photographs(fid, tmp_path):
    """On the facades: other photographs, and drawings of the same ones."""
    data = Path(__file__).resolve().parents[3] / "shared/data/facades"
    if not data.is_dir():
        pytest.skip("needs ../shared/data/facades")
    values = []
    for other in ("val.tar", "test.tar#image=labels.jpg"):
        ended = fid(
            f"tar:{data}/test.tar", f"tar:{data}/{other}", "--num", "40"
        )
        assert ended.code == 0, ended.err
        result = json.loads((tmp_path / "result.json").read_text())
        (interval,) = result["intervals"].values()
        values.append((result["metrics"]["FD-colourtexture"], interval))
    (near, near_interval), (far, far_interval) = values
    assert far > 20 * near
    assert near_interval["high"] < far_interval["low"]


def test_pairs_need_no_features(fid, samples, tmp_path):
    other = tmp_path / "other.npz"
    images = np.load(samples)["arr_0"]
    np.savez(other, arr_0=images ^ np.uint8(4))
    ended = fid(samples, other, "--metrics", "psnr,ssim")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("PSNR 36.09, SSIM 0.99")


def test_mistakes_end_in_a_sentence(command, fid, photos, samples, tmp_path):
    grey = tmp_path / "grey"
    grey.mkdir()
    Image.fromarray(PIXELS[0]).save(grey / "0.png")
    Image.fromarray(PIXELS[1, :4]).save(grey / "1.png")
    kept = tmp_path / "kept.npz"
    kept.mkdir()
    foreign = tmp_path / "foreign.npz"
    bare = tmp_path / "bare.npz"
    np.savez(bare, mu=np.zeros(32), sigma=np.eye(32))
    np.savez(foreign, mu=np.zeros(64), sigma=np.eye(64, dtype=np.float32))
    for arguments, said in (
        ((photos, samples), "of 20 x 16, the other side of 16 x 16, which do"),
        ((grey, samples), "of several sizes, as 8 x 8 and 8 x 4; give --size"),
        ((foreign, samples), "mu has 64 numbers, not 32"),
        ((samples, samples, "--num", "1"), "needs at least 2 images"),
        (
            (samples, samples, "--metrics", "fd_infinity"),
            "fd_infinity of 32 numbers an image needs at least 35 images",
        ),
        ((samples, samples, "--num", "31"), "has 30 images"),
        ((samples, samples, "--metrics", "fid"), "of inception, not of colour"),
        ((samples, samples, "--metrics", "FID"), "no metric 'FID'; use some"),
        ((foreign, samples, "--metrics", "psnr"), "not statistics"),
        ((samples, samples, "--weights", "x"), "have no weights"),
        ((samples, tmp_path / "gone"), "there is nothing at"),
        ((samples, samples, "--size", "100000"), "a side of 1 to 8192 pixels"),
        ((samples, samples, "--batch-size", "0"), "give 1 image or more"),
        ((samples, samples, "--picture", grey / "a.jpg"), "end in .png; name"),
        (
            (samples, samples, "--save-statistics", grey / "0.png" / "a.npz"),
            "0.png is a file, and a.npz needs a folder; give another place",
        ),
        ((samples, samples, "--save-features", kept), "is a folder"),
        (
            (samples, samples, "--metrics", "psnr", "--picture", "a.png"),
            "psnr have no features to show",
        ),
        (
            (bare, samples, "--metrics", "kid"),
            "has statistics and no images, and some of these metrics need",
        ),
        (
            (samples, samples, "--metrics", "clip_score"),
            "features of clip, not",
        ),
    ):
        ended = fid(*arguments)
        assert ended.code == 1, arguments
        assert re.search(f"^error: .*{said}", ended.err, re.MULTILINE), (
            ended.err
        )
        assert "Traceback" not in ended.err
    assert not (tmp_path / "result.json").exists()


def test_a_full_disk_does_not_take_the_number_away(
    fid, samples, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    ended = fid(samples, samples, "--save-features", tmp_path / "f.npz")
    assert ended.code == 74
    assert re.search(r"^error: cannot write .*\(No space left", ended.err, re.M)
    assert ended.out.startswith("FD-colourtexture 0.0")
    assert (tmp_path / "result.json").exists()
    assert not list(tmp_path.glob("*f.npz*"))


def test_without_weights_nothing_is_called_fid(
    command, samples, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ended = command("fid", samples, samples)
    assert ended.code == 1
    assert "`i2i-prior weights inception --from" in ended.err
    assert "--features thumbnails or colour_texture" in ended.err
    ended = command("fid", samples, samples, "--features", "dinov2")
    assert "--features dinov2 needs the weights of the network" in ended.err
