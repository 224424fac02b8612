"""Solvers as tables: each is a list of network evaluations with weights.

Every solver here is linear in what the network says. After an evaluation at
time t, which gives estimates x0 and eps, the next x is

    base * B + x0 * x0_t + eps * eps_t
      + previous_x0 * x0_p + previous_eps * eps_p + noise * z

where B is x at the start of the current step, x0_p and eps_p are from the
evaluation before, and z is fresh normal noise. So a solver is a table of such
weights, worked out here in float64; `samplers.sample` runs any of them with
one compiled loop that holds the network once.

The first-order update, shared by `ddim`, `euler` and `dpmpp_1s`, integrates
dx = x0 d(alpha) + eps d(sigma) with x0 and eps held over the step:

    x_s = alpha_s x0 + sigma_s eps.

That is DDIM with eta = 0 (arXiv 2010.02502, Eq. 12), DPM-Solver++ of order 1
(arXiv 2211.01095, Eq. 9), and on flow the Euler step of dx/dt = eps - x0.

A step that ends at sigma = 0 is always this update: x becomes the estimate
x0. The network is never evaluated at t = 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from i2i_prior.diffusion.paths import Path
from i2i_prior.errors import UserError, check_known


class Evaluation(NamedTuple):
    """One network evaluation and the weights of the update after it."""

    time: float
    alpha: float
    sigma: float
    base: float = 0.0
    x0: float = 0.0
    eps: float = 0.0
    previous_x0: float = 0.0
    previous_eps: float = 0.0
    noise: float = 0.0
    # Whether a step ends here, that is, whether x becomes the next base.
    ends_step: bool = True


class Point(NamedTuple):
    """A time of the grid with the path's factors there."""

    time: float
    alpha: float
    sigma: float

    @property
    def log_ratio(self) -> float:
        """lambda = log(alpha / sigma), half the log SNR."""
        if self.alpha == 0.0:
            return -math.inf
        if self.sigma == 0.0:
            return math.inf
        return math.log(self.alpha) - math.log(self.sigma)


def point(path: Path, t: float) -> Point:
    """The path's factors at one time, in float64."""
    return Point(float(t), float(path.alpha(t)), float(path.sigma(t)))


class Step(NamedTuple):
    """One step of the grid."""

    path: Path  # the noise path
    before: Point | None  # start of the step before, None in the first step
    # now, after: its start and its end
    now: Point
    after: Point
    # Whether it is the last one, and that is to be of first order
    is_final: bool


@dataclass(frozen=True)
class Solver:
    """A solver's table and what a caller must know about it."""

    evaluations: Callable[[Step], list[Evaluation]]  # of one step, in order
    # Whether it draws noise, so that sampling needs a key
    stochastic: bool = False
    # On ddpm paths, whether the grid ends at 1 / N, as DPM-Solver's does,
    # rather than with a jump to x0
    ends_at_t_min: bool = False

    def build(
        self, path: Path, points: list[Point], lower_order_final: bool
    ) -> list[Evaluation]:
        """The evaluations of all steps between the points of a grid."""
        rows = []
        starts = [None, *points]
        for before, now, after in zip(starts, points, points[1:], strict=False):
            final = lower_order_final and after is points[-1]
            step = Step(path, before, now, after, final)
            ends = after.sigma == 0.0
            rows += _first_order(step) if ends else self.evaluations(step)
        return rows


def time_grid(
    path: Path, steps: int, solver: str, t_start: float | None = None
) -> np.ndarray:
    """The times of a solver's steps, descending, float64 (steps + 1,).

    - flow: even from 1 to 0, then shifted (`Path.shift_time`).
    - ddpm, `dpmpp_*`: even from 1 to 1 / N, which is DPM-Solver's skip type
      `time_uniform`, as Lumos samples; what comes out is x at 1 / N.
    - ddpm, the others: even from 1 to 1 / N over the first `steps` times, then
      0. With steps = N these are the table's times: ancestral sampling as
      trained.

    Args:
      t_start: begin here instead of at path.t_max.

    Raises:
      UserError: for an unknown solver or steps < 1.
    """
    check_known("solver", solver, SOLVERS)
    if steps < 1:
        raise UserError(f"steps is {steps}: sample with 1 step or more.")
    start = path.t_max if t_start is None else t_start
    if not path.is_discrete:
        times = path.shift_time(np.linspace(1.0, 0.0, steps + 1))
        # Rescaling leaves the shape of the grid and moves its first time.
        return np.asarray(times * start)
    if SOLVERS[solver].ends_at_t_min:
        return np.linspace(start, path.t_min, steps + 1)
    return np.append(np.linspace(start, path.t_min, steps), 0.0)


def _first_order(step: Step) -> list[Evaluation]:
    return [Evaluation(*step.now, x0=step.after.alpha, eps=step.after.sigma)]


