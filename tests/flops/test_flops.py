"""Analytic multiply-adds against publications and XLA's own count."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from i2i_prior.flops.autoencoder_parts import autoencoder_parts
from i2i_prior.flops.dit_parts import dit_parts
from i2i_prior.flops.encoder_parts import (
    text_parts,
    vit_parts,
)
from i2i_prior.flops.flops import (
    dit_macs,
    encode_macs,
    training_flops,
    vit_macs,
)
from i2i_prior.flops.parts import total
from i2i_prior.models.autoencoder import AUTOENCODERS, make_autoencoder
from i2i_prior.models.dit import DiT, DiTConfig
from i2i_prior.models.functional import make_functional
from i2i_prior.models.text_clip import ClipTextConfig
from i2i_prior.models.text_t5 import T5Config
from i2i_prior.models.vit import ViT, ViTConfig
from tests.flops.products import (
    array,
    dit_inputs,
    xla_macs,
)

LUMOS = DiTConfig()


def test_lumos_xl2():
    """arXiv 2412.07767, counted on the official source: see dit_macs."""
    generic = dit_macs(LUMOS, 1)
    fast = dit_macs(dataclasses.replace(LUMOS, one_token=True), 1)
    assert generic == pytest.approx(137.63e9, rel=0.005)
    assert fast == pytest.approx(118.60e9, rel=0.005)
    assert 1 - fast / generic == pytest.approx(0.138, abs=0.001)


# Of arXiv 2212.09748: table 4 at 256 pixels, GMACs, and M parameters.
DIT = {
    "S/2": ((12, 384, 6), 6.06, 33),
    "B/2": ((12, 768, 12), 23.01, 130),
    "L/2": ((24, 1024, 16), 80.71, 458),
    "XL/2": ((28, 1152, 16), 118.64, 675),
}


@pytest.mark.parametrize("name", DIT)
def test_dit(name):
    (depth, width, heads), giga, millions = DIT[name]
    config = DiTConfig(
        block="dit",
        depth=depth,
        width=width,
        heads=heads,
        cross_attention=False,
        classes=1000,
    )
    whole = total(dit_parts(config, 0).values())
    assert whole.macs == pytest.approx(giga * 1e9, rel=0.005)
    assert whole.parameters == pytest.approx(millions * 1e6, rel=0.01)
    # How far the usual estimate of a language model is off.
    ratio = 6 * whole.parameters * 256 / training_flops(whole.macs)
    assert 1.35 < ratio < 1.47


def test_published_sizes_of_other_networks():
    """Millions of parameters, and GMACs where they are published.

    ViT-B/16: arXiv 2012.12877 table 5, 17.6e9 (17.58 without the classifier),
    86M. The others as their checkpoints have them: the KL autoencoder of
    Stable Diffusion 83.65M, T5 v1.1 XXL's encoder 4.762B, the text tower of
    CLIP ViT-L/14 123.06M without its projection.
    """
    vit = total(vit_parts(ViTConfig()).values())
    assert vit.macs == pytest.approx(17.58e9, rel=0.005)
    assert vit.parameters == 85_798_656
    sd = total(autoencoder_parts(AUTOENCODERS["sd"], 256).values())
    assert sd.parameters == 83_653_863
    t5 = total(text_parts(T5Config(), 120).values())
    assert t5.parameters == 4_762_310_656
    clip = total(text_parts(ClipTextConfig(projection=0), 77).values())
    assert clip.parameters == 123_060_480


# Wide enough that products drown what is not counted. A scan's body is counted
# once, so it is unrolled.
WIDE = DiTConfig(
    depth=2, width=768, heads=4, patch=2, input_size=16, scan_unroll=2
)


@pytest.mark.parametrize(
    ("block", "tokens", "options"),
    [
        ("lumos", 1, {"one_token": True, "concat_channels": 3}),
        ("dit", 120, {"classes": 10, "qk_norm": True}),
        ("pixart", 40, {"size_conditions": True}),
        ("modern", 256, {"pooled_width": 32}),
    ],
)
def test_dit_against_xla(block, tokens, options):
    """Forward and training; nothing is compiled or allocated."""
    config = dataclasses.replace(WIDE, block=block, **options)
    functional, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))

    x, t, doors = dit_inputs(config, tokens)

    def forward(parameters, given, x, t, others):
        dit = functional.merge(parameters)
        return dit(x, t, given, **others).sum()

    # The conditioner wants the tokens' gradient.
    gradient = jax.value_and_grad(forward, argnums=(0, 1))
    inputs = functional.shapes(), doors.pop("tokens"), x, t, doors
    macs = dit_macs(config, tokens)
    assert macs == pytest.approx(xla_macs(forward, *inputs), rel=0.02)
    trained = 2 * xla_macs(gradient, *inputs)
    assert training_flops(macs) == pytest.approx(trained, rel=0.02)


def test_vit_against_xla():
    # A scan body is counted once: one layer is all of it.
    config = ViTConfig(depth=1, width=1536, heads=4, patch=8, image_size=64)
    functional, _ = make_functional(lambda rngs: ViT(config, rngs=rngs))
    macs = xla_macs(
        lambda parameters, x: functional.merge(parameters)(x).cls,
        functional.shapes(),
        array(1, 64, 64, 3),
    )
    assert vit_macs(config) == pytest.approx(macs, rel=0.02)


def test_autoencoder_against_xla():
    """XLA leaves out products with the padding: 1 % at this size."""
    shape = AUTOENCODERS["sd"]
    functional, _ = make_functional(
        lambda rngs: make_autoencoder(shape, rngs=rngs)
    )
    macs = xla_macs(
        lambda parameters, x: functional.merge(parameters).encode(x),
        functional.shapes(),
        array(1, 256, 256, 3),
    )
    assert encode_macs(shape, 256) == pytest.approx(macs, rel=0.02)
