"""Warnings about a fit, one sentence each."""

from collections.abc import Iterator

import numpy as np

from i2i_prior.scaling_laws.extrapolate import Prediction
from i2i_prior.scaling_laws.fitting import LawFit
from i2i_prior.scaling_laws.paired import LEAST, Pair
from i2i_prior.scaling_laws.points import FLAT, SPAN, column, groups

FAR = 30.0  # extrapolation beyond this factor of compute is a guess
AGREEING = 0.2  # share of starts that should reach the optimum
NAMED = 3  # pairs that a warning lists
TOGETHER = 0.99  # correlation of log sizes and log tokens
LOPSIDED = 1.5  # alpha over beta, or its inverse, beyond which vertices err


def diagnose(fit: LawFit, budgets: list[float]) -> list[str]:
    """Warnings about the fits, and about extrapolation to budgets in FLOPs."""
    found = [*fit.missing, *_curves(fit), *_parametric(fit), *_data(fit)]
    found += _held(fit.held)
    found += [
        f"{c:.3g} FLOPs are {c / fit.largest:.3g} times the largest run's: "
        f"beyond {FAR:.0f} times a law is a guess"
        for c in budgets
        if c > FAR * fit.largest
    ]
    for rate in (rate for rate in fit.rates if rate.edge):
        end, way = "highest", "higher"
        if rate.best <= rate.rates.min():
            end, way = "lowest", "lower"
        found.append(
            f"the best learning rate of {rate.n:.3g} parameters is the {end} "
            f"tried: try {way} ones"
        )
    return found


def _curves(fit: LawFit) -> Iterator[str]:
    """Warnings about isoFLOP curves and the laws of their optima."""
    optima = fit.isoflop
    if optima is None:
        return
    for why in dict.fromkeys(why for _, why in optima.dropped):
        budgets = [f"{c:.3g}" for c, reason in optima.dropped if reason == why]
        yield (f"the isoFLOP laws leave out {', '.join(budgets)} FLOPs: {why}")
    for curve in optima.curves:
        if curve.edge:
            yield (
                f"the optimum of budget {curve.c:.3g} lies at the edge of its "
                "sizes: add sizes beyond it"
            )
        if len(curve.n) < 4:
            yield (
                f"the budget {curve.c:.3g} has {len(curve.n)} runs: a parabola "
                "goes through any three, so its error is unknown"
            )
    if not optima.freedom:
        yield (
            "two budgets of three sizes leave no residuals: the isoFLOP laws "
            "have no intervals"
        )
    if len(optima.curves) < 4:
        yield (
            f"{len(optima.curves)} budgets have an optimum: fewer than 4 "
            "hardly test a power law"
        )
    names = ("optimal sizes", "lowest losses")
    for name, ratio in zip(names, optima.scatter, strict=True):
        if ratio > 1:
            yield (
                f"the {name} scatter {ratio:.1f} times as far about their "
                "power law as noise explains: the law is an approximation, and "
                "its intervals are widened by that factor"
            )


def _parametric(fit: LawFit) -> Iterator[str]:
    """Warnings about the parametric law."""
    law, huber = fit.law, fit.huber
    if law is None or huber is None:
        return
    sizes, tokens = (np.log(column(fit.points, name)) for name in "nd")
    if np.corrcoef(sizes, tokens)[0, 1] > TOGETHER:
        yield (
            "sizes and tokens rise together: their terms cannot be separated, "
            "and the parametric optimum is meaningless; vary one of them"
        )
    if huber.agreeing < AGREEING * huber.starts:
        yield (
            f"{huber.agreeing} of {huber.starts} starts reach the best fit of "
            "the parametric law: the runs hardly determine it"
        )
    _, a, b, alpha, beta = law.values
    ends = law.intervals()
    for name, axis, fall in (
        ("alpha", "size", _fall(fit, "n", a, alpha)),
        ("beta", "data", _fall(fit, "d", b, beta)),
    ):
        if ends[name][0] <= 0 or not fall >= FLAT:
            yield (
                f"{name} may be 0: these runs do not show that the loss falls "
                f"with {axis}, and optima are meaningless"
            )
    ratio = alpha / beta if alpha > 0 and beta > 0 else 1.0
    if fit.isoflop and not 1 / LOPSIDED < ratio < LOPSIDED:
        yield (
            f"alpha / beta is {ratio:.2f}: isoFLOP curves are asymmetric, and "
            "optima of parabolas biased; prefer the parametric law's"
        )
    low, high = ends["E"]
    if high > 2 * max(low, 1e-300):
        yield (
            f"E may be anything from {low:.3g} to {high:.3g}: the runs are too "
            "far above the floor to determine it"
        )
    if fit.calibration is None:
        yield (
            "too few budgets to leave some out: prediction intervals are not "
            "calibrated"
        )
    elif fit.calibration.inflation > 3:
        yield (
            f"intervals are widened {fit.calibration.inflation:.1f} times to "
            "cover left-out budgets: the law is an approximation"
        )


