"""Options of `i2i-prior sweep plan` and `i2i-prior sweep collect`."""

from __future__ import annotations

import argparse


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARGS]",
        help="sweep file, as configs/sweeps/isoflop.py:budgets=1e12+2e12",
    )
    parser.add_argument(
        "--out", metavar="SWEEP", help="its folder; without it, only print"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="drop planned runs that the plan has no more, if none of them "
        "was submitted",
    )
    parser.add_argument(
        "--all", action="store_true", help="print every run of a long plan"
    )
    parser.add_argument(
        "--images",
        type=int,
        help="unique training images, else counted where they are here",
    )
    group = parser.add_argument_group("hours and cost")
    group.add_argument(
        "--accelerator", help="one run's machine, as h100x8 or v5e:4x4"
    )
    group.add_argument(
        "--mfu", type=float, default=0.4, help="share of its bf16 peak"
    )
    group.add_argument(
        "--flops-per-second",
        type=float,
        metavar="F",
        help="that it was seen to reach, instead of peak and MFU",
    )
    group.add_argument(
        "--price-per-chip-hour",
        type=float,
        metavar="P",
        help="for a cost beside the chip-hours",
    )


def add_collect(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    parser.add_argument("sweep", metavar="SWEEP", help="its folder")
    parser.add_argument(
        "--out", metavar="FILE.csv", help="else SWEEP/results.csv"
    )
    parser.add_argument(
        "--metric", help="of the loss column, else the sweep's own"
    )
