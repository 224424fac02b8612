"""Drawn times, losses and the variational bound."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.diffusion.objectives import (
    add_noise,
    draw_times,
    loss,
    loss_weight,
)
from i2i_prior.diffusion.paths import get_path
from i2i_prior.errors import UserError

LINEAR = get_path("ddpm_linear")
KEY = jax.random.key(0)
INDEX = np.array([0, 0, 1, 300, 999])
T = jnp.asarray((INDEX + 1) / 1000, jnp.float32)


def draw(seed: int, channels: int = 3) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (5, 2, 2, channels))


# ---------------------------------------------------------------- times


def test_uniform_ddpm_times_cover_the_grid() -> None:
    path = get_path("ddpm_linear", num_timesteps=8)
    t = np.asarray(draw_times(KEY, 4000, path))
    assert t.dtype == np.float32
    values, counts = np.unique(t, return_counts=True)
    np.testing.assert_allclose(values, np.arange(1, 9) / 8)
    np.testing.assert_allclose(counts, 500, atol=100)


def test_logit_normal_ddpm_times_lie_on_the_grid() -> None:
    t = np.asarray(draw_times(KEY, 4000, LINEAR, "logit_normal", 0.5, 0.7))
    np.testing.assert_allclose(t * 1000, np.round(t * 1000), atol=1e-3)
    assert t.min() >= 1e-3
    assert t.max() <= 1.0
    np.testing.assert_allclose(
        np.median(t), 1 / (1 + math.exp(-0.5)), atol=0.02
    )


def test_logit_normal_flow_times_have_the_right_quantiles() -> None:
    t = np.asarray(
        draw_times(KEY, 20000, get_path("flow"), "logit_normal", -0.4, 1.2)
    )
    logit = np.log(t / (1 - t))
    np.testing.assert_allclose(logit.mean(), -0.4, atol=0.03)
    np.testing.assert_allclose(logit.std(), 1.2, atol=0.03)
    np.testing.assert_allclose(
        np.quantile(logit, [0.16, 0.84]), [-1.593, 0.793], atol=0.05
    )


def test_shift_moves_drawn_flow_times() -> None:
    plain = draw_times(KEY, 1000, get_path("flow"))
    shifted = draw_times(KEY, 1000, get_path("flow", shift=3.0))
    np.testing.assert_allclose(shifted, 3 * plain / (1 + 2 * plain), atol=2e-3)
    assert plain.min() >= 1e-3
    np.testing.assert_allclose(np.mean(plain), 0.5, atol=0.03)


def test_unknown_distribution_is_refused() -> None:
    with pytest.raises(UserError, match="uniform, logit_normal"):
        draw_times(KEY, 4, LINEAR, "normal")


# ---------------------------------------------------------------- losses


def test_noise_is_added_as_the_path_says() -> None:
    x0, noise = draw(0), draw(1)
    x_t = add_noise(x0, noise, T, LINEAR)
    signal = LINEAR.alphas_cumprod()[INDEX][:, None, None, None]
    want = np.sqrt(signal) * x0 + np.sqrt(1 - signal) * noise
    np.testing.assert_allclose(x_t, want, atol=1e-5)


@pytest.mark.parametrize("name", ["ddpm_linear", "flow"])
def test_the_target_has_loss_zero_and_errors_are_squared(name: str) -> None:
    path = get_path(name)
    x0, noise = draw(0), draw(1)
    alpha = path.alpha(T)[:, None, None, None]
    sigma = path.sigma(T)[:, None, None, None]
    targets = {
        "eps": noise,
        "x0": x0,
        "v": alpha * noise - sigma * x0,
        "velocity": noise - x0,
    }
    for prediction, target in targets.items():
        value, _ = loss(target, x0, noise, T, path, prediction)
        np.testing.assert_allclose(value, 0.0, atol=1e-10)
        value, parts = loss(target + 0.5, x0, noise, T, path, prediction)
        np.testing.assert_allclose(value, np.full(5, 0.25), rtol=1e-5)
        assert set(parts) == {"mse"}


@pytest.mark.parametrize("name", ["ddpm_cosine", "flow"])
def test_min_snr_weighs_the_same_x0_error_alike_for_all_kinds(
    name: str,
) -> None:
    """Whatever is predicted, an error d in x0 costs min(SNR, gamma) d^2."""
    path, error = get_path(name), 0.1
    t = jnp.array([0.05, 0.3, 0.5, 0.8, 0.95])
    alpha, sigma = path.alpha(t), path.sigma(t)
    want = jnp.minimum((alpha / sigma) ** 2, 5.0) * error**2
    eps_error = -alpha / sigma * error  # at fixed x_t
    errors = {
        "x0": error,
        "eps": eps_error,
        "v": alpha * eps_error - sigma * error,
        "velocity": eps_error - error,
    }
    for prediction, e in errors.items():
        weight = loss_weight(t, path, prediction, "min_snr")
        np.testing.assert_allclose(weight * e**2, want, rtol=1e-4)


def test_min_snr_on_ddpm_has_the_papers_forms_and_reaches_the_loss() -> None:
    t = jnp.array([0.0, 0.1, 0.4, 0.7, 1.0])
    snr = jnp.exp(LINEAR.log_snr(t))[1:]
    eps = loss_weight(t, LINEAR, "eps", "min_snr")
    np.testing.assert_allclose(eps[1:], jnp.minimum(snr, 5) / snr, rtol=1e-4)
    v = loss_weight(t, LINEAR, "v", "min_snr")
    np.testing.assert_allclose(
        v[1:], jnp.minimum(snr, 5) / (snr + 1), rtol=1e-4
    )
    assert np.isfinite(eps).all()
    assert np.isfinite(v).all()
    output, x0, noise = draw(0), draw(1), draw(2)
    weighted, parts = loss(
        output, x0, noise, t, LINEAR, "eps", weighting="min_snr"
    )
    np.testing.assert_allclose(weighted, eps * parts["mse"], rtol=1e-6)


# ----------------------------------------------------------- the bound


def reference_vlb(
    output: np.ndarray, x0: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """The bound in float64 from the betas, by textbook formulas."""
    betas = np.linspace(1e-4, 2e-2, 1000)
    bar = np.cumprod(1 - betas)
    bar_before = np.append(1.0, bar[:-1])
    posterior = betas * (1 - bar_before) / (1 - bar)
    posterior[0] = posterior[1]
    normal_cdf = np.vectorize(lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))))
    result = []
    for i, n in enumerate(INDEX):
        x_t = np.sqrt(bar[n]) * x0[i] + np.sqrt(1 - bar[n]) * noise[i]
        eps, v = output[i, ..., :3], output[i, ..., 3:]
        x0_hat = (x_t - np.sqrt(1 - bar[n]) * eps) / np.sqrt(bar[n])
        log_variance = (v + 1) / 2 * np.log(betas[n]) + (1 - v) / 2 * np.log(
            posterior[n]
        )
        a = betas[n] * np.sqrt(bar_before[n]) / (1 - bar[n])
        b = (1 - bar_before[n]) * np.sqrt(1 - betas[n]) / (1 - bar[n])
        true_mean, mean = a * x0[i] + b * x_t, a * x0_hat + b * x_t
        if n > 0:
            nats = (
                0.5 * (log_variance - np.log(posterior[n]))
                + (posterior[n] + (true_mean - mean) ** 2)
                / (2 * np.exp(log_variance))
                - 0.5
            )
        else:
            std = np.exp(0.5 * log_variance)
            upper = normal_cdf((x0[i] + 1 / 255 - mean) / std)
            lower = normal_cdf((x0[i] - 1 / 255 - mean) / std)
            upper = np.where(x0[i] > 0.999, 1.0, upper)
            lower = np.where(x0[i] < -0.999, 0.0, lower)
            nats = -np.log(upper - lower)
        result.append(nats.mean() / np.log(2))
    return np.array(result)


def test_the_bound_agrees_with_a_float64_reference() -> None:
    x0 = jnp.clip(draw(0), -1.0, 1.0)  # both open end bins occur
    assert (x0[:2] == 1.0).any()
    assert (x0[:2] == -1.0).any()
    noise = draw(1)
    v = jnp.tanh(draw(3))
    output = jnp.concatenate([noise + 0.3 * draw(2), v], -1)
    total, parts = loss(
        output, x0, noise, T, LINEAR, "eps", learn_sigma=True, vlb_weight=0.1
    )
    want = reference_vlb(*(np.float64(a) for a in (output, x0, noise)))
    # The first two use the tanh approximation of the normal integral.
    np.testing.assert_allclose(parts["vlb"][:2], want[:2], rtol=5e-3)
    np.testing.assert_allclose(parts["vlb"][2:], want[2:], rtol=2e-4)
    np.testing.assert_allclose(
        total, parts["mse"] + 0.1 * parts["vlb"], rtol=1e-6
    )


def test_the_bound_vanishes_for_the_true_posterior() -> None:
    x0, noise = draw(0), draw(1)
    output = jnp.concatenate([noise, -jnp.ones_like(noise)], -1)
    _, parts = loss(output, x0, noise, T, LINEAR, "eps", learn_sigma=True)
    np.testing.assert_allclose(parts["vlb"][2:], 0.0, atol=1e-4)


def test_all_kinds_of_prediction_have_the_same_bound() -> None:
    x0, noise, wrong = draw(0), draw(1), 0.2 * draw(2)
    v = jnp.tanh(draw(3))
    alpha = LINEAR.alpha(T)[:, None, None, None]
    sigma = LINEAR.sigma(T)[:, None, None, None]
    eps = noise + wrong
    x0_hat = x0 - sigma / alpha * wrong
    kinds = {"eps": eps, "x0": x0_hat, "v": alpha * eps - sigma * x0_hat}
    bounds = [
        loss(jnp.concatenate([p, v], -1), x0, noise, T, LINEAR, k, True)[1]
        for k, p in kinds.items()
    ]
    for other in bounds[1:]:
        np.testing.assert_allclose(other["vlb"], bounds[0]["vlb"], rtol=1e-2)


def test_the_bound_teaches_only_the_variance_channels() -> None:
    x0, noise = draw(0), draw(1)
    output = draw(2, channels=6)

    @jax.jit
    @jax.grad
    def hybrid(output: jax.Array) -> jax.Array:
        return loss(output, x0, noise, T, LINEAR, "eps", True)[0].sum()

    @jax.jit
    @jax.grad
    def plain(prediction: jax.Array) -> jax.Array:
        return loss(prediction, x0, noise, T, LINEAR, "eps")[0].sum()

    got = hybrid(output)
    np.testing.assert_allclose(got[..., :3], plain(output[..., :3]), rtol=1e-6)
    assert np.isfinite(got).all()
    assert (np.abs(got[..., 3:]).max(axis=(1, 2, 3)) > 0).all()


def test_bad_requests_are_refused() -> None:
    x0, noise = draw(0), draw(1)
    flow = get_path("flow")
    with pytest.raises(UserError, match="learn_sigma needs a path with betas"):
        loss(draw(2, 6), x0, noise, T, flow, "velocity", learn_sigma=True)
    with pytest.raises(UserError, match="6 channels where the loss needs 3"):
        loss(draw(2, 6), x0, noise, T, LINEAR, "eps")
    with pytest.raises(UserError, match="none, min_snr"):
        loss(x0, x0, noise, T, LINEAR, "eps", weighting="snr")
    with pytest.raises(UserError, match="eps, x0"):
        loss(x0, x0, noise, T, LINEAR, "noise")
