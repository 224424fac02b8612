"""Coverage of the 95 % intervals of scaling laws on synthetic sweeps.

    PYTHONPATH=. python benchmarks/law_coverage.py --trials 200
    PYTHONPATH=. python benchmarks/law_coverage.py --noise 0.003 --json OUT
    PYTHONPATH=. python benchmarks/law_coverage.py --budgets 4 --sizes 4

Synthetic sweeps of six budgets (1e17 to 6e18 FLOPs) of eight sizes, normal
noise in log loss, fitted as `i2i-prior fit` does:

  isoflop      parabolas in log N about the published optima of a diffusion
               transformer (arXiv 2410.08184): N_opt = 0.0009 C^0.5681,
               D_opt = 186.85 C^0.4319, L = 2.3943 C^-0.0273
  parametric   L = 0.55 + 15 / N^0.30 + 60 / D^0.33

Prints the share of trials whose interval holds the truth, and how far
estimates lie from it. Of 200 trials of a true 95 %, the share is within
93 to 97 % four times in five.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from i2i_prior.scaling_laws import isoflop, parametric
from i2i_prior.scaling_laws.bootstrap import interval
from i2i_prior.scaling_laws.points import Point, column
from i2i_prior.scaling_laws.uncertainty import redraw

BUDGETS = (1e17, 3e17, 6e17, 1e18, 3e18, 6e18)
OPTIMA = {
    "n_opt": (0.0009, 0.5681),
    "d_opt": (186.85, 0.4319),
    "loss": (2.3943, -0.0273),
}
LAW = dict(zip(parametric.NAMES, (0.55, 15.0, 60.0, 0.30, 0.33), strict=True))


def parabolas(
    rng: np.random.Generator, noise: float, budgets: int = 6, sizes: int = 8
) -> list[Point]:
    """Runs about the published optima, sizes a factor of 20 apart at most.

    Args:
      rng: of the noise.
      noise: standard deviation of log loss.
      budgets: the first of `BUDGETS`.
      sizes: a budget.
    """
    points = []
    for c in BUDGETS[:budgets]:
        n, d, loss = (k * c**e for k, e in OPTIMA.values())
        for x in np.linspace(-1.5, 1.5, sizes):
            y = loss * (1 + 0.02 * x**2) * np.exp(noise * rng.normal())
            points.append(
                Point(str(len(points)), n * np.exp(x), d * np.exp(-x), c, y)
            )
    return points


def surface(
    rng: np.random.Generator, noise: float, budgets: int = 6, sizes: int = 8
) -> list[Point]:
    """Runs of the parametric law, sizes from 1/8 to 8 times the optimum."""
    e, a, b, alpha, beta = LAW.values()
    points = []
    for c in BUDGETS[:budgets]:
        for x in np.geomspace(1 / 8, 8, sizes):
            n = x * OPTIMA["n_opt"][0] * c ** OPTIMA["n_opt"][1]
            d = c / 6 / n
            loss = e + a / n**alpha + b / d**beta
            y = loss * np.exp(noise * rng.normal())
            points.append(Point(str(len(points)), n, d, c, y))
    return points


def isoflop_trial(
    seed: int, noise: float, draws: int, *grid: int
) -> dict[str, tuple]:
    """name -> (estimate, truth, whether the interval holds the truth)."""
    rng = np.random.default_rng(seed)
    found = isoflop.fit(parabolas(rng, noise, *grid), rng, draws)
    assert isinstance(found, isoflop.IsoFlop), found
    trial = {}
    for name, (coefficient, exponent) in OPTIMA.items():
        law = getattr(found, name)
        own = np.array([np.log(law.coefficient), law.exponent])
        low, high = interval(own, law.draws, found.freedom)
        truth = np.array([np.log(coefficient), exponent])
        held = (low <= truth) & (truth <= high)
        for k, part in enumerate(("log coefficient", "exponent")):
            trial[f"{name} {part}"] = (own[k], truth[k], bool(held[k]))
    return trial


def parametric_trial(
    seed: int, noise: float, draws: int, *grid: int
) -> dict[str, tuple]:
    """name -> (estimate, truth, whether the interval holds the truth)."""
    points = surface(np.random.default_rng(seed), noise, *grid)
    n, d, loss = (column(points, name) for name in ("n", "d", "loss"))
    law = redraw(parametric.fit(n, d, loss), points, seed, draws)
    ends = law.intervals()
    return {
        name: (own, truth, ends[name][0] <= truth <= ends[name][1])
        for (name, truth), own in zip(LAW.items(), law.values, strict=True)
    }


def main() -> None:
    """Runs the trials and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--noise", type=float, default=0.001)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--budgets", type=int, default=6)
    parser.add_argument("--sizes", type=int, default=8, help="a budget")
    parser.add_argument("--kind", choices=("isoflop", "parametric"))
    parser.add_argument("--json", metavar="OUT")
    options = parser.parse_args()
    result = {}
    kinds = {"isoflop": isoflop_trial, "parametric": parametric_trial}
    for kind, trial in kinds.items():
        if options.kind not in (None, kind):
            continue
        start = time.time()
        seeds = range(options.first, options.first + options.trials)
        grid = options.budgets, options.sizes
        all_of = [trial(s, options.noise, options.draws, *grid) for s in seeds]
        print(
            f"{kind}: {options.trials} trials, noise {options.noise}, "
            f"{options.draws} draws, {time.time() - start:.0f} s"
        )
        for name in all_of[0]:
            own, truth, held = map(
                np.array, zip(*(t[name] for t in all_of), strict=True)
            )
            error = own - truth
            result[f"{kind} {name}"] = float(held.mean())
            print(
                f"  {name:22} covered {held.mean():6.1%}  truth "
                f"{truth[0]:9.4f}  mean {own.mean():9.4f}  spread "
                f"{error.std():8.4f}  largest error {np.abs(error).max():.4f}"
            )
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
