"""`i2i-prior sweep VERB`: plans many runs, starts, watches, collects them."""

import argparse

from i2i_prior.commands import common

EXAMPLE = (
    "i2i-prior sweep submit sweeps/isoflop --config configs/sweeps/isoflop.py "
    "--backend local:slots=2"
)
OVERRIDES = True

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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the verbs with their options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def command(name: str, help_text: str) -> argparse.ArgumentParser:
        made = common.add_command(verbs, name, help_text, _EXAMPLES[name])
        if name != "plan":
            made.add_argument("sweep", metavar="SWEEP", help="its folder")
        return made

    _add_plan(
        command("plan", "Print the cost of a sweep, and write its folder.")
    )
    _add_submit(
        command("submit", "Start the runs that are neither done nor running.")
    )
    add = command("status", "Show the state of each run.").add_argument
    add("--watch", action="store_true", help="until it is over, or Ctrl-C")
    add("--all", action="store_true", help="list every run of a large sweep")
    add("--html", action="store_true", help="write SWEEP/status.html, too")
    add("--json", action="store_true", help="for scripts")
    retry = command("retry", "Start runs again that failed or were cancelled.")
    add = retry.add_mutually_exclusive_group(required=True).add_argument
    add("--failed", action="store_true", help="all that failed for good")
    add("--ids", nargs="+", metavar="RUN", help="ids, or their beginnings")
    _add_backend(retry, "else as they were submitted")
    cancel = command(
        "cancel", "Stop runs, which save first; none starts again."
    )
    cancel.add_argument(
        "ids", nargs="*", metavar="RUN", help="else all that have not ended"
    )
    add = command("logs", "Print the log of a run.").add_argument
    add("run", metavar="RUN", help="id, or its beginning")
    add("--follow", action="store_true", help="go on until it ends, or Ctrl-C")
    add("--attempt", type=int, metavar="N", help="else last")
    add("--lines", type=int, default=40, help="from the end")
    add = command("collect", "Write results.csv of a sweep.").add_argument
    add("--out", metavar="FILE.csv", help="else SWEEP/results.csv")
    add("--metric", help="of the loss column, else the sweep's own")
    add = command(
        "run", "Run one attempt at a run, as engines do."
    ).add_argument
    add("run", metavar="RUN", help="id")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="FILE[:ARGS]",
        help="sweep file, as configs/sweeps/isoflop.py:budgets=1e12+2e12",
    )
    add("--out", metavar="SWEEP", help="its folder; without it, only print")
    add(
        "--replace",
        action="store_true",
        help="drop planned runs that the plan no longer has, if none of them "
        "was submitted",
    )
    add("--all", action="store_true", help="print every run of a long plan")
    add(
        "--images",
        type=int,
        help="unique training images, else counted if they are local",
    )
    group = parser.add_argument_group("hours and cost")
    common.add_machine(group)
    group.add_argument(
        "--price-per-chip-hour", type=float, metavar="P", help="adds the cost"
    )


def _add_submit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--config",
        metavar="FILE[:ARGS]",
        help="plan this sweep file into SWEEP first",
    )
    _add_backend(parser, "else the one before")
    add("--only", metavar="PATTERN", help="names like it, as 'w192-*'")
    add(
        "--max-attempts",
        type=int,
        metavar="N",
        help="failures after which a run is given up, else 3 or as before",
    )
    add(
        "--hang-minutes",
        type=float,
        metavar="M",
        help="of silence after which a run is started again, else 30 or as "
        "before; a long compilation is silent, too",
    )
    add(
        "--dry-run",
        action="store_true",
        help="print what would be started; a --config is planned nevertheless",
    )


def _add_backend(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME[:KEY=VALUE,...]",
        help=f"local, slurm, gke, tpu_vm, sky or a launch FILE.py, {otherwise}",
    )


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Runs `options.verb`; plan and submit take overrides."""
    from i2i_prior.sweeps import collect, planning, submit, watch
    from i2i_prior.sweeps.run import attempt

    planning_verbs = {"plan": planning.plan, "submit": submit.submit}
    if options.verb in planning_verbs:
        return planning_verbs[options.verb](options, overrides)
    common.refuse_overrides(overrides)
    verbs = {
        "status": watch.status,
        "retry": submit.retry,
        "cancel": submit.cancel,
        "logs": watch.logs,
        "collect": collect.collect,
        "run": attempt.run,
    }
    return verbs[options.verb](options)
