"""`i2i-prior flops`: counts parameters, FLOPs and bytes of a config."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2i_prior.commands import common
from i2i_prior.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

EXAMPLE = (
    "i2i-prior flops --config configs/lumos_xl2.py --accelerator h100x8 "
    "--mfu 0.4"
)
OVERRIDES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    common.add_config(parser)
    add("--accelerator", help="adds hours: h100x8, v5e:16x16, v5p:8x8x4*2")
    add(
        "--mfu",
        type=float,
        default=0.4,
        help="share of its peak that the model's FLOPs take",
    )
    add("--json", metavar="OUT", help="write it all here")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the table, and writes --json."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported: only counts
    from i2i_prior.aot.machine import machine
    from i2i_prior.checkpoint.run_dir import write_json
    from i2i_prior.config import load_config
    from i2i_prior.flops.cost import run_cost
    from i2i_prior.flops.networks import networks
    from i2i_prior.flops.table import as_json, table, totals

    there = machine(options.accelerator, options.mfu, None)
    if options.json and Path(options.json).is_dir():
        raise UserError(f"{options.json} is a folder; name a file to write")
    config = load_config(options.config, overrides)
    _check(config, there.chips if there else None)
    model, cost = networks(config), run_cost(config)
    result: dict[str, Any] = dict(totals(config, cost))
    if there:
        # Recomputed FLOPs are part of the utilisation.
        hours = there.hours(result["model_flops"])
        result |= {
            "accelerator": there.name,
            "mfu": options.mfu,
            "hours": hours,
            "chip_hours": hours * there.chips,
        }
    if options.json:
        write_json(
            Path(options.json),
            as_json(config, model, cost, result),
            "choose another --json",
        )
    print(table(config, model, cost, result))
    return 0


def _check(config: ConfigDict, chips: int | None) -> None:
    """Checks that the config could be trained once its weights are there."""
    from i2i_prior.models import dit, encoder_families
    from i2i_prior.tasks.resolve import resolve
    from i2i_prior.training.validate import validate

    if config.encoder.kind == "frozen" and not config.encoder.weights:
        config.encoder.weights = "random"
    latents = config.autoencoder.kind != "pixels" and not config.data.cached
    if latents and not config.autoencoder.weights:
        config.autoencoder.weights = "random"
    fixed = (size for size in config.mesh.values() if size > 0)
    validate(config, chips or math.prod(fixed))
    shapes = resolve(config)
    dit.check_config(shapes.dit)
    if shapes.encoder is not None:
        encoder_families.check(shapes.encoder)
