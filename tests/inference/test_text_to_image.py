"""Captions to images, against the same pipeline written out in torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("ftfy")
pytest.importorskip("bs4")

from i2i_prior.errors import UserError  # noqa: E402
from i2i_prior.inference.generator import Generator, draw_noise  # noqa: E402
from i2i_prior.inference.load import load_model  # noqa: E402
from i2i_prior.inference.text_to_image import draw  # noqa: E402
from i2i_prior.tasks.registry import make_task  # noqa: E402
from tests.interop.test_dit_layouts import (  # noqa: E402
    DEPTH,
    HEADS,
    WIDTH,
    error,
    lumos,
    nchw,
    nhwc,
    random,
    randomised,
)
from tests.interop.test_official_inference import GUIDANCE, official_sample  # noqa: E402
from tests.peers.torch_official import TorchLumosMultiScale  # noqa: E402


class Letters:
    """Text encoder of one token a letter that keeps its captions."""

    def encode(self, captions, length):
        self.captions = captions
        counts = np.array([[min(len(c), length)] for c in captions])
        tokens = random(len(captions), length, 24, seed=len(captions[0]))
        return tokens, np.arange(length) < counts


def load(path, **options):
    """Generator and parameters of a file."""
    loaded = load_model(path, heads=HEADS, **options)
    return Generator(make_task(loaded.config)), loaded.parameters


def test_multi_scale(tmp_path):
    """Checks the nearest size of the table, and size, ratio and masks."""
    model = randomised(
        TorchLumosMultiScale(
            DEPTH, WIDTH, HEADS, 2, 32, 4, 24, 6, base=16, scale=2.0
        )
    )
    torch.save(model.state_dict(), tmp_path / "model.pth")
    generator, parameters = load(
        tmp_path / "model.pth", base_size=16, position_scale=2.0
    )
    seen = []
    # the latents: no autoencoder here
    generator.decode = lambda parameters, latents: seen.append(latents)
    text = Letters()
    draw(
        generator,
        parameters,
        ["A <b>CAT</b>", "dog"],
        text,
        height=300,
        width=580,
        seed=3,
    )
    assert text.captions == ["a cat", "dog"]
    # Of the table for 256 pixels: 0.52 -> 176 x 336.
    noise = np.asarray(draw_noise(3, range(2), (22, 42, 4)))
    tokens, mask = (torch.from_numpy(a) for a in text.encode(text.captions, 6))
    size = torch.tensor([[176.0, 336.0]] * 2)
    aspect = torch.full((2, 1), 0.52)
    null = model.y_embedder.y_embedding.expand_as(tokens)

    def predict(x, t):
        cond = model(x, t, tokens, mask, size, aspect)[:, :4]
        without = model(x, t, null, mask, size, aspect)[:, :4]
        return without + GUIDANCE * (cond - without)

    wanted = official_sample(predict, nchw(noise), False)
    assert error(seen[0], nhwc(wanted)) <= 1e-3


def test_mistakes(tmp_path):
    torch.save(lumos(6).state_dict(), tmp_path / "text.pth")
    text = load(tmp_path / "text.pth")
    with pytest.raises(UserError, match="one caption or more"):
        draw(*text, [], Letters())
    with pytest.raises(UserError, match="choose multiples of 16"):
        draw(*text, ["cat"], Letters(), height=40)
    torch.save(lumos(1).state_dict(), tmp_path / "image.pth")
    image = load(tmp_path / "image.pth")
    with pytest.raises(UserError, match="not on captions"):
        draw(*image, ["cat"], Letters())
