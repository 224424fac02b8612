"""Noise paths: tables, identities, inverses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.diffusion.paths import PATHS, get_path
from i2i_prior.errors import UserError

DDPM = ("ddpm_linear", "ddpm_cosine")


def test_linear_table_is_ddpms() -> None:
    path = get_path("ddpm_linear")
    betas = path.betas()
    assert betas.dtype == np.float64
    np.testing.assert_allclose(betas[[0, -1]], [1e-4, 2e-2], rtol=1e-12)
    np.testing.assert_allclose(np.diff(betas), (2e-2 - 1e-4) / 999)
    product = 1.0
    for beta in betas:
        product *= 1.0 - beta
    np.testing.assert_allclose(path.alphas_cumprod()[-1], product)
    # The figure quoted for this schedule everywhere.
    np.testing.assert_allclose(product, 4.0358e-5, rtol=1e-4)


def test_cosine_table_follows_its_formula_up_to_the_cap() -> None:
    path = get_path("ddpm_cosine")
    t = np.arange(1001) / 1000
    signal = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = signal[1:] / signal[0]
    np.testing.assert_allclose(path.alphas_cumprod()[:-1], expected[:-1])
    assert path.betas()[-1] == 0.999


def test_other_table_lengths_describe_the_same_path() -> None:
    t = np.array([0.2, 0.5, 1.0])
    for name in DDPM:
        coarse = get_path(name, num_timesteps=250).log_snr(t)
        np.testing.assert_allclose(
            coarse[:2], get_path(name).log_snr(t)[:2], atol=0.1
        )
    assert get_path("ddpm_linear", num_timesteps=10).betas().max() < 1.0


@pytest.mark.parametrize("name", DDPM)
def test_table_times_give_table_values_and_log_alpha_is_linear_between(
    name: str,
) -> None:
    path = get_path(name)
    t = (np.arange(1000) + 1) / 1000
    np.testing.assert_allclose(path.alpha(t) ** 2, path.alphas_cumprod())
    log_alpha = np.log(path.alpha(t))
    between = np.log(path.alpha(t[:-1] + 0.25 / 1000))
    np.testing.assert_allclose(
        between, 0.75 * log_alpha[:-1] + 0.25 * log_alpha[1:], rtol=1e-9
    )


@pytest.mark.parametrize("name", DDPM)
def test_ddpm_paths_preserve_variance_also_in_float32(name: str) -> None:
    path = get_path(name)
    t = jnp.linspace(0.0, 1.0, 333)
    total = path.alpha(t) ** 2 + path.sigma(t) ** 2
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    # Near data 1 - alpha^2 would lose digits; sigma must not.
    np.testing.assert_allclose(
        path.sigma(jnp.array([1e-3])), path.betas()[:1] ** 0.5, rtol=1e-5
    )


@pytest.mark.parametrize("name", PATHS)
def test_ends_are_data_and_noise(name: str) -> None:
    path = get_path(name)
    assert (path.alpha(0.0), path.sigma(0.0)) == (1.0, 0.0)
    assert path.alpha(1.0) < 7e-3
    np.testing.assert_allclose(path.sigma(1.0), 1.0, atol=1e-4)
    snr = path.log_snr(np.linspace(0.0, 1.0, 50))
    assert np.all(np.diff(snr) < 0)


@pytest.mark.parametrize("name", PATHS)
def test_time_of_log_snr_inverts(name: str) -> None:
    path = get_path(name)
    t = np.linspace(path.t_min, 0.999, 77)
    np.testing.assert_allclose(path.time_of_log_snr(path.log_snr(t)), t)
    t32 = jnp.asarray(t, jnp.float32)
    back = jax.jit(lambda t: path.time_of_log_snr(path.log_snr(t)))(t32)
    np.testing.assert_allclose(back, t, rtol=1e-4)


@pytest.mark.parametrize("name", PATHS)
def test_jax_agrees_with_numpy_and_keeps_its_kind(name: str) -> None:
    path = get_path(name)
    t = np.linspace(0.01, 0.99, 33)
    for method in (path.alpha, path.sigma, path.log_snr, path.network_time):
        wide, narrow = method(t), jax.jit(method)(jnp.asarray(t, jnp.float32))
        assert wide.dtype == np.float64
        assert isinstance(narrow, jax.Array)
        assert narrow.dtype == jnp.float32
        np.testing.assert_allclose(narrow, wide, rtol=2e-5, atol=2e-5)


def test_network_time() -> None:
    path = get_path("ddpm_linear")
    index = jnp.arange(1000)
    t = (index + 1).astype(jnp.float32) / 1000
    np.testing.assert_allclose(path.network_time(t), index, atol=1e-4)
    np.testing.assert_array_equal(path.index(t), index)
    assert path.t_min == 1e-3
    flow = get_path("flow")
    np.testing.assert_allclose(
        flow.network_time(np.array([0.0, 0.3])), [0, 300]
    )
    np.testing.assert_allclose(
        get_path("ddpm_linear", num_timesteps=100).network_time(1.0), 990.0
    )


def test_flow_and_its_shift() -> None:
    path = get_path("flow", shift=3.0)
    t = np.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(path.alpha(t), 1.0 - t)
    np.testing.assert_allclose(path.sigma(t), t)
    np.testing.assert_allclose(path.shift_time(t), [0.0, 0.5, 0.75, 1.0])
    # In log SNR the shift is a translation by -2 log s.
    inner = t[1:3]
    np.testing.assert_allclose(
        path.log_snr(path.shift_time(inner)),
        path.log_snr(inner) - 2 * np.log(3.0),
        atol=1e-12,
    )


def test_bad_paths_are_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match="ddpm_linear, ddpm_cosine, flow"):
        get_path("cosine")
    with pytest.raises(UserError, match="shift"):
        get_path("ddpm_linear", shift=3.0)
    with pytest.raises(UserError, match="above 0"):
        get_path("flow", shift=0.0)
    with pytest.raises(UserError, match="num_timesteps"):
        get_path("ddpm_linear", num_timesteps=1)
    with pytest.raises(UserError, match="no betas"):
        get_path("flow").betas()