def _heun(step: Step) -> list[Evaluation]:
    """Trapezium rule on dx = x0 d(alpha) + eps d(sigma).

    On flow this is Heun's method for dx/dt = eps - x0. 2 steps - 1
    evaluations, as the step to sigma = 0 is first order (arXiv 2206.00364,
    Alg. 1).
    """
    (euler,) = _first_order(step)
    x0 = 0.5 * (step.after.alpha - step.now.alpha)
    eps = 0.5 * (step.after.sigma - step.now.sigma)
    both = Evaluation(
        *step.after, 1.0, x0, eps, previous_x0=x0, previous_eps=eps
    )
    return [euler._replace(ends_step=False), both]


def _exponential(now: Point, after: Point) -> tuple[float, float]:
    """Weights of x and of x0 in DPM-Solver++'s step: its exact linear part.

    sigma_s / sigma_t and alpha_s (1 - e^-h), the latter written without
    h = lambda_s - lambda_t, which is infinite where alpha_t or sigma_s is 0.
    """
    ratio = after.sigma / now.sigma
    return ratio, after.alpha - now.alpha * ratio


def _dpmpp_2m(step: Step) -> list[Evaluation]:
    """DPM-Solver++(2M): multistep, order 2 (arXiv 2211.01095, Alg. 2).

    D = (1 + 1 / 2r) x0 - (1 / 2r) x0_p with r = h_before / h. The first step
    is first order, and so is the last if `lower_order_final` or if it ends at
    sigma = 0. After a start at alpha = 0 (flow, t = 1) h_before is infinite,
    1 / r is 0, and the second step is first order too; both steps are small
    in alpha / sigma there, so the order stays 2.
    """
    now, after, weight = step.now, step.after, 0.0
    if step.before is not None and not step.is_final:
        h_before = now.log_ratio - step.before.log_ratio
        weight = 0.5 * (after.log_ratio - now.log_ratio) / h_before
    base, x0 = _exponential(now, after)
    previous = -x0 * weight
    return [Evaluation(*now, base, x0 * (1.0 + weight), previous_x0=previous)]


def _dpmpp_2s(step: Step) -> list[Evaluation]:
    """DPM-Solver++(2S): single-step, order 2 (arXiv 2211.01095, Alg. 1).

    r = 1/2: the step uses x0 from the middle of the step in lambda. From a
    start at alpha = 0 the middle is taken in alpha / sigma. 2 evaluations a
    step; a step of first order (as in `_dpmpp_2m`) takes 1.
    """
    if step.is_final:
        return _first_order(step)
    path, now, after = step.path, step.now, step.after
    if now.alpha == 0.0:
        middle_ratio = after.log_ratio - math.log(2.0)
    else:
        middle_ratio = 0.5 * (now.log_ratio + after.log_ratio)
    middle = point(path, float(path.time_of_log_snr(2.0 * middle_ratio)))
    return [
        Evaluation(*now, *_exponential(now, middle), ends_step=False),
        Evaluation(*middle, *_exponential(now, after)),
    ]


def _ancestral(step: Step) -> list[Evaluation]:
    """Draws from q(x_s | x_t, x0), the small variance (2006.11239, Eq. 7).

    Written for any alpha, sigma (arXiv 2107.00630, Eq. 25 and 26):
    variance (sigma_t^2 - a^2 sigma_s^2) sigma_s^2 / sigma_t^2 with
    a = alpha_t / alpha_s.
    """
    now, after = step.now, step.after
    ratio = now.alpha / after.alpha
    forward = max(now.sigma**2 - (ratio * after.sigma) ** 2, 0.0)
    noise = math.sqrt(forward) * after.sigma / now.sigma
    eps = ratio * after.sigma**2 / now.sigma
    return [Evaluation(*now, x0=after.alpha, eps=eps, noise=noise)]


def _sde(step: Step) -> list[Evaluation]:
    """Euler-Maruyama on the reverse SDE (arXiv 2011.13456, Eq. 6).

    The first-order update plus w / 2 times the score, -eps / sigma_t, plus
    sqrt(w) z, for a variance w of the step. ddpm: w = 1 - (alpha_t /
    alpha_s)^2, the beta of the step. flow: w = 2 sigma_t (t - s), the
    diffusion `sigma` of SiT (arXiv 2401.08740). Wants some 100 steps or more.
    """
    now, after = step.now, step.after
    if step.path.is_discrete:
        variance = 1.0 - (now.alpha / after.alpha) ** 2
    else:
        variance = 2.0 * now.sigma * (now.time - after.time)
    eps = after.sigma - 0.5 * variance / now.sigma
    noise = math.sqrt(variance)
    return [Evaluation(*now, x0=after.alpha, eps=eps, noise=noise)]


SOLVERS: dict[str, Solver] = {
    "dpmpp_2m": Solver(_dpmpp_2m, ends_at_t_min=True),
    "dpmpp_2s": Solver(_dpmpp_2s, ends_at_t_min=True),
    "dpmpp_1s": Solver(_first_order, ends_at_t_min=True),
    "ddim": Solver(_first_order),
    "euler": Solver(_first_order),
    "heun": Solver(_heun),
    "ancestral": Solver(_ancestral, stochastic=True),
    "sde": Solver(_sde, stochastic=True),
}
