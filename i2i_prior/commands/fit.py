"""`i2i-prior fit`: fits scaling laws to runs and predicts from them."""

import argparse

from i2i_prior.commands import common

EXAMPLE = "i2i-prior fit --runs sweeps/isoflop --out laws --predict 1e20,1e21"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add(
        "--runs",
        nargs="+",
        metavar="DIR",
        help="sweeps, or folders of run directories",
    )
    add(
        "--csv",
        metavar="FILE",
        help="instead: a table with the columns params,tokens,flops,loss "
        "(one of the first three may be left out: C = 6ND) and, if known, "
        "role,id,budget,standard_error,learning_rate,epochs",
    )
    add(
        "--laws",
        metavar="DIR",
        help="instead: --out of an earlier fit, for --predict",
    )
    add("--out", metavar="DIR", help="for laws.json, plots and report.html")
    add(
        "--metric",
        help="of result.json, lower is better (eval/fid); else "
        "the sweep's own, or validation/ema_uniform",
    )
    add(
        "--holdout",
        type=float,
        metavar="FLOPS",
        help="hold out runs of this many FLOPs or more, besides those of "
        "role holdout",
    )
    add(
        "--predict",
        metavar="FLOPS,...",
        help="budgets to recommend size, data and learning rate for",
    )
    group = parser.add_argument_group("hours of recommended runs")
    common.add_machine(group)
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="B",
        help="refits behind each interval",
    )
    add("--seed", type=int, default=0, help="of the random draws")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Fits the laws, or predicts from fitted ones."""
    from i2i_prior.scaling_laws.fit_runs import fit

    return fit(options)
