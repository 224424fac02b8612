"""The verbs of `i2i-prior sweep`, their options, an example of each."""

from __future__ import annotations

import argparse

from i2i_prior.commands.sweep_plan_options import add_collect, add_plan

_EXAMPLES = {
    "plan": "i2i-prior sweep plan --config configs/sweeps/isoflop.py "
    "--out sweeps/isoflop --accelerator h100x8 --mfu 0.4",
    "submit": "i2i-prior sweep submit sweeps/isoflop --backend local:slots=2",
    "status": "i2i-prior sweep status sweeps/isoflop --watch",
    "retry": "i2i-prior sweep retry sweeps/isoflop --failed",
    "cancel": "i2i-prior sweep cancel sweeps/isoflop w192-1e13",
    "logs": "i2i-prior sweep logs sweeps/isoflop w192-1e13 --follow",
    "collect": "i2i-prior sweep collect sweeps/isoflop",
    "run": "i2i-prior sweep run sweeps/isoflop w192-1e13-0c1f2e3d",
}


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Adds the verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, help_text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=help_text,
            allow_abbrev=False,
            description=help_text,
            epilog=f"example: {_EXAMPLES[name]}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    add_plan(add("plan", "Say what a sweep would cost, and write its folder."))
    _add_submit(add("submit", "Start what is neither done nor under way."))
    command = add("status", "Where each run stands, by its files.")
    _sweep(command)
    command.add_argument(
        "--watch", action="store_true", help="until it is over, or Ctrl-C"
    )
    command.add_argument(
        "--all", action="store_true", help="list every run of a large sweep"
    )
    command.add_argument(
        "--html", action="store_true", help="write SWEEP/status.html, too"
    )
    command.add_argument("--json", action="store_true", help="for scripts")
    command = add("retry", "Start runs again that failed or were cancelled.")
    _sweep(command)
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--failed", action="store_true", help="all that failed for good"
    )
    which.add_argument(
        "--ids", nargs="+", metavar="RUN", help="ids, or how they begin"
    )
    _backend(command, "else as they were submitted")
    command = add("cancel", "Stop runs, which save first; none starts again.")
    _sweep(command)
    command.add_argument(
        "ids", nargs="*", metavar="RUN", help="else all that have not ended"
    )
    command = add("logs", "What a run said.")
    _sweep(command)
    command.add_argument("run", metavar="RUN", help="id, or how it begins")
    command.add_argument(
        "--follow", action="store_true", help="go on until it ends, or Ctrl-C"
    )
    command.add_argument("--attempt", type=int, metavar="N", help="else last")
    command.add_argument("--lines", type=int, default=40, help="from the end")
    add_collect(add("collect", "Write results.csv of a sweep."))
    command = add("run", "One attempt at a run: engines start this.")
    _sweep(command)
    command.add_argument("run", metavar="RUN", help="id")


def _add_submit(command: argparse.ArgumentParser) -> None:
    _sweep(command)
    command.add_argument(
        "--config",
        metavar="FILE[:ARGS]",
        help="plan this sweep file into SWEEP first",
    )
    _backend(command, "else the one before")
    command.add_argument(
        "--only", metavar="PATTERN", help="names like it, as 'w192-*'"
    )
    command.add_argument(
        "--max-attempts",
        type=int,
        metavar="N",
        help="failures after which a run is given up, else 3 or as before",
    )
    command.add_argument(
        "--hang-minutes",
        type=float,
        metavar="M",
        help="of silence after which a run is started again, else 30 or as "
        "before; a long compilation is silent, too",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be started; a --config is planned all the same",
    )


def _sweep(command: argparse.ArgumentParser) -> None:
    command.add_argument("sweep", metavar="SWEEP", help="its folder")


def _backend(command: argparse.ArgumentParser, otherwise: str) -> None:
    command.add_argument(
        "--backend",
        metavar="NAME[:KEY=VALUE,...]",
        help=f"local, slurm, gke, tpu_vm, sky or a launch FILE.py, {otherwise}",
    )
