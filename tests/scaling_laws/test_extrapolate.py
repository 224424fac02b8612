"""Held-out runs, calibrated intervals, and what to train with a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from i2i_prior.scaling_laws import envelope, extrapolate, rates
from i2i_prior.scaling_laws.points import Curve, Point
from i2i_prior.scaling_laws.uncertainty import (
    Cost,
    ParametricLaw,
    cost_of,
    optimum,
    predict_loss,
)
from tests.scaling_laws.fixtures_laws import coverage

TRUTH = np.array(list(coverage.LAW.values()))


def made(noise=0.001, seed=0):
    return coverage.surface(np.random.default_rng(seed), noise)


def test_the_largest_budget_is_predicted_from_the_smaller_ones():
    fitted, held, why = extrapolate.split(made())
    assert {p.c for p in held} == {6e18}
    assert "largest budget" in why
    rows, calibration = extrapolate.predict_held_out(fitted, held, 0)
    rows = [row for row in rows if row.law == "parametric"]
    assert len(rows) == 8
    assert all(abs(row.error) < 0.01 for row in rows)
    assert all(row.inside for row in rows)
    assert calibration.covered_after >= 0.95


def test_runs_of_role_holdout_come_before_the_largest_budget():
    points = [replace(p, role="holdout") if p.c == 1e18 else p for p in made()]
    fitted, held, why = extrapolate.split(points)
    assert {p.c for p in held} == {1e18}
    assert len(fitted) == 40
    assert "role" in why


def test_intervals_of_a_law_that_bends_are_widened():
    straight = extrapolate.calibrate(made(), 0)
    # the loss of larger budgets falls slower than the law of smaller ones
    bent = [
        replace(p, loss=p.loss * (1 + 0.01 * np.log(p.c / 1e17) ** 2))
        for p in made()
    ]
    found = extrapolate.calibrate(bent, 0)
    assert found.inflation > 2 * straight.inflation
    assert found.covered < 0.9
    law = extrapolate.law_of(tuple(made()), 0, 100)
    one = np.array([1e8])
    narrow = predict_loss(law, one, 100 * one, 0)[2]
    wide = predict_loss(replace(law, inflation=3.0), one, 100 * one, 0)[2]
    ratio = np.log(wide[1] / wide[0]) / np.log(narrow[1] / narrow[0])
    assert ratio == pytest.approx(3)


def test_too_few_runs_are_neither_fitted_nor_split():
    few = made()[:7]
    assert not extrapolate.enough(few)
    assert extrapolate.split(few)[1] == []
    assert extrapolate.calibrate(few, 0) is None


@pytest.mark.parametrize("cost", [Cost(6, 1, 0), Cost(3.5, 0.93, 0)])
def test_the_optimum_is_where_a_search_along_the_budget_ends(cost):
    def loss(log_n):
        n = np.exp(log_n)
        d = 1e19 / cost.kappa / n**cost.eta
        e, a, b, alpha, beta = TRUTH
        return e + a * n**-alpha + b * d**-beta

    found = minimize_scalar(loss, (10, 18), options={"xtol": 1e-10})
    n, d = optimum(TRUTH, cost, 1e19)
    assert np.log(n) == pytest.approx(found.x, abs=1e-3)
    assert cost.kappa * n**cost.eta * d == pytest.approx(1e19)


def test_the_cost_of_runs_is_found():
    points = [replace(p, c=4 * p.n**0.9 * p.d) for p in made()]
    found = cost_of(points)
    assert found.kappa == pytest.approx(4)
    assert found.eta == pytest.approx(0.9)
    assert found.spread < 1e-9
    assert cost_of(made()) == Cost(
        pytest.approx(6), 1.0, pytest.approx(0, abs=1e-9)
    )


def test_a_law_whose_draws_run_off_still_tells_an_interval():
    draws = np.tile(TRUTH, (200, 1))
    draws[:, 3] += 0.01 * np.random.default_rng(0).standard_normal(200)
    draws[0, 3] = -1  # no optimum in this one
    law = ParametricLaw(TRUTH, draws, 20, 0.001)
    n, _ = optimum(law.draws, Cost(6, 1, 0), 1e19)
    assert np.isnan(n[0])
    assert np.isfinite(n[1:]).all()


def test_the_envelope_of_curves_is_the_lowest_of_them():
    curves = []
    for n in (1e6, 4e6, 16e6):
        flops = np.geomspace(1e14, 1e17, 60)
        e, a, b, alpha, beta = TRUTH
        loss = e + a * n**-alpha + b * (flops / 6 / n) ** -beta
        point = Point(f"{n:g}", n, 1e17 / 6 / n, 1e17, loss[-1])
        curves.append(Curve(point, flops, loss))
    rng = np.random.default_rng(0)
    found = envelope.fit([c.point for c in curves], curves, rng, 50)
    assert found.of_curves
    lowest = np.min([c.loss for c in curves], axis=0)
    expected = np.interp(np.log(found.flops), np.log(curves[0].flops), lowest)
    np.testing.assert_allclose(found.loss, expected, rtol=2e-3)
    assert found.n[0] == 1e6
    assert found.n[-1] == 16e6
    assert found.exponent < 0 < found.size_exponent


def test_the_envelope_of_ends_takes_each_budgets_best():
    found = envelope.fit(made(0.0), [], np.random.default_rng(0), 50)
    assert not found.of_curves
    assert len(found.loss) == 6
    assert found.loss[0] == min(p.loss for p in made(0.0) if p.c == 1e17)


def test_budgets_that_are_above_smaller_ones_are_no_envelope():
    points = [
        p for p in made(0.0) if p.c != 1e18 or p.loss > 1.02 * best_of(1e17)
    ]
    # what is left of one budget is worse than a budget below it
    spoilt = [replace(p, loss=2.0) if p.c == 1e18 else p for p in points]
    found = envelope.fit(spoilt, [], np.random.default_rng(0), 50)
    assert len(found.loss) == 5
    assert (np.diff(found.loss) < 0).all()


def best_of(c):
    return min(p.loss for p in made(0.0) if p.c == c)


def test_an_incomplete_budget_is_no_test_of_the_isoflop_law():
    points = [p for p in made() if p.c < 6e18 or int(p.id) % 8 == 0]
    fitted, held, _ = extrapolate.split(points)
    rows, _ = extrapolate.predict_held_out(fitted, held, 0)
    assert [row.law for row in rows] == ["parametric"]
    held = [replace(p, role="holdout") for p in held]
    rows, _ = extrapolate.predict_held_out(fitted, held, 0)
    assert rows[1].law == "isoflop"
    assert rows[1].id.startswith("best of 1 at 6e+18")


def test_a_pure_power_law_of_a_loss_with_a_floor_is_widened():
    # published losses along the optima are a pure power law, those of the
    # surface have a floor of 0.55
    pure = coverage.parabolas(np.random.default_rng(1), 0.001)
    assert extrapolate.widening(pure, 0)["isoflop"] == 1
    points = made(0.0003, 1)
    below, held = extrapolate.split(points)[:2]
    ratio = extrapolate.widening(below, 0)
    assert ratio["isoflop"] > 1.5
    assert ratio["isoflop, offset"] == 1
    rows, _ = extrapolate.predict_held_out(below, held, 0)
    by_law = {row.law: row for row in rows}
    drawn = extrapolate._optima(below, held, 0)[0]
    for end in ("low", "high"):
        room = np.log(getattr(drawn, end) / drawn.predicted)
        wide = np.log(getattr(by_law["isoflop"], end) / drawn.predicted)
        assert wide == pytest.approx(ratio["isoflop"] * room)


def tuned(n, best, tried, role="tune"):
    return [
        Point(
            f"{n:g}-{rate:g}",
            n,
            20 * n,
            120 * n * n,
            1 + 0.02 * np.log(rate / best) ** 2,
            role,
            learning_rate=rate,
        )
        for rate in tried
    ]


def test_the_best_rate_of_each_size_and_its_law():
    tried = 1e-4 * 2.0 ** np.arange(7)
    points = [
        p
        for n in (1e6, 8e6, 64e6)
        for p in tuned(n, 1e-3 * (n / 1e6) ** -0.2, tried)
    ]
    found, law = rates.fit(points)
    assert [r.best for r in found] == pytest.approx(
        [1e-3, 1e-3 * 8**-0.2, 1e-3 * 64**-0.2], rel=1e-3
    )
    assert law.exponent == pytest.approx(-0.2, abs=1e-3)
    assert law(1e9) == pytest.approx(1e-3 * 1000**-0.2, rel=0.01)
    assert not any(r.edge for r in found)


def test_a_best_rate_at_the_end_of_those_tried_is_marked():
    found, law = rates.fit(tuned(1e6, 1e-2, (1e-4, 2e-4, 4e-4)))
    assert found[0].edge
    assert found[0].best == 4e-4
    assert law is None
    assert rates.fit(tuned(1e6, 1e-3, (1e-4, 1e-3))) == ([], None)
