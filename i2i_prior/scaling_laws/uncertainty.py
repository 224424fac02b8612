"""The parametric law drawn again: intervals of what it is and predicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i2i_prior.scaling_laws.bootstrap import (
    draw_noise,
    interval,
    leverages,
    scale,
)
from i2i_prior.scaling_laws.parametric import (
    DELTA,
    NAMES,
    Parametric,
    _predict_with_slopes,
    descend,
)
from i2i_prior.scaling_laws.points import Point, column


@dataclass(frozen=True)
class Cost:
    """C = kappa N^eta D, as the runs have it: 6 and 1 where C is 6ND.

    `spread` is the largest gap to a run, relative.
    """

    kappa: float
    eta: float
    spread: float


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta with its draws, in plain units.

    Attributes:
      values: (5,) E, A, B, alpha, beta.
      draws: (b, 5) of the refits.
      freedom: degrees of freedom behind them.
      noise: standard deviation of a log loss about the law.
      inflation: what prediction intervals are widened by (`extrapolate`).
    """

    values: np.ndarray
    draws: np.ndarray
    freedom: int
    noise: float
    inflation: float = 1.0


def redraw(
    found: Parametric, points: list[Point], seed: int, draws: int
) -> Law:
    """The fitted law of the points with `draws` refits to redrawn noise."""
    rng = np.random.default_rng(seed)
    x = np.log(column(points, "n")) - found.centre[0]
    y = np.log(column(points, "d")) - found.centre[1]
    value, slopes = _predict_with_slopes(found.theta[None], x, y)
    noise = draw_noise(
        rng, found.residuals, leverages(slopes[0]), len(NAMES), draws
    )
    begin = np.tile(found.theta, (draws, 1))
    drawn, _ = descend(begin, x, y, value + noise, DELTA, rounds=60)
    return Law(
        values=plain(found.theta, found.centre),
        draws=plain(drawn, found.centre),
        freedom=len(points) - len(NAMES),
        noise=scale(found.residuals, len(NAMES)),
    )


def plain(theta: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """E, A, B, alpha, beta (..., 5) of centred parameters (..., 5)."""
    e, a, b, alpha, beta = np.moveaxis(theta, -1, 0)
    logs = np.stack([e, a + alpha * centre[0], b + beta * centre[1]], -1)
    values = np.exp(np.clip(logs + centre[2], -700, 700))
    return np.concatenate([values, alpha[..., None], beta[..., None]], -1)


def intervals(law: Law) -> dict[str, list[float]]:
    """95 % intervals by name; those of E, A and B are made of logarithms."""

    def logs(values: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [np.log(np.maximum(values[..., :3], 1e-300)), values[..., 3:]], -1
        )

    ends = interval(logs(law.values), logs(law.draws), law.freedom)
    ends[:, :3] = np.exp(np.clip(ends[:, :3], -600, 600))
    return {
        name: [float(low), float(high)]
        for name, (low, high) in zip(NAMES, ends.T, strict=True)
    }


def log_loss(values: np.ndarray, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """log L (..., k) of plain parameters (..., 5) at n and d (k,)."""
    e, a, b, alpha, beta = np.moveaxis(values[..., None], -2, 0)
    with np.errstate(all="ignore"):
        return np.log(e + a * n**-alpha + b * d**-beta)


def predicted(
    law: Law, n: np.ndarray, d: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss (k,) at n and d (k,), its 95 % interval (2, k) as a law's value,
    and the wider one (2, k) in which a run should fall.
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
    """How FLOPs come of sizes and tokens."""
    n, d, c = (np.log(column(points, name)) for name in ("n", "d", "c"))
    if np.ptp(n) < 1e-9:
        kappa = float(np.exp((c - d - n).mean()))
        return Cost(kappa, 1.0, float(np.abs(np.expm1(c - d - n)).max()))
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
    """Compute-optimal n and d (...) of plain parameters (..., 5) at C = c.

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
