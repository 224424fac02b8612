"""Robust fit of the parametric law L(N, D) = E + A / N^alpha + B / D^beta.

Hoffmann et al. (arXiv 2203.15556), approach 3: the sum over runs of Huber's
loss (delta 1e-3) of log predicted - log measured. Two errors of the original
fit (Besiroglu et al., arXiv 2404.10102) are avoided: the objective is a sum,
as the small values of a mean stop optimisers early; and starts come from
variable projection (for given alpha and beta the rest is a non-negative
linear problem), all are descended, and the number that agree is reported.

A parameter vector is (log E', log A', log B', alpha, beta), of sizes, tokens
and losses divided by their geometric means: so a step in alpha hardly moves
A', and the problem is well-conditioned.
"""

from dataclasses import dataclass

import numpy as np

DELTA = 1e-3  # of Huber's loss, in log loss
NAMES = ("E", "A", "B", "alpha", "beta")
# Below these exponents a term is a constant, above them a step.
EXPONENTS = np.geomspace(0.05, 2.0, 9)
_FLOOR = -30.0  # of the log of a term, which then counts for nothing


@dataclass(frozen=True)
class ParametricFit:
    """Fitted law, and the state of the optimiser."""

    theta: np.ndarray  # (5,) centred parameters, see the module docstring
    centre: np.ndarray  # (3,) means of log N, log D and log loss
    objective: float  # the sum of Huber's losses
    residuals: np.ndarray  # (n,) log measured - log predicted
    starts: int
    agreeing: int  # starts within 0.01 % of the best objective
    gradient: float  # norm of the objective's, over that of its terms


def fit(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, delta: float = DELTA
) -> ParametricFit:
    """Fits the law to parameters, tokens and losses (runs,), 6 runs or more.

    `delta` is of Huber's loss; 1e-9 gives least absolute deviations.
    """
    logs = np.log(np.stack([n, d, loss]))
    centre = logs.mean(1)
    x, y, log_loss = logs - centre[:, None]
    begin = starts(x, y, np.exp(log_loss))
    found, values = descend(begin, x, y, log_loss, delta)
    order = np.argsort(values)
    theta, objective = polish(found[order[0]], x, y, log_loss, delta)
    residuals = log_loss - predict(theta, x, y)
    _, slopes = predict_with_slopes(theta[None], x, y)
    pulls = np.clip(residuals, -delta, delta)[:, None] * slopes[0]
    return ParametricFit(
        theta=theta,
        centre=centre,
        objective=objective,
        residuals=residuals,
        starts=len(begin),
        agreeing=int(np.sum(values <= objective * 1.0001 + 1e-12)),
        gradient=float(
            np.linalg.norm(pulls.sum(0))
            / max(np.abs(pulls).sum(0).max(), 1e-300)
        ),
    )


