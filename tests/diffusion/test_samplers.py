"""Sampling where the answer is known: point masses and Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.diffusion.guidance import classifier_free
from i2i_prior.diffusion.paths import PATHS, Path, get_path
from i2i_prior.diffusion.predictions import PREDICTIONS
from i2i_prior.diffusion.samplers import sample
from i2i_prior.diffusion.solvers import SOLVERS, time_grid
from i2i_prior.errors import UserError

# Data: two independent Gaussian channels.
MEAN = np.array([0.7, -0.4])
STD = np.array([0.5, 1.5])
DETERMINISTIC = [n for n, s in SOLVERS.items() if not s.stochastic]
KEY = jax.random.key(3)


def denoiser(
    path: Path, prediction: str, std: Any = STD, calls: list | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The exact network for data N(MEAN, std^2)."""

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        if calls is not None:
            calls.append(t.shape)
        alpha = path.alpha(t)[:, None, None, None]
        sigma = path.sigma(t)[:, None, None, None]
        variance = alpha**2 * std**2 + sigma**2
        x0 = MEAN + alpha * std**2 / variance * (x - alpha * MEAN)
        eps = sigma / variance * (x - alpha * MEAN)
        return {
            "x0": x0,
            "eps": eps,
            "v": alpha * eps - sigma * x0,
            "velocity": eps - x0,
        }[prediction]

    return predict


def exact(
    path: Path, noise: Any, end: float, start: float = 1.0, std: Any = STD
) -> np.ndarray:
    """Where the probability-flow ODE takes the noise: an affine map."""

    def spread(t: float) -> np.ndarray:
        return np.sqrt(path.alpha(t) ** 2 * std**2 + path.sigma(t) ** 2)

    standard = (np.asarray(noise) - path.alpha(start) * MEAN) / spread(start)
    return path.alpha(end) * MEAN + spread(end) * standard


def run(
    path: Path,
    solver: str,
    steps: int,
    noise: jax.Array,
    prediction: str = "velocity",
    std: Any = STD,
    **options: Any,
) -> Any:
    @jax.jit
    def compiled(noise: jax.Array, key: jax.Array) -> Any:
        predict = denoiser(path, prediction, std)
        return sample(
            predict,
            noise,
            path,
            prediction=prediction,
            solver=solver,
            steps=steps,
            key=key,
            **options,
        )

    return compiled(noise, KEY)


def noise_of(batch: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (batch, 1, 1, 2))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PATHS)
def test_a_point_mass_is_hit_in_any_number_of_steps(
    name: str, solver: str
) -> None:
    path, noise = get_path(name), noise_of(4)
    out = run(path, solver, 3, noise, "v", std=np.zeros(2))
    end = time_grid(path, 3, solver)[-1]
    want = exact(path, noise, end, std=np.zeros(2))
    assert out.shape == noise.shape
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, want, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("ddpm_linear", "dpmpp_2m"),
        ("ddpm_cosine", "dpmpp_2s"),
        ("ddpm_linear", "heun"),
        ("flow", "heun"),
        ("flow", "dpmpp_2m"),
        ("flow", "euler"),
    ],
)
def test_gaussians_are_transported_by_the_exact_map(
    name: str, solver: str
) -> None:
    path, noise = get_path(name), noise_of(500)
    steps = 800 if solver == "euler" else 200
    out = np.asarray(run(path, solver, steps, noise), np.float64)
    end = time_grid(path, steps, solver)[-1]
    np.testing.assert_allclose(out, exact(path, noise, end), atol=1e-2)
    # At t = 1/N what is left of noise is 1 % of sigma; the rest is the data's.
    flat = out.reshape(-1, 2)
    standard = np.asarray(noise).reshape(-1, 2)
    np.testing.assert_allclose(
        flat.mean(0), MEAN + STD * standard.mean(0), atol=0.02
    )
    np.testing.assert_allclose(
        np.cov(flat.T), np.outer(STD, STD) * np.cov(standard.T), atol=0.03
    )


@pytest.mark.parametrize(
    ("name", "solver", "order"),
    [
        ("flow", "euler", 1),
        ("ddpm_linear", "ddim", 1),
        ("ddpm_cosine", "dpmpp_1s", 1),
        ("flow", "heun", 2),
        ("ddpm_cosine", "heun", 2),
        ("ddpm_linear", "dpmpp_2m", 2),
        ("flow", "dpmpp_2m", 2),
        ("flow", "dpmpp_2s", 2),
    ],
)
def test_order_of_convergence(name: str, solver: str, order: int) -> None:
    path, noise = get_path(name), noise_of(8)
    # Coarse steps are not asymptotic, and below 1/N ddpm paths are staircases
    # (which the last, first-order step of Heun meets first).
    numbers = (16, 64) if solver == "heun" else (32, 128)
    errors = []
    for steps in numbers:
        out = run(path, solver, steps, noise, std=0.5, lower_order_final=False)
        end = time_grid(path, steps, solver)[-1]
        want = exact(path, noise, end, std=0.5)
        errors.append(np.abs(out - want).max())
    slope = np.log(errors[0] / errors[1]) / np.log(4)
    assert abs(slope - order) < (0.1 if order == 1 else 0.4), (slope, errors)


