"""Noise paths: how data turns into noise, and what time means.

Every path is Gaussian, x_t = alpha(t) x0 + sigma(t) eps, on one clock:
t in [0, 1], t = 0 is data, t = 1 is noise.

- `ddpm_linear`, `ddpm_cosine`: variance preserving, alpha^2 + sigma^2 = 1.
  They are tables of N steps (DDPM, arXiv 2006.11239); table entry n, counted
  from 0, sits at t_n = (n + 1) / N. Between entries log alpha is linear in t,
  as in DPM-Solver's discrete schedule (arXiv 2206.00927, appendix D.4). Below
  1 / N it runs to log alpha = 0, so that t = 0 is exactly data.
- `flow`: alpha = 1 - t, sigma = t (rectified flow, arXiv 2209.03003).

Methods of time answer in kind: NumPy arrays and Python numbers give float64
NumPy (the sampler's step tables are computed so), JAX arrays float32 JAX.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from i2i_prior.errors import UserError, check_known

# JAX in, JAX out; NumPy in, NumPy out.
Times = TypeVar("Times", jax.Array, np.ndarray, float)

FLOW_T_MIN = 1e-3


def linear_betas(num_timesteps: int) -> np.ndarray:
    """Betas of DDPM, 1e-4 to 2e-2 over 1000 steps, float64 (N,).

    Other N scale both ends by 1000 / N, so that the path stays the same
    function of t (Improved DDPM, arXiv 2102.09672, released code).
    """
    scale = 1000.0 / num_timesteps
    betas = np.linspace(scale * 1e-4, scale * 2e-2, num_timesteps)
    return np.minimum(betas, 0.999)


def cosine_betas(num_timesteps: int) -> np.ndarray:
    """Betas of arXiv 2102.09672, Eq. 17, capped at 0.999, float64 (N,)."""
    t = np.arange(num_timesteps + 1) / num_timesteps
    signal = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - signal[1:] / signal[:-1], 0.999)


BETAS: dict[str, Callable[[int], np.ndarray]] = {
    "ddpm_linear": linear_betas,
    "ddpm_cosine": cosine_betas,
}


@functools.lru_cache(maxsize=16)
def _knots(name: str, num_timesteps: int) -> tuple[np.ndarray, np.ndarray]:
    """Times 0, 1/N .. 1 and log alpha there, both float64 (N + 1,)."""
    betas = BETAS[name](num_timesteps)
    log_alpha = 0.5 * np.cumsum(np.log1p(-betas))
    times = np.arange(num_timesteps + 1) / num_timesteps
    return times, np.concatenate([[0.0], log_alpha])


def _in_kind(value: Any) -> tuple[Any, Any]:
    """The namespace that fits the input, and the input as a float array."""
    if isinstance(value, jax.Array):
        return jnp, jnp.asarray(value, jnp.float32)
    return np, np.asarray(value, np.float64)[()]


@dataclass(frozen=True)
class Path:
    """One noise path; build it with `get_path`.

    Hashable, so it can be a static argument of `jax.jit`.
    """

    name: str  # one of `PATHS`
    # N, the length of the beta table; for `flow` unused
    num_timesteps: int = 1000
    shift: float = 1.0  # time shift of `flow`, see `shift_time`; 1 means none

    @property
    def is_discrete(self) -> bool:
        """True if the path is a table of betas (the ddpm paths)."""
        return self.name in BETAS

    @property
    def t_min(self) -> float:
        """The smallest time a network is trained at: 1 / N; 1e-3 for flow."""
        return 1.0 / self.num_timesteps if self.is_discrete else FLOW_T_MIN

    @property
    def t_max(self) -> float:
        """The time of pure noise, where sampling begins."""
        return 1.0

    def betas(self) -> np.ndarray:
        """The beta table, float64 (N,).

        Raises:
          UserError: on `flow`, which has none.
        """
        if not self.is_discrete:
            raise UserError(
                f"The {self.name} path has no betas: choose one of "
                f"{', '.join(BETAS)} where a beta table is needed."
            )
        return BETAS[self.name](self.num_timesteps)

    def alphas_cumprod(self) -> np.ndarray:
        """alpha^2 at the table's times: the product of 1 - beta, (N,)."""
        return np.cumprod(1.0 - self.betas())

    def _log_alpha(self, t: Any) -> Any:
        xp, time = _in_kind(t)
        if self.is_discrete:
            _, knots = _knots(self.name, self.num_timesteps)
            # The knots are evenly spaced, so there is nothing to search.
            position = time * self.num_timesteps
            low = xp.clip(xp.floor(position), 0, self.num_timesteps - 1)
            index = low.astype(np.int32)
            table = xp.asarray(knots)
            below, above = table[index], table[index + 1]
            return below + (position - low) * (above - below)
        with np.errstate(divide="ignore"):  # log 0 at t = 1 is meant
            return xp.log1p(-time)

    def alpha(self, t: Times) -> Times:
        """Factor of the data in x_t, in [0, 1], shaped like t."""
        xp, time = _in_kind(t)
        if self.is_discrete:
            return xp.exp(self._log_alpha(time))
        return 1.0 - time

    def sigma(self, t: Times) -> Times:
        """Factor of the noise in x_t, in [0, 1], shaped like t."""
        xp, time = _in_kind(t)
        if self.is_discrete:
            # expm1 keeps the digits that 1 - alpha^2 would lose near data.
            return xp.sqrt(-xp.expm1(2.0 * self._log_alpha(time)))
        return time

    def log_snr(self, t: Times) -> Times:
        """2 log(alpha / sigma), shaped like t; infinite where one is 0."""
        xp, time = _in_kind(t)
        log_alpha = self._log_alpha(time)
        with np.errstate(divide="ignore"):
            return 2.0 * (log_alpha - xp.log(self.sigma(time)))

    def time_of_log_snr(self, log_snr: Times) -> Times:
        """The time with this log signal-to-noise ratio, inverse of `log_snr`.

        On ddpm paths values beyond the table give its end times.
        """
        xp, value = _in_kind(log_snr)
        if not self.is_discrete:
            return xp.exp(-xp.logaddexp(0.0, 0.5 * value))
        times, table = _knots(self.name, self.num_timesteps)
        log_alpha = -0.5 * xp.logaddexp(0.0, -value)
        # interp wants increasing abscissae and log alpha falls with time.
        return xp.interp(
            log_alpha, xp.asarray(table[::-1]), xp.asarray(times[::-1])
        )

    def network_time(self, t: Times) -> Times:
        """The number a network is given for t, shaped like t.

        ddpm: 1000 t - 1000 / N, which is 0 .. 999 for N = 1000 and equals the
        table index there (DPM-Solver's wrapper, and Lumos); flow: 1000 t.
        """
        _, time = _in_kind(t)
        offset = 1000.0 / self.num_timesteps if self.is_discrete else 0.0
        return 1000.0 * time - offset

    def shift_time(self, t: Times) -> Times:
        """s t / (1 + (s - 1) t), more noise for s > 1 (2403.03206, Eq. 23).

        Applied to times that are drawn (`objectives.draw_times`) or laid out
        (`solvers.time_grid`), never to alpha and sigma. With n tokens where
        m were tuned for, s = sqrt(n / m).
        """
        _, time = _in_kind(t)
        return self.shift * time / (1.0 + (self.shift - 1.0) * time)

    def index(self, t: Any) -> Any:
        """Table index n of t = (n + 1) / N, int32, clipped to 0 .. N - 1."""
        xp, time = _in_kind(t)
        index = xp.round(time * self.num_timesteps).astype(np.int32) - 1
        return xp.clip(index, 0, self.num_timesteps - 1)


PATHS = (*BETAS, "flow")


def get_path(name: str, shift: float = 1.0, num_timesteps: int = 1000) -> Path:
    """The path called `name`.

    `shift` is the time shift s > 0 of `flow`, the ddpm paths take only 1;
    `num_timesteps` is N >= 2, the length of the ddpm tables.

    Raises:
      UserError: for an unknown name or a value out of range.
    """
    check_known("path", name, PATHS)
    if num_timesteps < 2:
        raise UserError(
            f"num_timesteps is {num_timesteps}: give 2 or more, as in 1000."
        )
    if not shift > 0.0:
        raise UserError(f"shift is {shift}: give a number above 0, as in 1.0.")
    if name in BETAS and shift != 1.0:
        raise UserError(
            f"shift is {shift}, but the time shift belongs to the flow path: "
            f"set it to 1.0 for {name}."
        )
    return Path(name, num_timesteps, shift)
