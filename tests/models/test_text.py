"""The text encoders on their own: positions, masks, precisions, mistakes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.text_clip import ClipTextConfig, ClipTextEncoder
from i2i_prior.models.text_t5 import T5Config, T5Encoder, relative_buckets

T5 = T5Config(
    vocabulary=50, depth=2, width=24, heads=2, head_width=8, hidden=32
)
CLIP = ClipTextConfig(
    vocabulary=50,
    length=12,
    depth=2,
    width=24,
    heads=2,
    hidden=32,
    projection=10,
)


def forward(build, config):
    """A jitted run of a fresh encoder, norms and biases random too."""
    graphdef, state = nnx.split(build(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def noisy(a):
        return a + 0.2 * rng.standard_normal(a.shape).astype("f4")

    state = jax.tree.map(noisy, state)
    return jax.jit(lambda ids, mask: nnx.merge(graphdef, state)(ids, mask))


@pytest.fixture(scope="module")
def t5():
    return forward(T5Encoder, T5)


@pytest.fixture(scope="module")
def clip():
    return forward(ClipTextEncoder, CLIP)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(1, 40, (3, 12))


def masked(lengths):
    return np.arange(12) < np.asarray(lengths)[:, None]


def test_relative_buckets_are_those_of_t5():
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    torch = pytest.importorskip("torch")
    for length, buckets, distance in ((300, 32, 128), (90, 16, 64)):
        positions = torch.arange(length)
        theirs = modeling.T5Attention._relative_position_bucket(
            positions[None] - positions[:, None],
            num_buckets=buckets,
            max_distance=distance,
        )
        ours = relative_buckets(length, buckets, distance)
        np.testing.assert_array_equal(ours, theirs.numpy())
        assert (ours.min(), ours.max()) == (0, buckets - 1)


def test_t5_does_not_read_what_is_masked(t5, ids):
    mask = masked([12, 7, 3])
    other = np.where(mask, ids, 45)
    first, second = t5(ids, mask).tokens, t5(other, mask).tokens
    np.testing.assert_allclose(first[mask], second[mask], atol=1e-5)
    assert np.abs(first - second)[~mask].max() > 0.1
    unmasked = t5(other, jnp.ones_like(mask)).tokens
    assert np.abs(unmasked - second)[1:][mask[1:]].max() > 0.01


def test_t5_knows_the_order_of_tokens(t5, ids):
    mask = masked([12, 12, 12])
    backwards = t5(ids[:, ::-1], mask).tokens[:, ::-1]
    assert np.abs(backwards - t5(ids, mask).tokens).max() > 0.1


def test_clip_reads_from_left_to_right_only(clip, ids):
    mask = masked([12, 12, 12])
    other = ids.copy()
    other[:, 8:] = 5
    first, second = clip(ids, mask).tokens, clip(other, mask).tokens
    np.testing.assert_allclose(first[:, :8], second[:, :8], atol=1e-5)
    assert np.abs(first - second)[:, 8:].max() > 0.1


def test_clip_is_pooled_at_the_end_token(clip, ids):
    ids = ids.copy()
    ids[[0, 1, 2], [4, 9, 11]] = 49  # the largest id ends a text
    everything = masked([12, 12, 12])
    pooled = clip(ids, everything).pooled
    assert pooled.shape == (3, 10)
    ids[0, 5:] = 7  # behind the end: never seen, never pooled
    np.testing.assert_allclose(clip(ids, everything).pooled, pooled, atol=1e-5)
    ids[0, 2] = 8
    assert np.abs(clip(ids, everything).pooled - pooled)[0].max() > 0.01


@pytest.mark.parametrize(
    ("build", "config"), [(T5Encoder, T5), (ClipTextEncoder, CLIP)]
)
def test_bfloat16_is_near_float32(build, config, ids):
    mask = masked([12, 7, 3])
    exact = forward(build, config)(ids, mask).tokens
    config = dataclasses.replace(config, precision="bfloat16")
    rounded = forward(build, config)(ids, mask).tokens
    assert rounded.dtype == jnp.float32
    error = np.abs(exact - rounded)[mask].max() / np.abs(exact).max()
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("build", [T5Encoder, ClipTextEncoder])
@pytest.mark.parametrize("field", ["precision", "activation"])
def test_unknown_names_are_refused(build, field):
    config = T5 if build is T5Encoder else CLIP
    config = dataclasses.replace(config, **{field: "float16"})
    with pytest.raises(UserError, match=f"{field} 'float16' is unknown"):
        build(config, rngs=nnx.Rngs(0))


def test_clip_shapes_that_cannot_be_are_refused(ids):
    config = dataclasses.replace(CLIP, heads=5)
    with pytest.raises(UserError, match="5 heads do not divide"):
        ClipTextEncoder(config, rngs=nnx.Rngs(0))
    encoder = nnx.eval_shape(lambda: ClipTextEncoder(CLIP, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="13 tokens are more than the 12"):
        jax.eval_shape(encoder, jnp.zeros((1, 13), int))