@pytest.mark.parametrize("solver", ["ancestral", "sde"])
@pytest.mark.parametrize("name", ["ddpm_linear", "flow"])
def test_stochastic_solvers_have_the_right_moments(
    name: str, solver: str
) -> None:
    out = run(get_path(name), solver, 200, noise_of(4000))
    flat = np.asarray(out).reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(0), MEAN, atol=0.07)
    np.testing.assert_allclose(flat.std(0) / STD, 1.0, atol=0.04)
    assert abs(np.corrcoef(flat.T)[0, 1]) < 0.05


@pytest.mark.parametrize("name", ["ddpm_cosine", "flow"])
def test_kinds_of_prediction_agree(name: str) -> None:
    path, noise = get_path(name), noise_of(4)
    outs = [run(path, "dpmpp_2m", 12, noise, kind) for kind in PREDICTIONS]
    # eps starts later where alpha(1) = 0 (see samplers.py): it may differ by
    # what the path does before that.
    np.testing.assert_allclose(outs[0], outs[1], atol=0.02)
    for other in outs[2:]:
        np.testing.assert_allclose(other, outs[1], atol=1e-4)


def test_eps_on_flow_starts_where_it_means_something() -> None:
    path, noise = get_path("flow"), noise_of(8)
    start = path.time_of_log_snr(-10.2)
    assert 0.99 < start < 0.995
    out = run(path, "heun", 100, noise, "eps", std=0.5)
    want = exact(path, noise, 0.0, start=start, std=0.5)
    np.testing.assert_allclose(out, want, atol=2e-3)


def test_first_order_solvers_coincide_on_flow() -> None:
    path, noise = get_path("flow", shift=2.0), noise_of(4)
    outs = [run(path, s, 5, noise) for s in ("euler", "ddim", "dpmpp_1s")]
    for other in outs[1:]:
        np.testing.assert_allclose(other, outs[0], atol=1e-6)


def test_keys_decide_the_noise() -> None:
    path, noise = get_path("flow"), noise_of(2)
    options: dict[str, Any] = {
        "prediction": "velocity",
        "solver": "ancestral",
        "steps": 4,
    }
    predict = denoiser(path, "velocity")
    draw = jax.jit(lambda key: sample(predict, noise, path, key=key, **options))
    first, again, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    with pytest.raises(UserError, match="key"):
        sample(predict, noise, path, **options)


def test_clipping_bounds_the_result() -> None:
    noise = noise_of(16)
    path = get_path("ddpm_linear")
    assert np.abs(run(path, "ddim", 8, noise, "eps")).max() > 0.5
    out = run(path, "ddim", 8, noise, "eps", clip_x0=0.5)
    np.testing.assert_array_less(np.abs(out), 0.5 + 1e-6)


def test_the_network_is_traced_once_and_guidance_composes() -> None:
    path, noise = get_path("flow"), noise_of(2)
    calls: list = []
    predict = denoiser(path, "velocity", calls=calls)

    def other(x: jax.Array, t: jax.Array) -> jax.Array:
        return predict(x, t) * 0.0

    out = jax.jit(
        lambda noise, scale: sample(
            lambda x, t: classifier_free(predict(x, t), other(x, t), scale),
            noise,
            path,
            prediction="velocity",
            solver="heun",
            steps=6,
        )
    )(noise, jnp.float32(1.0))
    # Once as the condition's network, once inside `other`, however many steps.
    assert len(calls) == 2
    np.testing.assert_allclose(out, run(path, "heun", 6, noise), atol=1e-5)


def test_bad_requests_are_refused() -> None:
    path, noise = get_path("flow"), noise_of(1)
    predict = denoiser(path, "velocity")
    for change, words in [
        ({"solver": "plms"}, "solver 'plms' is unknown"),
        ({"prediction": "noise"}, "prediction 'noise' is unknown"),
        ({"steps": 0}, "1 step or more"),
    ]:
        options = {"solver": "heun", "prediction": "velocity", "steps": 3}
        with pytest.raises(UserError, match=words):
            sample(predict, noise, path, **{**options, **change})
