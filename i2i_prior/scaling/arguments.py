"""Options of `i2i-prior flops`."""

from __future__ import annotations

import argparse


def add_flops(command: argparse.ArgumentParser) -> None:
    """What `scaling.cost_table.flops` reads."""
    command.add_argument(
        "--config", required=True, metavar="FILE[:ARGS]", help="config file"
    )
    command.add_argument(
        "--accelerator", help="says hours: as h100x8, v5e:16x16, v5p:8x8x4*2"
    )
    command.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of its peak that the model's FLOPs take",
    )
    command.add_argument("--json", metavar="OUT", help="write it all here")