def _fall(fit: LawFit, name: str, scale: float, power: float) -> float:
    """Fall of a term between the ends of its axis, over the lowest loss.

    Where all losses are equal, the sign of an exponent is rounding error.
    """
    axis = column(fit.points, name)
    with np.errstate(over="ignore", invalid="ignore"):
        begin, end = scale * np.array([axis.min(), axis.max()]) ** -power
    return float((begin - end) / column(fit.points, "loss").min())


def _held(held: list[Prediction]) -> Iterator[str]:
    """Warnings of laws that missed held-out losses, the parametric first."""
    for law in dict.fromkeys(row.law for row in held):
        rows = [row for row in held if row.law == law]
        missed = [abs(row.error) for row in rows if not row.inside]
        if missed:
            yield (
                f"{len(missed)} of {len(rows)} held-out losses lie outside "
                f"the 95 % interval of the law `{law}`, the prediction off by "
                f"up to {min(max(missed), 9.99):.1%}"
            )


def _data(fit: LawFit) -> Iterator[str]:
    """Warnings about the runs."""
    epochs = [p.epochs for p in fit.points if p.epochs and p.epochs > 1]
    if epochs:
        yield (
            f"{len(epochs)} runs see their data more than once (up to "
            f"{max(epochs):.3g} epochs): laws of unlimited data do not hold "
            "there"
        )
    yield from _unresolved(fit.pairs)
    for group in groups(fit.points):
        c = column(group, "c")
        if c.max() > SPAN * c.min():
            yield (
                f"the runs of budget {group[0].budget} have {c.min():.3g} to "
                f"{c.max():.3g} FLOPs: their curve is no isoFLOP curve"
            )
    yield from _sizes(fit)
    if fit.cost.spread > 0.05:
        yield (
            f"C = {fit.cost.kappa:.3g} N^{fit.cost.eta:.3f} D misses runs by "
            f"up to {fit.cost.spread:.0%}: optima of the parametric law assume "
            "it"
        )


def _sizes(fit: LawFit) -> Iterator[str]:
    """Warnings of sizes with all residuals large and of one sign."""
    if fit.law is None:
        return
    gaps = fit.residuals(fit.points)
    sizes = column(fit.points, "n")
    for n in sorted(set(sizes)):
        own, rest = gaps[sizes == n], gaps[sizes != n]
        least, most = sorted((own[abs(own).argmin()], own[abs(own).argmax()]))
        # The median of |normal noise| is two thirds of its deviation.
        usual = 1.5 * float(np.median(abs(rest))) if len(rest) else np.inf
        apart = min(abs(least), abs(most))
        if len(own) > 1 and least * most > 0 and apart > max(3 * usual, 0.002):
            yield (
                f"the {len(own)} runs of {n:.4g} parameters lie "
                f"{least:+.1%} to {most:+.1%} off the law, all to one side: "
                "check their recipe, such as the learning rate"
            )


def _unresolved(pairs: list[Pair]) -> Iterator[str]:
    """A warning of neighbours in size that are not significantly different."""
    blurred = [pair for pair in pairs if not pair.resolved]
    if not blurred:
        return
    named = [f"{p.smaller} and {p.larger}" for p in blurred[:NAMED]]
    if len(blurred) > NAMED:
        named.append(f"{len(blurred) - NAMED} more")
    how = (
        "image by image"
        if all(pair.paired for pair in blurred)
        else "by standard errors of runs that are not paired"
    )
    yield (
        f"{len(blurred)} of {len(pairs)} neighbours in size are less than "
        f"{LEAST:g} standard errors apart ({how}): {', '.join(named)}; near "
        "an optimum that is to be expected, elsewhere validate on more "
        "examples"
    )
