"""Options of `i2i-prior fit`."""

from __future__ import annotations

import argparse


def add_fit(command: argparse.ArgumentParser) -> None:
    """Options of `fit`."""
    command.add_argument(
        "--runs",
        nargs="+",
        metavar="DIR",
        help="sweeps, or folders of run directories",
    )
    command.add_argument(
        "--csv",
        metavar="FILE",
        help="instead: a table with the columns params,tokens,flops,loss "
        "(one of the first three may be left out: C = 6ND) and, if known, "
        "role,id,budget,standard_error,learning_rate,epochs",
    )
    command.add_argument(
        "--laws",
        metavar="DIR",
        help="instead: what fit wrote, for --predict without fitting",
    )
    command.add_argument(
        "--out", metavar="DIR", help="for laws.json, plots and report.html"
    )
    command.add_argument(
        "--metric",
        help="of result.json, a loss or what falls like one (eval/fid); else "
        "the sweep's own, or validation/ema_uniform",
    )
    command.add_argument(
        "--holdout",
        type=float,
        metavar="FLOPS",
        help="hold runs of so many FLOPs or more out, beside those of role "
        "holdout",
    )
    command.add_argument(
        "--predict",
        metavar="FLOPS,...",
        help="budgets to recommend size, data and learning rate for",
    )
    group = command.add_argument_group("hours of what is recommended")
    group.add_argument("--accelerator", help="as h100x8 or v5e:4x4")
    group.add_argument(
        "--mfu", type=float, default=0.4, help="share of its bf16 peak"
    )
    group.add_argument(
        "--flops-per-second",
        type=float,
        metavar="F",
        help="that it was seen to reach, instead of peak and MFU",
    )
    command.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="B",
        help="refits behind each interval",
    )
    command.add_argument("--seed", type=int, default=0, help="of what is drawn")
