"""`i2i-prior fit`: fits scaling laws to runs and predicts from them."""

from __future__ import annotations

import argparse

HELP = "Fit scaling laws to runs, and predict from them."
EXAMPLE = "i2i-prior fit --runs sweeps/isoflop --out laws --predict 1e20,1e21"
OVERRIDES = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    parser.add_argument(
        "--runs",
        nargs="+",
        metavar="DIR",
        help="sweeps, or folders of run directories",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="instead: a table with the columns params,tokens,flops,loss "
        "(one of the first three may be left out: C = 6ND) and, if known, "
        "role,id,budget,standard_error,learning_rate,epochs",
    )
    parser.add_argument(
        "--laws",
        metavar="DIR",
        help="instead: --out of an earlier fit, for --predict",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="for laws.json, plots and report.html"
    )
    parser.add_argument(
        "--metric",
        help="of result.json, lower is better (eval/fid); else "
        "the sweep's own, or validation/ema_uniform",
    )
    parser.add_argument(
        "--holdout",
        type=float,
        metavar="FLOPS",
        help="hold out runs of this many FLOPs or more, besides those of "
        "role holdout",
    )
    parser.add_argument(
        "--predict",
        metavar="FLOPS,...",
        help="budgets to recommend size, data and learning rate for",
    )
    group = parser.add_argument_group("hours of recommended runs")
    group.add_argument("--accelerator", help="as h100x8 or v5e:4x4")
    group.add_argument(
        "--mfu", type=float, default=0.4, help="share of its bf16 peak"
    )
    group.add_argument(
        "--flops-per-second",
        type=float,
        metavar="F",
        help="measured FLOP/s, instead of peak and MFU",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="B",
        help="refits behind each interval",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the random draws"
    )


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Fits the laws, or predicts from fitted ones."""
    from i2i_prior.scaling_laws.fit_runs import fit

    return fit(options)
