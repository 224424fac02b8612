"""Why a law may be wrong: warnings, one sentence each."""

from __future__ import annotations

import numpy as np

from i2i_prior.scaling_laws.extrapolate import Prediction
from i2i_prior.scaling_laws.fitting import Fitted
from i2i_prior.scaling_laws.paired import LEAST, Pair
from i2i_prior.scaling_laws.points import FLAT, SPAN, Point, column, groups
from i2i_prior.scaling_laws.residuals import gaps_of
from i2i_prior.scaling_laws.uncertainty import intervals

FAR = 30.0  # extrapolation beyond this factor of compute is a guess
AGREEING = 0.2  # share of starts that should reach the optimum
NAMED = 3  # pairs that a warning lists
TOGETHER = 0.99  # correlation of log sizes and log tokens
LOPSIDED = 1.5  # alpha over beta, or its inverse, beyond which vertices err


def doubts(fitted: Fitted, budgets: list[float]) -> list[str]:
    """Everything about the fits, and the budgets asked for, to be wary of."""
    found = list(fitted.missing)
    found += _of_curves(fitted) + _of_law(fitted) + _of_data(fitted)
    found += _of_held(fitted.held)
    largest = max(point.c for point in fitted.points)
    found += [
        f"{c:.3g} FLOPs are {c / largest:.3g} times the largest run's: beyond "
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
    found = []
    for why in dict.fromkeys(why for _, why in optima.dropped):
        budgets = [f"{c:.3g}" for c, reason in optima.dropped if reason == why]
        many = len(budgets) > 1
        found.append(
            f"the budget{'s' * many} {', '.join(budgets)} "
            f"{'are' if many else 'is'} left out of the isoFLOP laws: {why}"
        )
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
    if not optima.freedom:
        found.append(
            "two budgets of three sizes tell nothing of their error: the "
            "isoFLOP laws have no intervals"
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
    sizes, tokens = (np.log(column(fitted.points, name)) for name in "nd")
    if np.corrcoef(sizes, tokens)[0, 1] > TOGETHER:
        found.append(
            "sizes and tokens rise together: nothing tells their terms apart, "
            "and the parametric optimum means nothing; vary one of them"
        )
    alpha, beta = law.values[3:]
    if fit.agreeing < AGREEING * fit.starts:
        found.append(
            f"{fit.agreeing} of {fit.starts} starts reach the best fit of the "
            "parametric law: the runs hardly determine it"
        )
    ends = intervals(law)
    for name, what, fall in (
        ("alpha", "size", _fall(fitted, "n", law.values[1], alpha)),
        ("beta", "data", _fall(fitted, "d", law.values[2], beta)),
    ):
        if ends[name][0] <= 0 or not fall >= FLAT:
            found.append(
                f"{name} may as well be 0: these runs do not show that the "
                f"loss falls with {what}, and optima mean nothing"
            )
    ratio = alpha / beta if alpha > 0 and beta > 0 else 1.0
    if fitted.isoflop and not 1 / LOPSIDED < ratio < LOPSIDED:
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
    return found


def _fall(fitted: Fitted, name: str, scale: float, power: float) -> float:
    """What a term takes from the loss between its ends, over that loss.

    Of losses that are all one, an exponent is what rounding makes of it.
    """
    ends = column(fitted.points, name)
    ends = np.array([ends.min(), ends.max()])
    with np.errstate(over="ignore", invalid="ignore"):
        begin, end = scale * ends**-power
    return float((begin - end) / column(fitted.points, "loss").min())


def _of_held(held: list[Prediction]) -> list[str]:
    """Laws that missed what was held out; the parametric one comes first."""
    found = []
    for law in dict.fromkeys(row.law for row in held):
        rows = [row for row in held if row.law == law]
        missed = [row for row in rows if not row.inside]
        if missed:
            far = max(abs(row.error) for row in missed)
            found.append(
                f"{len(missed)} of {len(rows)} held-out losses lie outside "
                f"the 95 % interval of the law `{law}`, the prediction off by "
                f"up to {min(far, 9.99):.1%}"
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
    found += _unresolved(fitted.pairs) + _of_budgets(fitted.points)
    found += _of_sizes(fitted)
    if fitted.cost.spread > 0.05:
        found.append(
            f"C = {fitted.cost.kappa:.3g} N^{fitted.cost.eta:.3f} D misses "
            f"runs by up to {fitted.cost.spread:.0%}: optima of the parametric "
            "law assume it"
        )
    return found


def _of_sizes(fitted: Fitted) -> list[str]:
    """Sizes that miss the law in all their runs, and to one side."""
    if fitted.law is None:
        return []
    gaps = gaps_of(fitted, fitted.points)
    sizes = column(fitted.points, "n")
    found = []
    for n in sorted(set(sizes)):
        own, rest = gaps[sizes == n], gaps[sizes != n]
        least, most = sorted((own[abs(own).argmin()], own[abs(own).argmax()]))
        # Of normal noise the median size is two thirds of the deviation.
        usual = 1.5 * float(np.median(abs(rest))) if len(rest) else np.inf
        apart = min(abs(least), abs(most))
        if len(own) > 1 and least * most > 0 and apart > max(3 * usual, 0.002):
            found.append(
                f"the {len(own)} runs of {n:.4g} parameters lie "
                f"{least:+.1%} to {most:+.1%} off the law, all to one side: "
                "look whether their recipe, as the learning rate, is at fault"
            )
    return found


def _unresolved(pairs: list[Pair]) -> list[str]:
    blurred = [pair for pair in pairs if not pair.resolved]
    if not blurred:
        return []
    named = [f"{p.smaller} and {p.larger}" for p in blurred[:NAMED]]
    if len(blurred) > NAMED:
        named.append(f"{len(blurred) - NAMED} more")
    how = (
        "image by image"
        if all(pair.paired for pair in blurred)
        else "by standard errors of runs that are not paired"
    )
    return [
        f"{len(blurred)} of {len(pairs)} neighbours in size are less than "
        f"{LEAST:g} standard errors apart ({how}): {', '.join(named)}; near "
        "an optimum that is to be expected, elsewhere validate on more "
        "examples"
    ]


def _of_budgets(points: list[Point]) -> list[str]:
    """Groups that were named a budget and are none."""
    found = []
    for group in groups(points):
        c = column(group, "c")
        if c.max() > SPAN * c.min():
            found.append(
                f"the runs of budget {group[0].budget} have {c.min():.3g} to "
                f"{c.max():.3g} FLOPs: their curve is no isoFLOP curve"
            )
    return found
