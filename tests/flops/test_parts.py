"""Every family's parameters and products, equal to the last one."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_prior.flops.autoencoder_parts import autoencoder_parts
from i2i_prior.flops.dit_parts import (
    conditioner_parts,
    dit_parts,
)
from i2i_prior.flops.encoder_parts import (
    text_parts,
    vit_parts,
)
from i2i_prior.flops.flops import (
    conditioner_macs,
    decode_macs,
    dit_macs,
    encode_macs,
    text_macs,
    vit_macs,
)
from i2i_prior.flops.parts import total
from i2i_prior.models.autoencoder import AUTOENCODERS, make_autoencoder
from i2i_prior.models.conditioner import (
    PYRAMID,
    Conditioner,
    ConditionerConfig,
)
from i2i_prior.models.dit import DiT, DiTConfig, frozen_names
from i2i_prior.models.encoder_families import FAMILIES
from i2i_prior.models.functional import make_functional, partition
from i2i_prior.models.text_clip import ClipTextConfig, ClipTextEncoder
from i2i_prior.models.text_t5 import T5Config, T5Encoder
from i2i_prior.models.vit import Features, ViT, ViTConfig
from tests.flops.products import (
    array,
    dit_inputs,
    traced_macs,
)


def numbers(shapes) -> int:
    return sum(math.prod(shape.shape) for shape in shapes.values())


def below(shapes, prefix) -> int:
    """Of the parameters whose names begin so."""
    return numbers(
        {n: s for n, s in shapes.items() if (n + "/").startswith(prefix + "/")}
    )


@st.composite
def dits(draw) -> tuple[DiTConfig, int]:
    """Any DiT, small, and its condition tokens."""
    tokens = draw(st.sampled_from([0, 1, 5]))
    door = draw(st.sampled_from(["none", "classes", "vector"]))
    patch = draw(st.sampled_from([1, 2]))
    config = DiTConfig(
        block=draw(st.sampled_from(["lumos", "dit", "pixart", "modern"])),
        depth=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([48, 72])),
        heads=draw(st.sampled_from([2, 6])),
        patch=patch,
        input_size=4 * patch,
        channels=draw(st.sampled_from([3, 4])),
        learn_sigma=draw(st.booleans()),
        mlp_ratio=draw(st.sampled_from([4.0, 2.7])),
        cross_attention=tokens > 0,
        qk_norm=draw(st.booleans()),
        classes=10 * (door == "classes"),
        pooled_width=7 * (door == "vector"),
        size_conditions=draw(st.booleans()),
        concat_channels=draw(st.sampled_from([0, 2])),
        one_token=tokens == 1 and draw(st.booleans()),
    )
    return config, tokens


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(dits())
def test_dit(drawn):
    config, tokens = drawn
    functional, _ = make_functional(lambda rngs: DiT(config, rngs=rngs))
    shapes = functional.shapes()
    parts = dit_parts(config, tokens)
    for name, part in parts.items():
        assert part.parameters == below(shapes, name), name
    assert total(parts.values()).parameters == numbers(shapes)
    _, frozen = partition(shapes, frozen_names(config))
    assert total(parts.values()).frozen == numbers(frozen)

    def call(parameters, x, t, doors):
        return functional.merge(parameters)(x, t, **doors)

    macs = traced_macs(call, shapes, *dit_inputs(config, tokens))
    assert dit_macs(config, tokens) == macs


@pytest.mark.parametrize("choice", ["cls", "patches", "pyramid", "tokens"])
@pytest.mark.parametrize(
    ("expand", "null"), [(1, "random"), (3, "trained"), (1, "given")]
)
def test_conditioner(choice, expand, null):
    config = ConditionerConfig(
        embedding_width=8,
        width=12,
        tokens_from=choice,
        patches=16,
        length=6,
        expand=expand,
        null=null,
    )
    functional, _ = make_functional(lambda rngs: Conditioner(config, rngs=rngs))
    shapes = functional.shapes()
    parts = conditioner_parts(config)
    for name, part in parts.items():
        assert part.parameters == below(shapes, name), name
    whole = total(parts.values())
    assert whole.parameters == numbers(shapes)
    fixed = below(shapes, "null") if null == "random" else 0
    assert whole.frozen == fixed

    def call(parameters, features):
        module = functional.merge(parameters)
        if choice == "tokens":
            return module(features[1][:, :6])
        return module(module.choose(Features(*features)))

    macs = traced_macs(call, shapes, (array(1, 8), array(1, 16, 8)))
    assert conditioner_macs(config) == macs
    if choice == "pyramid":
        assert parts["pyramid"].macs == sum(s * s for s in PYRAMID) * 16 * 8


OPTIONS = {
    "dinov2": {"registers": 3, "swiglu": True, "mlp_width": 20},
    "clip": {"projection": 10},
    "openclip": {"mlp_width": 36},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_image_encoder(family):
    config = ViTConfig(
        family=family,
        depth=2,
        width=24,
        heads=3,
        patch=4,
        image_size=16,
        **OPTIONS.get(family, {}),
    )
    functional, _ = make_functional(lambda rngs: ViT(config, rngs=rngs))
    shapes = functional.shapes()
    assert total(vit_parts(config).values()).parameters == numbers(shapes)

    def call(parameters, pixels):
        return functional.merge(parameters)(pixels)

    macs = traced_macs(call, shapes, array(1, 16, 16, 3))
    assert vit_macs(config) == macs
    # To lay the position table over 3 x 3 cells costs products, once a batch.
    two = traced_macs(call, shapes, array(2, 12, 12, 3))
    one = traced_macs(call, shapes, array(1, 12, 12, 3))
    assert vit_macs(config, 12) == two - one


@pytest.mark.parametrize("kind", ["sd", "flux2", "taesd", "taef2"])
def test_autoencoder(kind):
    shape = AUTOENCODERS[kind]
    widths = (8, 8, 8) if shape.kind == "tiny" else (8, 16, 8)
    small = dataclasses.replace(
        shape, widths=widths, blocks=(1, 2, 1), groups=4
    )
    functional, _ = make_functional(
        lambda rngs: make_autoencoder(small, rngs=rngs)
    )
    shapes = functional.shapes()
    parts = autoencoder_parts(small, 16)
    assert total(parts.values()).parameters == numbers(shapes)
    # The 1x1 convolutions stand beside the two halves in the tree.
    decoder = below(shapes, "decoder") + below(shapes, "post_quant_conv")
    assert parts["decoder"].parameters == decoder

    def encode(parameters, images):
        return functional.merge(parameters).encode(images)

    def decode(parameters, latents):
        return functional.merge(parameters).decode(latents)

    image, latent = array(1, 16, 16, 3), array(1, 4, 4, small.channels)
    assert encode_macs(small, 16) == traced_macs(encode, shapes, image)
    assert decode_macs(small, 16) == traced_macs(decode, shapes, latent)


def test_pixels_cost_nothing():
    pixels = AUTOENCODERS["pixels"]
    assert encode_macs(pixels, 64) == decode_macs(pixels, 64) == 0


TEXT = {
    "t5": T5Config(20, 2, 12, 3, 5, 14),
    "t5_relu": T5Config(20, 1, 12, 3, 5, 14, gated=False, activation="relu"),
    "clip": ClipTextConfig(20, 9, 2, 12, 3, 14, projection=10),
    "clip_plain": ClipTextConfig(20, 9, 1, 12, 3, 14, projection=0),
}


@pytest.mark.parametrize("name", TEXT)
def test_text_encoder(name):
    config = TEXT[name]
    module = T5Encoder if name.startswith("t5") else ClipTextEncoder
    functional, _ = make_functional(lambda rngs: module(config, rngs=rngs))
    shapes = functional.shapes()

    def call(parameters, ids):
        return functional.merge(parameters)(ids)

    macs = traced_macs(call, shapes, array(1, 7, dtype=jnp.int32))
    assert text_macs(config, 7) == macs
    assert total(text_parts(config, 7).values()).parameters == numbers(shapes)
