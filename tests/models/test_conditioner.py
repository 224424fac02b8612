"""From image features to condition tokens."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from i2i_prior.errors import UserError
from i2i_prior.models.conditioner import (
    Conditioner,
    ConditionerConfig,
    NullToken,
    draw_keep,
    pyramid,
)
from i2i_prior.models.vit import Features

TINY = ConditionerConfig(embedding_width=8, width=16)


def make(**changes) -> Conditioner:
    config = dataclasses.replace(TINY, **changes)
    return Conditioner(config, rngs=nnx.Rngs(0))


def features(patches: int = 16) -> Features:
    rng = np.random.default_rng(0)
    return Features(
        cls=rng.standard_normal((3, 8)).astype("f4"),
        patches=rng.standard_normal((3, patches, 8)).astype("f4"),
    )


@pytest.mark.parametrize("side", [3, 4, 14])
def test_pyramid_is_adaptive_average_pooling(side):
    torch = pytest.importorskip("torch")
    patches = features(side * side).patches
    grid = torch.from_numpy(patches).mT.unflatten(-1, (side, side))
    pool = torch.nn.functional.adaptive_avg_pool2d
    levels = [pool(grid, cells).flatten(2).mT for cells in (1, 2, 4)]
    ours = pyramid(patches)
    assert ours.shape == (3, 21, 8)
    np.testing.assert_allclose(ours, torch.cat(levels, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("choice", "patches", "embeddings"),
    [("cls", 0, 1), ("patches", 16, 16), ("pyramid", 16, 21)],
)
@pytest.mark.parametrize("expand", [1, 3])
def test_choices_and_token_counts(choice, patches, embeddings, expand):
    model = make(tokens_from=choice, patches=patches, expand=expand, scale=2.0)
    chosen = model.choose(features())
    assert chosen.shape == (3, embeddings, 8)
    length = np.linalg.norm(chosen, axis=-1)
    np.testing.assert_allclose(length, 2.0, rtol=1e-5)
    assert model.config.embeddings == embeddings
    assert model.config.tokens == embeddings * expand
    assert model(chosen).shape == (3, embeddings * expand, 16)


def test_expansion_is_a_learned_map_of_each_embedding():
    """Tokens of one embedding lie together and depend on it alone."""
    model = make(tokens_from="patches", patches=2, expand=3)
    embeddings = features(2).patches
    changed = embeddings.copy()
    changed[:, 1] += 1
    difference = np.abs(model(embeddings) - model(changed)).max((0, 2))
    assert not difference[:3].any()
    assert (difference[3:] > 0).all()


def test_choice_takes_what_it_says():
    given = features()
    plain = {"normalize": False}
    np.testing.assert_array_equal(make(**plain).choose(given)[:, 0], given.cls)
    patches = make(tokens_from="patches", patches=16, **plain)
    np.testing.assert_array_equal(patches.choose(given), given.patches)
    empty = Features(cls=np.zeros((1, 8), "f4"), patches=given.patches)
    assert not np.asarray(make().choose(empty)).any()  # and no NaN


def test_drop_puts_the_null_token_in():
    model = make(tokens_from="patches", patches=4)
    embeddings = features(4).patches
    kept = np.asarray(model(embeddings))
    null = np.asarray(model(model.null_embeddings(3)))
    got = np.asarray(model(embeddings, np.array([False, True, False])))
    np.testing.assert_array_equal(got[[0, 2]], kept[[0, 2]])
    np.testing.assert_array_equal(got[1], null[1])
    assert np.abs(null - kept).max() > 1e-4


def test_only_a_trained_null_token_is_a_parameter():
    def count(null):
        params = nnx.state(make(null=null), nnx.Param)
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    linear = 8 * 16 + 16 + 16 * 16 + 16
    assert count("random") == linear
    assert count("trained") == linear + 8
    assert isinstance(make().null, NullToken)
    length = np.linalg.norm(make(embedding_width=4096).null[...])
    assert length == pytest.approx(1.0, abs=0.05)


def test_draw_keep_has_the_rate_and_keeps_one():
    key = jax.random.key(0)
    keep = np.asarray(draw_keep(key, 400, 100, 0.45))
    assert keep.shape == (400, 100)
    assert keep.dtype == bool
    assert keep.mean() == pytest.approx(0.55, abs=0.01)  # 4 sigma
    assert draw_keep(key, 400, 100, 0.0).all()
    # Rate 1 would mask all: exactly one is left, not always the same.
    alone = np.asarray(draw_keep(key, 400, 4, 1.0))
    assert (alone.sum(1) == 1).all()
    assert (alone.mean(0) > 0.15).all()


def test_unknown_names_are_refused():
    with pytest.raises(
        UserError, match="choose cls, patches, pyramid or tokens"
    ):
        make(tokens_from="all")
    with pytest.raises(UserError, match="choose random or trained"):
        make(null="zero")
