"""`i2i-prior train`: trains a prior, or resumes one."""

import argparse
import os
import sys
from pathlib import Path

from i2i_prior.commands import common
from i2i_prior.errors import UserError

EXAMPLE = (
    "i2i-prior train --config configs/quickstart.py --workdir runs/quickstart "
    "--config.train.steps=500"
)
OVERRIDES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    common.add_config(parser)
    add("--workdir", required=True, help="run directory")
    add("--print-config", action="store_true", help="print it and exit")
    add(
        "--explain-sharding",
        action="store_true",
        help="print the sharding of each parameter and exit",
    )
    add(
        "--profile-steps",
        metavar="FIRST:LAST",
        help="trace these steps, as 10:15, and name the top operations",
    )
    add(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="start again after a crash, N times at most (one machine)",
    )
    common.add_processes(parser)


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Trains, or prints what the options ask for instead."""
    from i2i_prior.config import explain, load_config

    config = load_config(options.config, overrides)
    if options.print_config:
        print(explain(config))
        return 0
    if options.explain_sharding:
        from i2i_prior.training.setup import explain_sharding

        print(explain_sharding(config))
        return 0
    if options.restarts:
        return _train_with_restarts(options)
    common.before_jax()
    from i2i_prior.train import train
    from i2i_prior.training.telemetry.profiler import parse_steps

    profile = options.profile_steps and parse_steps(
        options.profile_steps, config.train.steps
    )
    with common.session(options):
        return train(config, options.workdir, profile)


def _train_with_restarts(options: argparse.Namespace) -> int:
    from i2i_prior.distributed.cluster import detect
    from i2i_prior.training.resilience.restarts import supervise

    if options.restarts < 0:
        raise UserError(f"--restarts is {options.restarts}; give 0 or more")
    given = options.coordinator, options.processes, options.process_id
    if detect(os.environ, *given):
        raise UserError(
            "--restarts starts one process again, which others of its run "
            "would not wait for; leave it to what starts them all (exit codes "
            "70 and 75: the same command resumes)"
        )
    # The last --restarts counts: the child is not supervised in its turn.
    command = [sys.executable, "-m", "i2i_prior.cli", *options.arguments]
    command.append("--restarts=0")
    return supervise(command, Path(options.workdir), options.restarts)
