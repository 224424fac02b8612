"""Sampling: from noise to data with any solver on any path."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.diffusion.paths import Path
from i2i_prior.diffusion.predictions import PREDICTIONS, to_x0_eps
from i2i_prior.diffusion.solvers import SOLVERS, Evaluation, point, time_grid
from i2i_prior.errors import UserError, check_known

# An eps prediction says nothing about x0 where alpha is 0. So sampling with
# one begins at lambda = -5.1, DPM-Solver's clip for such schedules (the
# released code of arXiv 2211.01095): t = 0.994 on flow, 0.996 on ddpm_cosine.
# ddpm_linear ends above it and loses nothing.
EPS_SMALLEST_LOG_SNR = -10.2


def sample(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    noise: jax.Array,
    path: Path,
    *,
    prediction: str,
    solver: str,
    steps: int,
    key: jax.Array | None = None,
    lower_order_final: bool = True,
    clip_x0: float | None = None,
) -> jax.Array:
    """Run a solver from noise to data.

    One `lax.scan` over the solver's table, with `predict` traced once; wrap
    the call in `jax.jit`, with everything but arrays static. `heun` and
    `dpmpp_2s` evaluate the network twice a step, but for the last step; all
    others once.

    Args:
      predict: maps x_t, float32 (B, H, W, C), and t, float32 (B,) in [0, 1],
        to the (guided) prediction (B, H, W, C). The caller turns t into the
        network's number (`Path.network_time`) and cuts variances off.
      noise: x at t = 1, standard normal, (B, H, W, C).
      path, prediction: what the network was trained with.
      solver: a key of `SOLVERS`.
      steps: number of steps, see `time_grid`.
      key: for the stochastic solvers (`ancestral`, `sde`): one JAX key, or
        an array (B,) of them, with which a sample does not depend on its
        batch.
      lower_order_final: whether the last step of `dpmpp_2m` and `dpmpp_2s` is
        of first order (steadier with few steps). A step to sigma = 0, as on
        flow, always is.
      clip_x0: hold every estimate of x0 in [-clip_x0, clip_x0].

    Returns:
      x0, float32 (B, H, W, C). On ddpm paths the `dpmpp_*` solvers stop at
      t = 1 / N, as in Lumos.

    Raises:
      UserError: for an unknown word, steps < 1, or a missing key.
    """
    check_known("prediction", prediction, PREDICTIONS)
    check_known("solver", solver, SOLVERS)
    chosen = SOLVERS[solver]
    if chosen.stochastic and key is None:
        raise UserError(
            f"The solver {solver} draws noise: pass key=jax.random.key(seed)."
        )
    times = time_grid(path, steps, solver, _start(path, prediction))
    rows = chosen.build(
        path, [point(path, t) for t in times], lower_order_final
    )
    table = _as_arrays(rows)
    noise = noise.astype(jnp.float32)

    def body(carry: tuple, row: tuple[Evaluation, jax.Array]) -> tuple:
        x, base, previous_x0, previous_eps = carry
        now, number = row
        t = jnp.full(x.shape[:1], now.time)
        value = predict(x, t)
        x0, eps = to_x0_eps(value, x, now.alpha, now.sigma, prediction)
        if clip_x0 is not None:
            x0 = jnp.clip(x0, -clip_x0, clip_x0)
            _, eps = to_x0_eps(x0, x, now.alpha, now.sigma, "x0")
        x = now.base * base + now.x0 * x0 + now.eps * eps
        x += now.previous_x0 * previous_x0 + now.previous_eps * previous_eps
        if key is not None and chosen.stochastic:
            x += now.noise * _fresh_noise(key, number, x.shape)
        base = jnp.where(now.ends_step, x, base)
        return (x, base, x0, eps), None

    zeros = jnp.zeros_like(noise)
    numbers = jnp.arange(len(rows))
    start = (noise, noise, zeros, zeros)
    return jax.lax.scan(body, start, (table, numbers))[0][0]


def _fresh_noise(
    key: jax.Array, number: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Noise of one evaluation, (B, ...), of one key or of each sample's."""

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, number), shape)

    if key.ndim == 0:
        return draw(key, shape)
    return jax.vmap(lambda one: draw(one, shape[1:]))(key)


def _start(path: Path, prediction: str) -> float:
    """The time sampling begins at: path.t_max but for eps, see above."""
    if prediction != "eps":
        return path.t_max
    return min(path.t_max, float(path.time_of_log_snr(EPS_SMALLEST_LOG_SNR)))


def _as_arrays(rows: list[Evaluation]) -> Any:
    """The rows as one Evaluation of columns: float32, `ends_step` bool."""
    *weights, ends = map(np.asarray, zip(*rows, strict=True))
    columns = [*(column.astype(np.float32) for column in weights), ends]
    return Evaluation._make(map(jnp.asarray, columns))
