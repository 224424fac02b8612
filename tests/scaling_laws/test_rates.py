"""Best learning rates: of series, over seeds, and of a sweep of rates alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from i2i_prior.scaling_laws import rates
from i2i_prior.scaling_laws.points import Point
from i2i_prior.scaling_laws.result import rates_values

RATES = np.array([1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])


def points(best, series="", seeds=(0.0,)):
    """Runs of three sizes with minima at `best(size)`, moved by seeds."""
    found = []
    for size in (1e5, 4e5, 1.6e6):
        for rate in RATES:
            for seed in seeds:
                valley = np.log(rate / best(size)) + seed
                loss = 0.3 + 0.02 * valley**2
                identity = f"{series}{size:g}-{rate:g}-{seed}"
                found.append(
                    Point(
                        *(identity, size, 1e6, 6e6 * size, loss, "tune"),
                        learning_rate=float(rate),
                        series=series,
                    )
                )
    return found


def test_a_law_of_the_best_rates():
    found, law = rates.fit(points(lambda n: 4e-3 * (n / 4e5) ** -0.25))
    assert [rate.edge for rate in found] == [False] * 3
    assert law.exponent == pytest.approx(-0.25, abs=1e-6)
    assert law(4e5) == pytest.approx(4e-3, rel=1e-6)
    assert rates.drift(found) == pytest.approx(16**0.25, rel=1e-6)


def test_seeds_count_as_their_mean():
    found, _ = rates.fit(points(lambda n: 4e-3, seeds=(-0.3, 0.3)))
    assert [len(rate.rates) for rate in found] == [5, 5, 5]
    best = [rate.best for rate in found]
    np.testing.assert_allclose(best, 4e-3, rtol=1e-6)


def test_series_are_not_mixed():
    both = points(lambda n: 4e-3, "mup")
    both += points(lambda n: 4e-3 * (n / 1e5) ** -0.5, "standard")
    found, law = rates.fit(both)
    assert law is None
    values = rates_values(found, law)
    assert values["drift"]["mup"] == pytest.approx(1, abs=1e-6)
    assert values["drift"]["standard"] == pytest.approx(4, rel=0.01)
    assert [size["series"] for size in values["sizes"]] == (
        ["mup"] * 3 + ["standard"] * 3
    )


def test_a_sweep_of_rates_alone(command, tmp_path):
    table = tmp_path / "rates.csv"
    rows = ["id,params,tokens,flops,loss,role,learning_rate,series"]
    for name, power in (("mup", 0.0), ("standard", -0.5)):
        for p in points(lambda n, power=power: 4e-3 * (n / 1e5) ** power, name):
            rows.append(
                f"{p.id},{p.n},{p.d},{p.c},{p.loss},tune,{p.learning_rate},"
                f"{name}"
            )
    table.write_text("\n".join(rows))
    out = tmp_path / "laws"
    ended = command("fit", "--csv", table, "--out", out)
    assert ended.code == 0, ended.err
    assert "mup: best learning rates 0.004 at N = 1e+05" in ended.out
    assert "a factor of 1 apart" in ended.out
    laws = json.loads((out / "laws.json").read_text())
    assert laws["parametric"] is None
    assert laws["isoflop"] is None
    assert laws["learning_rate"]["drift"]["standard"] > 3
    assert (out / "plots" / "rates.png").stat().st_size > 10_000

    table.write_text("\n".join(rows[:3]))
    ended = command("fit", "--csv", table, "--out", out)
    assert ended.code == 1
    assert "no size has three learning rates" in ended.err
