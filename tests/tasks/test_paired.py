"""Paired translation, from the command line: train, sample, evaluate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from i2i_prior import Prior
from i2i_prior.errors import UserError
from i2i_prior.report.image_grid import condition_grid
from tests.interop.fixtures_torch_folder import open_module

PAIRED = (
    "task=paired",
    "data.pair=labels.png:photo.png",
    "data.min_scale=1.0",
    "conditioner.concat_from=source",
    "conditioner.tokens_from=none",
    "encoder.kind=none",
    "evaluate.metrics=fd,match",
    "train.sample_every=3",
    "train.evaluate_every=3",
    "validation.every=3",
    "validation.examples=4",
    "validation.times=2",
    "train.steps=3",
)


@pytest.fixture(scope="module")
def run(command, tiny_spec, tmp_path_factory):
    """A run on twelve pairs whose labels are the photograph's negative."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for number in range(12):
        photo = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(photo).save(folder / f"{number}.photo.png")
        Image.fromarray(255 - photo).save(folder / f"{number}.labels.png")
    workdir = tmp_path_factory.mktemp("runs") / "paired"
    spec = f"folder:{folder}#image=photo.png"
    fields = f"data.source={spec}", f"data.held_out={spec}", *PAIRED
    ended = command(
        *("train", "--config", tiny_spec, "--workdir", workdir),
        *(f"--config.{field}" for field in fields),
    )
    assert ended.code == 0, ended.err
    return workdir, folder


def test_a_run_shows_source_samples_and_target(run):
    workdir, _ = run
    grid = np.asarray(Image.open(workdir / "samples/3.png").convert("RGB"))
    # Two conditions of 96 pixels, a source, two samples and a target each.
    shown = condition_grid(*(np.zeros((2, *s, 8, 8, 3), np.uint8) for s in
                             ((), (2,), ())))  # fmt: skip
    assert grid.shape == shown.shape
    row = slice(20 + 2, 20 + 2 + 96)
    source, target = grid[row, 2 : 2 + 96], grid[row, -98:-2]
    assert np.array_equal(source, 255 - target)


def test_metrics_and_losses_of_a_paired_run_are_logged(run):
    workdir, _ = run
    text = (workdir / "metrics.jsonl").read_text()
    last = {k: v for t in text.splitlines() for k, v in json.loads(t).items()}
    losses = [v for k, v in last.items() if k.startswith("validation/")]
    assert losses
    assert np.isfinite(losses).all()
    assert any(name.startswith("eval/FD-") for name in last)


def test_sample_translates_given_images(run, command, tmp_path):
    workdir, folder = run
    ended = command(
        *(
            "sample",
            "--workdir",
            workdir,
            "--num",
            "2",
            "--out",
            tmp_path / "o",
        ),
        *("--images", folder / "0.labels.png", folder / "1.labels.png"),
    )
    assert ended.code == 0, ended.err
    assert (tmp_path / "o/grid.png").exists()
    prior = Prior.load(workdir)
    images = prior.vary([folder / "0.labels.png"], 2, steps=2, guidance=2.0)
    other = prior.vary([folder / "1.labels.png"], 2, steps=2, guidance=2.0)
    assert images.shape == (1, 2, 8, 8, 3)
    # The same noise: what differs comes from the source.
    assert not np.array_equal(images, other)


def test_interpolation_needs_embeddings(run):
    workdir, folder = run
    with pytest.raises(UserError, match="no image encoder"):
        Prior.load(workdir).interpolate(
            folder / "0.labels.png", folder / "1.labels.png"
        )


def test_the_torch_folder_samples_from_a_source(run, command, tmp_path):
    """Guidance away from no source, as in JAX."""
    torch = pytest.importorskip("torch")
    workdir, _ = run
    out = tmp_path / "folder"
    ended = command(
        *("export", "--workdir", workdir, "--format", "torch", "--out", out)
    )
    assert ended.code == 0, ended.err
    rng = np.random.default_rng(5)
    noise, source = rng.standard_normal((2, 2, 8, 8, 3)).astype(np.float32)
    options = {"steps": 3, "guidance": 3.0}
    ours = Prior.load(workdir).sample(noise, concat=source, **options)
    theirs = open_module(out).Prior.from_pretrained(out)
    nchw = [torch.from_numpy(a).permute(0, 3, 1, 2) for a in (noise, source)]
    found = theirs.sample(nchw[0], concat=nchw[1], **options)
    np.testing.assert_allclose(
        found.permute(0, 2, 3, 1).numpy(), ours, rtol=1e-4, atol=1e-4
    )


def test_a_layout_without_a_source_is_refused(run, command, tmp_path):
    workdir, _ = run
    out = tmp_path / "x.safetensors"
    ended = command(
        "export", "--workdir", workdir, "--format", "lumos", "--out", out
    )
    assert ended.code == 1
    assert "cannot be written as" in ended.err
    assert not out.exists()
