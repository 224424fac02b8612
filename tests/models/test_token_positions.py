"""Condition tokens say where they are, and image tokens find theirs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from i2i_prior.models.attention import CrossAttention
from i2i_prior.models.conditioner import (
    Conditioner,
    ConditionerConfig,
    token_positions,
)
from i2i_prior.models.layers import RmsNorm, rms_norm
from i2i_prior.models.positions import sincos_2d, sincos_at


def config(**changes):
    options = {
        "embedding_width": 8,
        "width": 32,
        "tokens_from": "patches",
        "patches": 16,
        "grid": 8,
        **changes,
    }
    return ConditionerConfig(**options)


def test_table_at_the_grid_is_the_grid_table():
    rows, columns = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    np.testing.assert_array_equal(
        sincos_at(16, rows, columns), sincos_2d(16, (4, 4))
    )


def test_patch_tokens_sit_at_their_centres():
    # 4 x 4 patches over an 8 x 8 grid: centres at 0.5, 2.5, 4.5, 6.5.
    rows, columns = np.meshgrid(
        np.arange(4) * 2 + 0.5, np.arange(4) * 2 + 0.5, indexing="ij"
    )
    np.testing.assert_array_equal(
        token_positions(config()), sincos_at(32, rows, columns)
    )


def test_same_grid_gives_the_dit_table():
    same = config(patches=64)
    np.testing.assert_array_equal(token_positions(same), sincos_2d(32, (8, 8)))


def test_pyramid_and_expansion_have_a_row_each():
    pyramid = config(tokens_from="pyramid", expand=2)
    assert token_positions(pyramid).shape == (pyramid.tokens, 32) == (42, 32)


@pytest.mark.parametrize(("choice", "carries"), [("patches", 1), ("cls", 0)])
def test_positions_are_added_to_patches_only(choice, carries):
    shape = config(tokens_from=choice)
    plain = config(tokens_from=choice, grid=0)
    make = lambda c: Conditioner(c, rngs=nnx.Rngs(params=0))  # noqa: E731
    embeddings = jnp.ones((2, shape.embeddings, 8))
    difference = make(shape)(embeddings) - make(plain)(embeddings)
    assert (np.abs(difference).max() > 0.1) == bool(carries)


def test_image_tokens_attend_to_their_own_place_at_the_start():
    width, heads, side = 64, 2, 4
    table = jnp.asarray(sincos_2d(width, (side, side)))
    attention = CrossAttention(
        width, heads, rngs=nnx.Rngs(params=1), qk_norm=RmsNorm, tie_init=True
    )
    x = rms_norm(table + 0.1 * jax.random.normal(jax.random.key(0), (16, 64)))
    q = attention.q_norm(attention.q(x).reshape(1, 16, heads, -1))
    k = attention.k_norm(attention.k(table).reshape(1, 16, heads, -1))
    scores = jnp.einsum("bnhd,bmhd->bnm", q, k)[0]
    own = (scores.argmax(-1) == jnp.arange(16)).mean()
    assert own > 0.9
