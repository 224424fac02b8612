"""Schedules and solver against Hugging Face diffusers, where installed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2i_prior.diffusion.paths import get_path
from i2i_prior.diffusion.samplers import sample


def scheduler_class(module: str, name: str) -> Any:
    found = pytest.importorskip(f"diffusers.schedulers.{module}")
    return getattr(found, name)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("ddpm_linear", "linear"), ("ddpm_cosine", "squaredcos_cap_v2")],
)
def test_tables(name: str, theirs: str) -> None:
    scheduler = scheduler_class("scheduling_ddpm", "DDPMScheduler")(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule=theirs,
    )
    path = get_path(name)
    np.testing.assert_allclose(path.betas(), scheduler.betas.numpy(), rtol=1e-4)
    np.testing.assert_allclose(
        path.alphas_cumprod(), scheduler.alphas_cumprod.numpy(), rtol=2e-3
    )


@pytest.mark.parametrize("lower_order_final", [True, False])
def test_dpmpp_2m_with_20_steps(lower_order_final: bool) -> None:
    """N = 1001, so that 20 even steps from 1 to 1/N fall on whole indices."""
    scheduler_type = scheduler_class(
        "scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler"
    )
    import torch

    path = get_path("ddpm_linear", num_timesteps=1001)
    scheduler = scheduler_type(
        num_train_timesteps=1001,
        trained_betas=path.betas().tolist(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="sigma_min",
        lower_order_final=False,
        euler_at_final=lower_order_final,
    )
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == list(range(1000, 0, -50))
    noise = np.random.default_rng(0).normal(size=(2, 3, 3, 2))
    x = torch.tensor(noise, dtype=torch.float64)
    for index in scheduler.timesteps:
        t = (float(index) + 1) / 1001
        eps = torch.tanh(x * (1.5 - t)) * 0.9
        x = scheduler.step(eps, index, x).prev_sample

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.tanh(x * (1.5 - t[:, None, None, None])) * 0.9

    ours = sample(
        predict,
        jnp.asarray(noise, jnp.float32),
        path,
        prediction="eps",
        solver="dpmpp_2m",
        steps=20,
        lower_order_final=lower_order_final,
    )
    np.testing.assert_allclose(ours, x.numpy(), rtol=1e-5, atol=1e-5)
