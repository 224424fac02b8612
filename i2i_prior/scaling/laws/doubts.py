"""Why a law may be wrong: warnings, one sentence each."""

from __future__ import annotations

import numpy as np

from i2i_prior.scaling.laws.fitting import Fitted
from i2i_prior.scaling.laws.points import Point, column, groups
from i2i_prior.scaling.laws.uncertainty import intervals

FAR = 30.0  # extrapolation beyond this factor of compute is a guess
AGREEING = 0.2  # share of starts that should reach the optimum
LOPSIDED = 1.5  # alpha over beta, or its inverse, beyond which vertices err


def doubts(fitted: Fitted, budgets: list[float]) -> list[str]:
    """Everything about the fits, and the budgets asked for, to be wary of."""
    found = list(fitted.missing)
    found += _of_curves(fitted) + _of_law(fitted) + _of_data(fitted)
    largest = max(point.c for point in fitted.points)
    found += [
        f"{c:.3g} FLOPs are {c / largest:.0f} times the largest run's: beyond "
        f"{FAR:.0f} times a law is a guess"
        for c in budgets
        if c > FAR * largest
    ]
    found += [
        f"the best learning rate of {rate.n:.3g} parameters is the "
        f"{'lowest' if rate.best <= rate.rates.min() else 'highest'} tried: "
        "try further ones"
        for rate in fitted.rates
        if rate.edge
    ]
    return found


def _of_curves(fitted: Fitted) -> list[str]:
    optima = fitted.isoflop
    if optima is None:
        return []
    found = [
        f"the budget {budget:.3g} is left out of the isoFLOP laws: {why}"
        for budget, why in optima.dropped
    ]
    for curve in optima.curves:
        if curve.edge:
            found.append(
                f"the optimum of budget {curve.c:.3g} lies at the edge of its "
                "sizes: add sizes beyond it"
            )
        if len(curve.n) < 4:
            found.append(
                f"the budget {curve.c:.3g} has {len(curve.n)} runs: a parabola "
                "goes through any three, so it shows no error"
            )
    if len(optima.curves) < 4:
        found.append(
            f"{len(optima.curves)} budgets have an optimum: a power law of "
            "fewer than 4 shows hardly whether it is one"
        )
    names = ("optimal sizes", "lowest losses")
    for name, ratio in zip(names, optima.scatter, strict=True):
        if ratio > 1:
            found.append(
                f"the {name} scatter {ratio:.1f} times as far about their "
                "power law as noise explains: it is not the whole truth, and "
                "its intervals are widened by that"
            )
    return found


def _of_law(fitted: Fitted) -> list[str]:
    law, fit = fitted.law, fitted.huber
    if law is None or fit is None:
        return []
    found = []
    alpha, beta = law.values[3:]
    if fit.agreeing < AGREEING * fit.starts:
        found.append(
            f"{fit.agreeing} of {fit.starts} starts reach the best fit of the "
            "parametric law: the runs hardly determine it"
        )
    ends = intervals(law)
    for name, what in (("alpha", "size"), ("beta", "data")):
        if ends[name][0] <= 0:
            found.append(
                f"the interval of {name} holds 0: these runs do not show that "
                f"the loss falls with {what}, and optima mean nothing"
            )
    ratio = alpha / beta if alpha > 0 and beta > 0 else 1.0
    if not 1 / LOPSIDED < ratio < LOPSIDED:
        found.append(
            f"alpha / beta is {ratio:.2f}: isoFLOP curves are lopsided, and "
            "optima of parabolas biased; trust the parametric law's"
        )
    low, high = ends["E"]
    if high > 2 * max(low, 1e-300):
        found.append(
            f"E lies anywhere in {low:.3g} to {high:.3g}: the runs do not "
            "reach near enough to the floor to tell it"
        )
    if fitted.calibration is None:
        found.append(
            "too few budgets to try intervals on left-out ones: prediction "
            "intervals are not calibrated"
        )
    elif fitted.calibration.inflation > 3:
        found.append(
            "intervals had to be widened "
            f"{fitted.calibration.inflation:.1f} times to hold left-out "
            "budgets: the law is an approximation here"
        )
    missed = sum(not row.inside for row in fitted.held)
    if missed:
        found.append(
            f"{missed} of {len(fitted.held)} held-out values lie outside "
            "their prediction interval"
        )
    return found


def _of_data(fitted: Fitted) -> list[str]:
    found = []
    many = [p for p in fitted.points if p.epochs and p.epochs > 1]
    if many:
        most = max(p.epochs or 0 for p in many)
        found.append(
            f"{len(many)} runs see their data more than once (up to {most:.3g} "
            "epochs): laws of unlimited data do not hold there"
        )
    blurred = sum(_blurred(group) for group in groups(fitted.points))
    if blurred:
        found.append(
            f"in {blurred} budgets the standard error of the loss is above "
            "the difference between neighbouring sizes: validate on more "
            "examples"
        )
    if fitted.cost.spread > 0.05:
        found.append(
            f"C = {fitted.cost.kappa:.3g} N^{fitted.cost.eta:.3f} D misses "
            f"runs by up to {fitted.cost.spread:.0%}: optima of the parametric "
            "law assume it"
        )
    return found


def _blurred(group: list[Point]) -> bool:
    """Whether errors drown the differences of neighbours, typically."""
    errors = column(group, "standard_error")
    if len(group) < 2 or not np.isfinite(errors).all():
        return False
    gaps = np.abs(np.diff(column(group, "loss")))
    return bool(np.median(errors) > np.median(gaps))
