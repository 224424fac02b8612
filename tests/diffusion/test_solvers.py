"""Solver tables and time grids, in float64, without running anything."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.diffusion.paths import PATHS, Path, get_path
from i2i_prior.diffusion.solvers import SOLVERS, Evaluation, point, time_grid
from i2i_prior.errors import UserError

LINEAR = get_path("ddpm_linear")


def rows(
    path: Path, solver: str, steps: int, lower_order_final: bool = True
) -> list[Evaluation]:
    points = [point(path, t) for t in time_grid(path, steps, solver)]
    return SOLVERS[solver].build(path, points, lower_order_final)


def test_dpm_solvers_grid_is_lumos() -> None:
    times = time_grid(LINEAR, 20, "dpmpp_2m")
    np.testing.assert_allclose(times, np.linspace(1.0, 1e-3, 21))
    np.testing.assert_allclose(LINEAR.network_time(times)[[0, -1]], [999, 0])


def test_ancestral_grid_with_all_steps_is_the_training_table() -> None:
    times = time_grid(LINEAR, 1000, "ancestral")
    np.testing.assert_allclose(times, np.arange(1000, -1, -1) / 1000)
    np.testing.assert_allclose(time_grid(LINEAR, 1, "ddim"), [1.0, 0.0])


def test_flow_grid_is_shifted() -> None:
    plain = time_grid(get_path("flow"), 4, "heun")
    np.testing.assert_allclose(plain, [1.0, 0.75, 0.5, 0.25, 0.0])
    shifted = time_grid(get_path("flow", shift=3.0), 4, "dpmpp_2m")
    np.testing.assert_allclose(shifted, [1.0, 0.9, 0.75, 0.5, 0.0])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", PATHS)
def test_tables_are_finite_descending_and_as_long_as_said(
    name: str, solver: str
) -> None:
    path = get_path(name)
    for steps in (1, 2, 7):
        table = rows(path, solver, steps, lower_order_final=False)
        assert np.isfinite(np.array(table)).all()
        assert sum(row.ends_step for row in table) == steps
        assert min(row.time for row in table) > 0
        if solver == "heun":
            assert len(table) == 2 * steps - 1
        elif solver != "dpmpp_2s":
            assert len(table) == steps
        grid = time_grid(path, steps, solver)
        assert len(grid) == steps + 1
        assert (np.diff(grid) < 0).all()
        assert grid[0] == 1.0


# Not `sde`: Euler-Maruyama keeps the variance only as steps go to 0.
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "sde"])
@pytest.mark.parametrize("name", PATHS)
def test_a_step_maps_the_path_onto_itself(name: str, solver: str) -> None:
    """With x0 and eps known exactly, x stays alpha x0 + sigma eps.

    For `ancestral`: in mean and variance.
    """
    path = get_path(name)
    grid = time_grid(path, 6, solver)
    table = rows(path, solver, 6, lower_order_final=False)
    x0, eps = 0.7, -1.3
    base_at = grid[0]
    for row in table:
        base = path.alpha(base_at) * x0 + path.sigma(base_at) * eps
        got = row.base * base + (row.x0 + row.previous_x0) * x0
        eps_part = (row.eps + row.previous_eps) * eps
        if not row.ends_step:
            continue
        base_at = grid[np.flatnonzero(grid == base_at)[0] + 1]
        if SOLVERS[solver].stochastic:
            np.testing.assert_allclose(got, path.alpha(base_at) * x0)
            np.testing.assert_allclose(
                row.eps**2 + row.noise**2, path.sigma(base_at) ** 2, atol=1e-12
            )
        else:
            want = path.alpha(base_at) * x0 + path.sigma(base_at) * eps
            np.testing.assert_allclose(got + eps_part, want)


def test_ancestral_weights_are_the_ddpm_posteriors() -> None:
    path = get_path("ddpm_linear", num_timesteps=50)
    betas = path.betas()
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])
    for row, n in zip(
        rows(path, "ancestral", 50), range(49, -1, -1), strict=True
    ):
        # mean = x0 A + eps B with eps = (x_t - alpha x0) / sigma
        x_t_factor = row.eps / row.sigma
        x0_factor = row.x0 - row.eps * row.alpha / row.sigma
        variance = betas[n] * (1 - before[n]) / (1 - bar[n])
        np.testing.assert_allclose(
            [x_t_factor, x0_factor, row.noise**2],
            [
                np.sqrt(1 - betas[n]) * (1 - before[n]) / (1 - bar[n]),
                np.sqrt(before[n]) * betas[n] / (1 - bar[n]),
                variance,
            ],
            rtol=1e-7,
            atol=1e-12,
        )


def test_sde_step_is_songs_for_small_steps() -> None:
    """x + beta/2 x + beta score + sqrt(beta) z, up to order beta."""
    row = rows(LINEAR, "sde", 1000)[500]  # at t = 0.5
    beta = LINEAR.betas()[499]
    x0, eps = 0.7, -1.3
    x = row.alpha * x0 + row.sigma * eps
    want = x + 0.5 * beta * x - beta * eps / row.sigma
    got = row.x0 * x0 + row.eps * eps
    np.testing.assert_allclose(got - x, want - x, rtol=0.02)
    np.testing.assert_allclose(row.noise**2, beta)


def test_lower_order_final_touches_only_the_last_step_of_2m() -> None:
    low, high = (rows(LINEAR, "dpmpp_2m", 20, final) for final in (True, False))
    assert low[:-1] == high[:-1]
    assert low[-1].previous_x0 == 0.0
    assert high[-1].previous_x0 != 0.0
    assert low[0].previous_x0 == 0.0
    assert all(row.previous_x0 != 0.0 for row in low[1:-1])


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UserError, match="dpmpp_2m"):
        time_grid(LINEAR, 20, "dpm")
    with pytest.raises(UserError, match="1 step or more"):
        time_grid(LINEAR, 0, "ddim")
