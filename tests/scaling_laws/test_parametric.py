"""L = E + A / N^alpha + B / D^beta: found, found for good, with intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from i2i_prior.scaling_laws import parametric
from i2i_prior.scaling_laws.points import column
from i2i_prior.scaling_laws.uncertainty import log_loss, uncentre
from tests.scaling_laws.fixtures_laws import coverage


def data(noise, seed=0):
    points = coverage.surface(np.random.default_rng(seed), noise)
    return [column(points, name) for name in ("n", "d", "loss")]


def objective(p, n, d, loss, reduce=np.sum):
    """In the form that publications give, by SciPy's own functions."""
    e, a, b, alpha, beta = p
    log_n, log_d = np.log(n), np.log(d)
    terms = [a - alpha * log_n, b - beta * log_d, np.full(len(n), e)]
    gap = logsumexp(terms, axis=0) - np.log(loss)
    return reduce(huber(1e-3, gap))


def logs(values):
    return np.concatenate([np.log(values[:3]), values[3:]])


def centred(found, n, d):
    """Log loss by the centred parameters."""
    x, y = (np.log(v) - c for v, c in zip((n, d), found.centre, strict=False))
    return parametric.predict(found.theta, x, y) + found.centre[2]


def test_without_noise_the_law_is_found_exactly():
    n, d, loss = data(0.0)
    found = parametric.fit(n, d, loss)
    values = uncentre(found.theta, found.centre)
    np.testing.assert_allclose(values, list(coverage.LAW.values()), rtol=1e-5)
    np.testing.assert_allclose(centred(found, n, d), np.log(loss), atol=1e-8)


def test_no_independent_optimiser_finds_a_lower_objective():
    n, d, loss = data(0.003)
    found = parametric.fit(n, d, loss)
    values = uncentre(found.theta, found.centre)
    ours = objective(logs(values), n, d, loss)
    assert found.objective == pytest.approx(ours, rel=1e-9)
    rng = np.random.default_rng(0)
    theirs = np.inf
    for _ in range(2):
        start = logs(values) * (1 + 0.02 * rng.standard_normal(5))
        for _ in range(2):  # the simplex forgets its shape, and goes on
            ended = minimize(
                objective,
                start,
                (n, d, loss),
                method="Nelder-Mead",
                options={"maxfev": 3000, "xatol": 1e-10, "fatol": 1e-16},
            )
            start = ended.x
        theirs = min(theirs, ended.fun)
    assert ours <= theirs * (1 + 1e-6)
    assert found.agreeing > found.starts / 2
    assert found.gradient < 1e-5


def test_the_stall_of_a_mean_and_a_loose_tolerance():
    # What happened to the published fit: a mean of Huber's losses is so small
    # that L-BFGS with its default tolerance stops in the valley, A and B
    # where they began. A descent of ours from there goes on to the end.
    n, d, loss = data(0.003)
    best = parametric.fit(n, d, loss).objective
    begin = logs(np.array([0.53, 13.2, 28.0, 0.29, 0.29]))
    stalled = minimize(
        objective, begin, (n, d, loss, np.mean), method="L-BFGS-B"
    )
    assert stalled.success
    np.testing.assert_allclose(stalled.x[1:3], begin[1:3], atol=0.01)
    assert objective(stalled.x, n, d, loss) > 1.15 * best
    x, y = (np.log(v) - np.log(v).mean() for v in (n, d))
    centred = begin.copy()
    centred[1] -= begin[3] * np.log(n).mean()
    centred[2] -= begin[4] * np.log(d).mean()
    reached, _ = parametric.descend(centred[None], x, y, np.log(loss))
    _, ended = parametric.polish(reached[0], x, y, np.log(loss))
    assert ended == pytest.approx(best, rel=1e-6)


def test_an_outlier_hardly_moves_the_law():
    n, d, loss = data(0.001)
    clean = parametric.fit(n, d, loss)
    loss[20] *= 1.5
    spoilt = parametric.fit(n, d, loss)
    squares = parametric.fit(n, d, loss, 1e3)
    values = [uncentre(f.theta, f.centre) for f in (clean, spoilt, squares)]
    assert values[1][3] == pytest.approx(values[0][3], abs=0.01)
    assert abs(values[2][3] - values[0][3]) > 0.02


def test_least_absolute_deviations_run_through_five_points():
    n, d, loss = data(0.003)
    found = parametric.fit(n, d, loss, 1e-7)
    assert np.sum(np.abs(found.residuals) < 1e-6) >= 5


def test_plain_and_centred_parameters_say_the_same():
    n, d, loss = data(0.003)
    found = parametric.fit(n, d, loss)
    values = uncentre(found.theta, found.centre)
    np.testing.assert_allclose(
        log_loss(values, n, d), centred(found, n, d), rtol=1e-9
    )


def test_intervals_of_every_parameter_hold_the_truth():
    trials = [coverage.parametric_trial(s, 0.002, 60) for s in range(12)]
    for name in coverage.LAW:
        held = sum(trial[name][2] for trial in trials)
        # fewer than 9 of 12 come once in 450 times at 95 %
        assert held >= 9, (name, held)


def test_a_seed_gives_the_same_intervals_again():
    one, same, other = (
        coverage.parametric_trial(seed, 0.002, 20) for seed in (5, 5, 6)
    )
    assert one == same
    assert one != other
