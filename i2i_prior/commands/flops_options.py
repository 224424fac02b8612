"""Options of `i2i-prior flops` and `i2i-prior coordinates`."""

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


def add_coordinates(command: argparse.ArgumentParser) -> None:
    """What `coordinates.coordinates` reads."""
    command.add_argument(
        "--config", required=True, metavar="FILE[:ARGS]", help="config file"
    )
    command.add_argument(
        "--widths",
        type=_numbers,
        required=True,
        help="channels by commas, multiples of the config's head width",
    )
    command.add_argument("--steps", type=int, default=10, help="updates each")
    command.add_argument("--seeds", type=int, default=3, help="models of each")
    command.add_argument("--out", required=True, help="folder of the result")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
