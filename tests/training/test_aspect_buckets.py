"""Training on images of many aspect ratios, a batch of one shape each."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from i2i_prior.data.aspect_ratios import training_sizes
from i2i_prior.data.buckets import Buckets, image_sizes
from i2i_prior.data.pipeline import DataOptions, Pipeline
from i2i_prior.data.sources.registry import open_source
from i2i_prior.training.telemetry.metric_writer import read_metrics

SIDE = 16
OVERRIDES = (
    "data.aspect_buckets=true",
    f"data.image_size={SIDE}",
    "data.held_out=builtin:photos/heldout",
    "model.patch=1",
    "model.depth=1",
    "model.width=48",
    "model.size_conditions=true",
    "train.steps=4",
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Upright and lying pictures, left half dark; one lies by its EXIF."""
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(20):
        width, height = (60, 40) if number % 2 else (40, 60)
        pixels = np.full((height, width, 3), 40 + number, np.uint8)
        pixels[:, width // 2 :] = 200
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    turned = Image.new("RGB", (60, 40), (9, 9, 9))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "20.jpg", exif=exif)
    (folder / "21.png").write_bytes(b"no image")
    return folder


def test_sizes_are_read_once_from_the_headers(shapes, monkeypatch):
    source = open_source(f"folder:{shapes}")
    sizes = image_sizes(source)
    assert sizes[:2].tolist() == [[60, 40], [40, 60]]
    assert sizes[20].tolist() == [60, 40]
    assert sizes[21].tolist() == [1, 1]
    monkeypatch.setattr("i2i_prior.data.buckets.Picture", None)
    np.testing.assert_array_equal(image_sizes(source), sizes)


def test_an_image_that_is_there_again_is_not_forgotten(shapes):
    class Once:
        """Fails the first time it is asked for record 3."""

        failed = False

        def __len__(self):
            return 22

        def __getitem__(self, index):
            if index == 3 and not self.failed:
                self.failed = True
                raise OSError(5, "Input/output error")
            return whole[index]

        def fingerprint(self):
            return "once"

    whole, source = open_source(f"folder:{shapes}"), Once()
    assert image_sizes(source)[3].tolist() == [1, 1]
    assert image_sizes(source)[3].tolist() == [40, 60]


@pytest.mark.parametrize("crop", ["random", "center"])
def test_a_batch_has_one_shape_and_says_which(shapes, crop):
    source = open_source(f"folder:{shapes}")
    options = DataOptions.of(SIDE, 4, seed=2, crop=crop, flip=0.0, view_size=8)
    table = training_sizes(SIDE)
    buckets = Buckets(image_sizes(source), table, 4, seed=2)
    whole = Pipeline(source, options, buckets=buckets)
    second = Pipeline(source, options, rows=[2, 3], buckets=buckets)
    seen = set()
    for step in range(12):
        batch = whole.batch(step)
        shape = batch["image"].shape[1:3]
        seen.add(shape)
        assert batch["view"].shape == (4, 8, 8, 3)
        (ratio,) = {float(a) for a in batch["aspect"][:, 0]}
        assert table[round(ratio, 2)] == shape
        assert (batch["size"][:, 0] > batch["size"][:, 1]).all() == (
            shape[0] > shape[1]
        )
        for name, array in second.batch(step).items():
            np.testing.assert_array_equal(array, batch[name][2:])
        if crop == "center":
            # The whole width is there: half dark, half bright.
            bright = (batch["image"][..., 0] > 150).mean((1, 2))
            plain = batch["index"] < 20
            np.testing.assert_allclose(bright[plain], 0.5, atol=0.1)
    assert seen == {table[1.46], table[0.68]}


def test_a_run_trains_on_both_shapes_and_resumes(command, shapes, tmp_path):
    from tests.conftest import TINY

    arguments = ["--config", f"{TINY}:source=folder:{shapes}"]
    arguments += ["--workdir", tmp_path / "run"]
    arguments += [f"--config.{text}" for text in OVERRIDES]
    ended = command("train", *arguments)
    assert ended.code == 0, ended.err
    first = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert np.isfinite(first).all()
    assert len(first) == 4
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    ended = command("train", *arguments)
    assert ended.code == 0, ended.err
    again = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert again == first
    # Samples are squares, and the model is told that they are.
    picture = next(iter(sorted(shapes.iterdir())))
    options = "--images", picture, "--num", 2, "--guidance", 2, "--steps", 2
    out = tmp_path / "out"
    ended = command(
        "sample", "--workdir", tmp_path / "run", *options, "--out", out
    )
    assert ended.code == 0, ended.err
    with Image.open(out / f"{picture.stem}-1.png") as image:
        assert image.size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.image_size=24", "is no multiple of 16"),
        ("data.batch_size=16", "has 16 images of 22"),
        ("data.cached=true", "set one of them to false"),
        ("mesh.tensor=2", "set both to 1"),
        ("data.aspect_buckets=false", "set data.aspect_buckets=true"),
        (
            "data.source=mix:0.5*builtin:photos + 0.5*builtin:photos",
            "takes one source",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    command, shapes, tmp_path, override, said
):
    from tests.conftest import TINY

    ended = command(
        "train",
        *("--config", f"{TINY}:source=folder:{shapes}"),
        *("--workdir", tmp_path / "run"),
        *(f"--config.{text}" for text in (*OVERRIDES, override)),
        *(("--config.encoder.kind=none",) if "cached" in override else ()),
        *(("--config.autoencoder.kind=sd",) if "cached" in override else ()),
    )
    assert ended.code == 1
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()
