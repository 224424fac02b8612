"""Bootstrap of the parametric law: intervals of parameters and predictions."""

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws import bootstrap
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.parametric import (
    DELTA,
    NAMES,
    ParametricFit,
    descend,
    predict_with_slopes,
)
from i2i_prior.scaling_laws.points import Point, column


@dataclass(frozen=True)
class Cost:
    """C = kappa N^eta D, fitted to the runs: 6 and 1 where C is 6ND."""

    kappa: float
    eta: float
    spread: float  # the largest relative residual


@dataclass(frozen=True)
class ParametricLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta with its draws, not centred."""

    values: np.ndarray  # (5,) E, A, B, alpha, beta
    draws: np.ndarray  # (b, 5) of the refits
    freedom: int  # degrees of freedom of them
    noise: float  # standard deviation of a log loss about the law
    inflation: float = 1.0  # factor of prediction intervals, `extrapolate`

    def intervals(self) -> dict[str, list[float]]:
        """95 % intervals by name, those of E, A and B by logarithms."""

        def logs(values: np.ndarray) -> np.ndarray:
            scales = np.log(np.maximum(values[..., :3], 1e-300))
            return np.concatenate([scales, values[..., 3:]], -1)

        ends = interval(logs(self.values), logs(self.draws), self.freedom)
        ends[:, :3] = np.exp(np.clip(ends[:, :3], -600, 600))
        return dict(zip(NAMES, ends.T.tolist(), strict=True))


def redraw(
    found: ParametricFit, points: list[Point], seed: int, draws: int
) -> ParametricLaw:
    """Refits the law of the points to `draws` sets of redrawn noise."""
    rng = np.random.default_rng(seed)
    x = np.log(column(points, "n")) - found.centre[0]
    y = np.log(column(points, "d")) - found.centre[1]
    value, slopes = predict_with_slopes(found.theta[None], x, y)
    leverage = bootstrap.leverages(slopes[0])
    noise = bootstrap.draw_noise(
        rng, found.residuals, leverage, len(NAMES), draws
    )
    begin = np.tile(found.theta, (draws, 1))
    drawn, _ = descend(begin, x, y, value + noise, DELTA, rounds=60)
    return ParametricLaw(
        values=uncentre(found.theta, found.centre),
        draws=uncentre(drawn, found.centre),
        freedom=len(points) - len(NAMES),
        noise=bootstrap.scale(found.residuals, len(NAMES)),
    )


def uncentre(theta: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Values E, A, B, alpha, beta (..., 5) of centred parameters (..., 5)."""
    e, a, b, alpha, beta = np.moveaxis(theta, -1, 0)
    logs = np.stack([e, a + alpha * centre[0], b + beta * centre[1]], -1)
    values = np.exp(np.clip(logs + centre[2], -700, 700))
    return np.concatenate([values, alpha[..., None], beta[..., None]], -1)


def log_loss(values: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Log L (..., k) of parameters (..., 5), not centred, at n and d (k,)."""
    e, a, b, alpha, beta = np.moveaxis(values[..., None], -2, 0)
    with np.errstate(all="ignore"):
        return np.log(e + a * n**-alpha + b * d**-beta)


def predict_loss(
    law: ParametricLaw, n: np.ndarray, d: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicts losses at n and d (k,).

    Returns:
      loss (k,), the 95 % confidence interval (2, k) of the law there, and the
      wider prediction interval (2, k) of a run.
    """
    rng = np.random.default_rng(seed)
    centre = log_loss(law.values, n, d)
    drawn = log_loss(law.draws, n, d)
    mean = interval(centre, drawn, law.freedom)
    noise = law.noise * rng.standard_normal(drawn.shape)
    run = interval(centre, drawn + noise, law.freedom)
    run = centre + law.inflation * (run - centre)
    mean = centre + law.inflation * (mean - centre)
    return np.exp(centre), np.exp(mean), np.exp(run)


def cost_of(points: list[Point]) -> Cost:
    """Fits FLOPs over sizes and tokens."""
    n, d, c = (np.log(column(points, name)) for name in ("n", "d", "c"))
    eta, constant = 1.0, 0.0  # of one size
    if np.ptp(n) >= 1e-9:
        eta, constant = np.polyfit(n, c - d, 1)
    if abs(eta - 1) < 1e-9:  # exactly what C = 6ND means
        eta, constant = 1.0, float((c - d - n).mean())
    gaps = c - d - constant - eta * n
    return Cost(
        float(np.exp(constant)), float(eta), float(np.expm1(np.abs(gaps)).max())
    )


def optimum(
    values: np.ndarray, cost: Cost, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Compute-optimal n and d (...) of parameters (..., 5) at C = c.

    On the budget's line the two terms fall at rates in proportion:
    alpha A N^-alpha = eta beta B D^-beta.
    """
    _, a, b, alpha, beta = np.moveaxis(values, -1, 0)
    good = (alpha > 0) & (beta > 0) & (a > 0) & (b > 0)
    with np.errstate(all="ignore"):
        log_n = (
            np.log(alpha * a)
            - np.log(cost.eta * beta * b)
            + beta * np.log(c / cost.kappa)
        ) / (alpha + cost.eta * beta)
        n = np.exp(np.where(good, log_n, np.nan))
        return n, c / (cost.kappa * n**cost.eta)


def frontier(
    law: ParametricLaw, cost: Cost, c: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Optimal n, and d, at budgets c (k,): centre (k,) and draws (b, k) each.

    None where the law has no optimum.
    """
    centres = np.array([optimum(law.values, cost, x) for x in c], float)
    draws = np.array([optimum(law.draws, cost, x) for x in c]).T
    if not np.isfinite(centres).all():
        return None
    return [(centres[:, 0], draws[:, 0]), (centres[:, 1], draws[:, 1])]
