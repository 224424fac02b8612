"""lerp and slerp: ends, middles, lengths, angles."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.inference.interpolation import INTERPOLATIONS, lerp, slerp

RNG = np.random.default_rng(0)
START, END = RNG.standard_normal((2, 3, 8)).astype("f4")
WEIGHTS = jnp.linspace(0, 1, 5)


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_ends_are_the_ends_and_the_walk_can_be_turned_round(name):
    walk = INTERPOLATIONS[name](START, END, WEIGHTS)
    assert walk.shape == (5, 3, 8)
    np.testing.assert_allclose(walk[0], START, 1e-5, 1e-6)
    np.testing.assert_allclose(walk[-1], END, 1e-5, 1e-6)
    back = INTERPOLATIONS[name](END, START, WEIGHTS)
    np.testing.assert_allclose(walk, back[::-1], 1e-4, 1e-5)


def test_lerp_is_the_straight_line():
    walk = lerp(START, END, jnp.array([0.25]))
    np.testing.assert_allclose(walk[0], 0.75 * START + 0.25 * END, 1e-6, 1e-6)


def test_slerp_on_the_unit_circle():
    """Checks that frame w from 0 to 90 degrees is at 90 w degrees."""
    walk = slerp(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]), WEIGHTS)
    angles = np.pi / 2 * np.asarray(WEIGHTS)
    wanted = np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]
    np.testing.assert_allclose(walk, wanted, atol=1e-6)


def test_slerp_keeps_equal_lengths_and_equal_angles():
    length = np.linalg.norm(START, axis=-1, keepdims=True)
    end = END / np.linalg.norm(END, axis=-1, keepdims=True) * length
    walk = np.asarray(slerp(START, end, WEIGHTS))
    lengths = np.linalg.norm(walk, axis=-1)
    np.testing.assert_allclose(
        lengths, np.broadcast_to(length[:, 0], lengths.shape), 1e-5
    )
    unit = walk / lengths[..., None]
    cosines = (unit[1:] * unit[:-1]).sum(-1)
    np.testing.assert_allclose(
        cosines, np.broadcast_to(cosines[0], cosines.shape), 1e-5
    )


def test_slerp_changes_lengths_linearly():
    start, end = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 6.0]])
    lengths = jnp.linalg.norm(slerp(start, end, WEIGHTS), axis=-1)
    np.testing.assert_allclose(lengths[:, 0], [2, 3, 4, 5, 6], 1e-5)


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, 0.0])
def test_slerp_is_lerp_where_the_arc_is_not_defined(factor):
    walk = slerp(START, factor * START, WEIGHTS)
    np.testing.assert_allclose(
        walk, lerp(START, factor * START, WEIGHTS), 1e-4, 1e-4
    )
    assert np.isfinite(walk).all()
