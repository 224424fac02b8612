"""`i2i-prior report`: writes report.html of a run."""

import argparse
from pathlib import Path

EXAMPLE = "i2i-prior report --workdir runs/quickstart"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    parser.add_argument("--workdir", required=True, help="run directory")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes the report and prints its path."""
    from i2i_prior.io.disk import write_errors
    from i2i_prior.training.telemetry.run_report import write_report

    workdir = Path(options.workdir)
    with write_errors(workdir, "make the folder writable"):
        print(write_report(workdir))
    return 0