def predict(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log loss (..., n) of parameters (..., 5) at centred logs (n,)."""
    return np.log(_terms(theta, x, y).sum(-2))


def _terms(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Terms (..., 3, n) of the law: E, A / N^alpha, B / D^beta."""
    t = theta[..., None]
    logs = np.stack(
        np.broadcast_arrays(
            t[..., 0, :],
            t[..., 1, :] - t[..., 3, :] * x,
            t[..., 2, :] - t[..., 4, :] * y,
        ),
        axis=-2,
    )
    return np.exp(np.clip(logs, _FLOOR * 2, 60.0))


def predict_with_slopes(
    theta: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log loss (b, n) and its derivatives (b, n, 5)."""
    terms = _terms(theta, x, y)
    total = terms.sum(-2)
    e, a, b = np.moveaxis(terms / total[:, None], -2, 0)
    return np.log(total), np.stack([e, a, b, -a * x, -b * y], axis=-1)


def huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    """Huber's losses: r^2 / 2 within delta, delta (|r| - delta / 2) outside."""
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def starts(x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Starts (k, 5) by variable projection over a grid of exponents.

    For given alpha and beta, E, A' and B' by non-negative least squares in
    relative loss (after arXiv 2603.22339).
    """
    from scipy.optimize import nnls

    found = []
    for alpha in EXPONENTS:
        for beta in EXPONENTS:
            basis = np.stack(
                [np.ones_like(x), np.exp(-alpha * x), np.exp(-beta * y)], 1
            )
            linear, _ = nnls(basis / loss[:, None], np.ones_like(x))
            # A term of 0 has no gradient: it starts small instead.
            linear = np.maximum(linear, 1e-3 * loss.mean())
            found.append([*np.log(linear), alpha, beta])
    return np.array(found)


def descend(
    theta: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    log_loss: np.ndarray,
    delta: float = DELTA,
    rounds: int = 150,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimises by Levenberg's method on reweighted squares, batched.

    Args:
      theta: (b, 5) starts.
      x, y: (n,) centred logs.
      log_loss: (n,), or (b, n): one data set a start.

    Returns:
      parameters (b, 5) and objectives (b,).
    """
    theta = np.array(theta, float)
    target = np.broadcast_to(log_loss, (len(theta), len(x)))
    value, slopes = predict_with_slopes(theta, x, y)
    residuals = value - target
    objective = huber(residuals, delta).sum(-1)
    damping = np.full(len(theta), 1e-3)
    calm = np.zeros(len(theta), int)
    for _ in range(rounds):
        live = np.flatnonzero(calm < 4)
        if not len(live):
            break
        s, r = slopes[live], residuals[live]
        weights = delta / np.maximum(np.abs(r), delta)
        weighted = s * weights[..., None]
        square = np.swapaxes(weighted, -1, -2) @ s
        pull = (weighted * r[..., None]).sum(-2)
        diagonal = np.diagonal(square, axis1=-2, axis2=-1)
        extra = damping[live, None] * (diagonal + 1e-12)
        system = square + extra[..., None] * np.eye(5)
        step = -np.linalg.solve(system, pull[..., None])[..., 0]
        tried = theta[live] + step
        tried[:, :3] = np.maximum(tried[:, :3], _FLOOR)
        new_value, new_slopes = predict_with_slopes(tried, x, y)
        new_residuals = new_value - target[live]
        new = huber(new_residuals, delta).sum(-1)
        better = new < objective[live]
        gain = (objective[live] - new) / np.maximum(objective[live], 1e-300)
        took = live[better]
        calm[live] = np.where(better & (gain > 1e-7), 0, calm[live] + 1)
        theta[took], objective[took] = tried[better], new[better]
        slopes[took] = new_slopes[better]
        residuals[took] = new_residuals[better]
        damping[live] = np.clip(
            damping[live] * np.where(better, 0.2, 8.0), 1e-12, 1e6
        )
    return theta, objective


def polish(
    theta: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    log_loss: np.ndarray,
    delta: float = DELTA,
) -> tuple[np.ndarray, float]:
    """Minimises to convergence: BFGS on the sum, in units of its curvature."""
    from scipy.optimize import minimize

    def value(z: np.ndarray) -> tuple[float, np.ndarray]:
        p = theta + scale @ z
        predicted, slopes = predict_with_slopes(p[None], x, y)
        r = predicted[0] - log_loss
        pull = np.clip(r, -delta, delta) @ slopes[0]
        return float(huber(r, delta).sum() / unit), scale.T @ pull / unit

    unit = 1.0
    objective = huber(predict(theta, x, y) - log_loss, delta).sum()
    for _ in range(20):
        _, slopes = predict_with_slopes(theta[None], x, y)
        square = slopes[0].T @ slopes[0]
        values, vectors = np.linalg.eigh(square)
        scale = vectors / np.sqrt(np.maximum(values, values[-1] * 1e-14))
        unit = max(float(objective), 1e-300)
        scale = scale * 0.01
        found = minimize(
            value, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-12}
        )
        before, tried = objective, theta + scale @ found.x
        new = huber(predict(tried, x, y) - log_loss, delta).sum()
        if new < objective:
            theta, objective = tried, new
        if before - objective <= 1e-13 * before:
            break
    return theta, float(objective)
