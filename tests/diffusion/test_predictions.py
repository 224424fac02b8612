"""Conversions between the kinds of prediction."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.diffusion.objectives import add_noise
from i2i_prior.diffusion.paths import PATHS, get_path
from i2i_prior.diffusion.predictions import PREDICTIONS, from_x0_eps, to_x0_eps
from i2i_prior.errors import UserError

TIMES = jnp.array([0.01, 0.3, 0.6, 0.9])


def draw(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (4, 2, 2, 3))


X0, EPS = draw(0), draw(1)


def convert(value, x_t, alpha, sigma, source, target) -> jax.Array:
    x0, eps = to_x0_eps(value, x_t, alpha, sigma, source)
    return from_x0_eps(x0, eps, alpha, sigma, target)


def truth(path_name: str, kind: str) -> jax.Array:
    """The kinds by their definitions, one line each."""
    path = get_path(path_name)
    alpha = path.alpha(TIMES)[:, None, None, None]
    sigma = path.sigma(TIMES)[:, None, None, None]
    return {
        "eps": EPS,
        "x0": X0,
        "v": alpha * EPS - sigma * X0,
        "velocity": EPS - X0,
    }[kind]


@pytest.mark.parametrize("name", PATHS)
def test_every_kind_turns_into_every_other(name: str) -> None:
    path = get_path(name)
    x_t = add_noise(X0, EPS, TIMES, path)
    alpha, sigma = path.alpha(TIMES), path.sigma(TIMES)
    for source, target in itertools.product(PREDICTIONS, PREDICTIONS):
        got = convert(truth(name, source), x_t, alpha, sigma, source, target)
        want = truth(name, target)
        np.testing.assert_allclose(got, want, atol=3e-4, err_msg=source)


def test_a_whole_cycle_returns() -> None:
    path = get_path("ddpm_cosine")
    x_t = add_noise(X0, EPS, TIMES, path)
    alpha, sigma = path.alpha(TIMES), path.sigma(TIMES)
    value = draw(2)  # no true prediction, just any
    cycle = [*PREDICTIONS, PREDICTIONS[0]]
    start = value
    for source, target in itertools.pairwise(cycle):
        value = convert(value, x_t, alpha, sigma, source, target)
    np.testing.assert_allclose(value, start, atol=1e-3)


def test_velocity_is_the_time_derivative_on_flow() -> None:
    path = get_path("flow")
    _, derivative = jax.jvp(
        lambda t: add_noise(X0, EPS, t, path), (TIMES,), (jnp.ones(4),)
    )
    np.testing.assert_allclose(derivative, truth("flow", "velocity"), atol=1e-6)


@pytest.mark.parametrize("kind", ["v", "velocity"])
def test_v_and_velocity_are_exact_at_both_ends(kind: str) -> None:
    for alpha, sigma in [(0.0, 1.0), (1.0, 0.0)]:
        x_t = alpha * X0 + sigma * EPS
        value = EPS - X0 if kind == "velocity" else alpha * EPS - sigma * X0
        x0, eps = to_x0_eps(value, x_t, alpha, sigma, kind)
        np.testing.assert_allclose(x0, X0, atol=1e-6)
        np.testing.assert_allclose(eps, EPS, atol=1e-6)


def test_singular_ends_stay_finite() -> None:
    assert jnp.isfinite(to_x0_eps(EPS, EPS, 0.0, 1.0, "eps")[0]).all()
    assert jnp.isfinite(to_x0_eps(X0, X0, 1.0, 0.0, "x0")[1]).all()


def test_low_precision_predictions_are_widened() -> None:
    x_t = X0.astype(jnp.bfloat16)
    x0, eps = to_x0_eps(x_t, x_t, 0.5, 0.5, "v")
    assert x0.dtype == eps.dtype == jnp.float32


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="eps, x0, v, velocity"):
        convert(X0, X0, 1.0, 0.0, "noise", "x0")
    with pytest.raises(UserError, match="score"):
        convert(X0, X0, 1.0, 0.0, "x0", "score")
