"""`i2i-prior sweep submit | retry | cancel`: hands runs to engines."""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import replace

from i2i_prior.errors import UserError
from i2i_prior.sweeps.backends import (
    Backend,
    Launch,
    load_backend,
    read_launch,
    write_launch,
)
from i2i_prior.sweeps.planning import plan_folder
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.state import (
    OVER,
    RunState,
    counts,
    poll_states,
    states,
)
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep

_SUBMITTED = ("planned", "stopped")


def submit(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs `i2i-prior sweep submit`; a second time it changes nothing."""
    if options.config:
        sweep = plan_folder(options.config, options.sweep, overrides, show=True)
    elif overrides:
        raise UserError(
            f"--config.{overrides[0]} changes a sweep that is being planned; "
            "give its --config FILE, or plan it again"
        )
    else:
        sweep = open_sweep(options.sweep)
    launch = read_launch(sweep)
    spec = options.backend or launch.backends.get(launch.last, "")
    launch, backend = _with_backend(sweep, launch, spec)
    for name in ("max_attempts", "hang_minutes"):
        if (value := getattr(options, name)) is not None:
            launch = replace(launch, **{name: value})
    if launch.max_attempts < 1 or not launch.hang_minutes > 0:
        raise UserError(
            f"--max-attempts {launch.max_attempts} and --hang-minutes "
            f"{launch.hang_minutes:g} must be at least 1 and above 0"
        )
    found, messages = poll_states(sweep, launch)
    _print_errors(messages)
    matching = [
        state
        for state in found
        if fnmatch.fnmatch(state.run.name, options.only or "*")
        or fnmatch.fnmatch(state.run.id, options.only or "*")
    ]
    if not matching:
        raise UserError(
            f"no run is named like {options.only!r}; i2i-prior sweep status "
            f"{sweep.quoted} --all lists them"
        )
    runs = [state.run for state in matching if state.state in _SUBMITTED]
    rest = [state for state in matching if state.state not in _SUBMITTED]
    print(
        f"{_count(runs)} to {backend.name}"
        + (f"; left as they are: {counts(rest)}" if rest else "")
    )
    if any(state.state in ("failed", "cancelled") for state in rest):
        print(
            "those that failed or were cancelled start again with: i2i-prior "
            f"sweep retry {sweep.quoted} --failed, or --ids RUN"
        )
    if not options.dry_run:
        write_launch(sweep, launch)
    return backend.submit(sweep, runs, options.dry_run) if runs else 0


def retry(options: argparse.Namespace) -> int:
    """Runs `i2i-prior sweep retry`: attempts are counted anew."""
    sweep = open_sweep(options.sweep)
    launch = read_launch(sweep)
    found, messages = poll_states(sweep, launch)
    _print_errors(messages)
    chosen = [state for state in found if state.state == "failed"]
    if not options.failed:
        chosen = _find_states(sweep, found, options.ids)
        for state in chosen:
            _check_retry(state)
    if not chosen:
        print("no run has failed")
        return 0
    groups: dict[str, list[PlannedRun]] = {}
    for state in chosen:
        spec = options.backend or launch.backends.get(
            state.backend, launch.backends.get(launch.last, "")
        )
        groups.setdefault(spec, []).append(state.run)
    # All of them are checked before anything is written.
    backends = {}
    for spec in groups:
        launch, backends[spec] = _with_backend(sweep, launch, spec)
    write_launch(sweep, launch)
    code = 0
    for spec, runs in groups.items():
        for run in runs:
            events.append(sweep.attempts(run.id), "retried")
        print(f"{_count(runs)} to {backends[spec].name} again")
        code = max(code, backends[spec].submit(sweep, runs, False))
    return code


def cancel(options: argparse.Namespace) -> int:
    """Runs `i2i-prior sweep cancel`: first in the files, then on engines."""
    sweep = open_sweep(options.sweep)
    launch = read_launch(sweep)
    found = states(sweep, launch)
    if options.ids:
        found = _find_states(sweep, found, options.ids)
    chosen = [state for state in found if state.state not in OVER]
    for state in chosen:
        events.append(sweep.attempts(state.run.id), "cancelled")
    errors = []
    for name, spec in launch.backends.items():
        runs = [state.run for state in chosen if state.backend == name]
        try:
            if runs:
                load_backend(spec).cancel(sweep, runs)
        except UserError as error:  # the other engines are called all the same
            errors.append(f"error: {name} did not cancel ({error})")
    over = [state for state in found if state.state in OVER]
    print(
        f"{_count(chosen)} cancelled"
        + ("; running ones save first" if chosen else "")
        + (f"; over already: {counts(over)}" if over else "")
    )
    _print_errors(errors)
    return int(bool(errors))


def find_state(sweep: Sweep, found: Sequence[RunState], name: str) -> RunState:
    """Finds a run by its name, or as `Sweep.run` does. Raises UserError."""
    exact = [state for state in found if state.run.name == name]
    if len(exact) != 1:
        run = sweep.run(name)
        exact = [state for state in found if state.run.id == run.id]
    return exact[0]


def _find_states(
    sweep: Sweep, found: Sequence[RunState], names: Sequence[str]
) -> list[RunState]:
    """Finds runs, each once however often it is named."""
    chosen = [find_state(sweep, found, name) for name in names]
    return list({state.run.id: state for state in chosen}.values())


def _count(runs: Sequence[object]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"


def _with_backend(
    sweep: Sweep, launch: Launch, spec: str
) -> tuple[Launch, Backend]:
    """Loads a backend, and adds it to the launch settings."""
    if not spec:
        raise UserError(
            f"{sweep.path} was never submitted; name a backend, as --backend "
            "local"
        )
    backend = load_backend(spec)
    backends = {**launch.backends, backend.name: backend.spec}
    return replace(launch, backends=backends, last=backend.name), backend


def _check_retry(state: RunState) -> None:
    """Raises UserError unless a run can be retried."""
    if state.state == "diverged":
        raise UserError(
            f"{state.run.id} diverged, and would again with the same seed; it "
            "counts as a point of the sweep: plan it with other fields instead"
        )
    if state.state not in ("failed", "cancelled", "stopped"):
        raise UserError(
            f"{state.run.id} is {state.state}; retry is for runs that failed "
            "or were cancelled"
        )


def _print_errors(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)
