"""Neighbours in size, compared image by image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from i2i_prior.evaluation.validation_losses import Losses, write
from i2i_prior.scaling_laws import paired
from i2i_prior.scaling_laws.diagnostics import diagnose
from i2i_prior.scaling_laws.fitting import fit_all
from i2i_prior.scaling_laws.points import Point, Source, Table
from tests.scaling_laws.fixtures_laws import coverage

METRIC = "validation/ema_uniform"
TIMES, SHARES = np.array([0.2, 0.6, 0.9]), np.array([0.5, 0.3, 0.2])


def validated(folder, level, seed, images="a"):
    """A run directory: images differ by 0.3, two runs on one by 0.01."""
    shared = np.random.default_rng(0).normal(0, 0.3, (400, 1))
    own = np.random.default_rng(seed).normal(0, 0.01, (400, 3))
    mse = (level + shared + own).astype(np.float32)
    tables = {kind: Losses(2 * mse, mse) for kind in ("ema", "raw")}
    folder.mkdir()
    about = {"source": images, "fingerprint": images, "examples": 400}
    write(folder, 7, tables, TIMES, SHARES, about)
    return Source(folder, 7, 100.0, 1.0, {}, {}), mse.astype(float)


@pytest.fixture
def runs(tmp_path):
    """Three sizes: the second is better by 0.01, the third alike."""
    made = [
        validated(tmp_path / str(k), level, k + 1)
        for k, level in enumerate((1.0, 0.99, 0.99))
    ]
    points = [
        Point(str(k), k + 1.0, 1.0, 6.0, mse.mean(), standard_error=0.015)
        for k, (_, mse) in enumerate(made)
    ]
    sources = {str(k): source for k, (source, _) in enumerate(made)}
    table = Table(points, metric=METRIC, sources=sources)
    return table, [mse for _, mse in made]


def test_pairs_see_what_two_standard_errors_hide(runs):
    table, losses = runs
    first, second = paired.compare(table)
    gap = (losses[1] - losses[0]).mean(1)
    assert first.difference == pytest.approx(gap.mean(), rel=1e-6)
    error = gap.std(ddof=1) / np.sqrt(400)
    assert first.standard_error == pytest.approx(error, rel=1e-6)
    assert first.paired
    assert first.resolved
    assert first.ratio > 8
    assert (second.smaller, second.larger) == ("1", "2")
    assert not second.resolved
    apart, _ = paired.compare(replace(table, sources={}))
    assert not apart.paired
    assert apart.standard_error == pytest.approx(0.015 * 2**0.5)
    assert not apart.resolved


def test_the_training_mean_weighs_times_as_training_draws_them(runs):
    table, losses = runs
    first, _ = paired.compare(replace(table, metric="validation/raw_training"))
    gap = 2 * (losses[1] - losses[0]) @ SHARES
    assert first.difference == pytest.approx(gap.mean(), rel=1e-6)


def test_other_images_lost_tables_and_other_metrics_are_not_paired(
    runs, tmp_path
):
    table, _ = runs
    other, _ = validated(tmp_path / "other", 1.0, 9, "b")
    sources = table.sources | {"0": other}
    first, second = paired.compare(replace(table, sources=sources))
    assert (first.paired, second.paired) == (False, True)
    (tmp_path / "1" / "validation" / "7.npz").write_bytes(b"PK torn")
    assert not any(pair.paired for pair in paired.compare(table))
    assert not any(
        pair.paired
        for pair in paired.compare(replace(table, metric="eval/fid"))
    )
    bare = [replace(p, standard_error=None) for p in table.points]
    assert paired.compare(Table(bare, metric=METRIC)) == []


def test_pairs_that_are_not_told_apart_are_named(runs):
    table, _ = runs
    points = coverage.surface(np.random.default_rng(0), 0.0, 4, 4)
    clear = [replace(p, standard_error=1e-9) for p in points]
    fitted = fit_all(Table(clear), 0, 100)
    assert not any(
        "told apart" in d or "apart" in d for d in diagnose(fitted, [])
    )
    pairs = fitted.pairs + paired.compare(table)
    found = [
        warning
        for warning in diagnose(replace(fitted, pairs=pairs), [])
        if "standard errors apart" in warning
    ]
    assert len(found) == 1
    assert found[0].startswith(f"1 of {len(pairs)} neighbours")
    assert "image by image): 1 and 2;" in found[0]


def test_a_size_whose_runs_are_all_off_is_named():
    points = coverage.surface(np.random.default_rng(0), 0.001, 4, 6)
    sizes = [3e7 * 2.0**k for k in range(6)]
    points = [
        replace(p, n=n, d=p.c / 6 / n, loss=coverage_loss(n, p.c / 6 / n))
        for p, n in zip(points, sizes * 4, strict=True)
    ]
    spoilt = [
        replace(p, loss=p.loss * 1.05) if p.n == sizes[2] else p for p in points
    ]
    found = diagnose(fit_all(Table(spoilt), 0, 100), [])
    (named,) = (warning for warning in found if "to one side" in warning)
    assert "4 runs of 1.2e+08 parameters lie" in named


def coverage_loss(n, d):
    e, a, b, alpha, beta = coverage.LAW.values()
    noise = 1 + 0.001 * np.sin(1e3 * np.log(n * d) + n)
    return (e + a * n**-alpha + b * d**-beta) * noise
