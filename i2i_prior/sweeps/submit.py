"""`i2i-prior sweep submit | retry | cancel`."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launchers.base import (
    Backend,
    Launch,
    load_backend,
    read_launch,
    write_launch,
)
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.state import (
    OVER,
    STATES,
    RunState,
    states,
    with_hints,
)
from i2i_prior.sweeps.run.store import PlannedRun, Sweep, open_sweep

_SUBMITTED = ("planned", "stopped")
UNDER_WAY = ("queued", "retrying", "running")


def submit(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """`i2i-prior sweep submit`: twice does no more than once."""
    if options.config:
        from i2i_prior.sweeps.planning import plan_folder

        sweep = plan_folder(options.config, options.sweep, overrides, show=True)
    elif overrides:
        raise UserError(
            f"--config.{overrides[0]} changes a sweep that is being planned; "
            "give its --config FILE, or plan it again"
        )
    else:
        sweep = open_sweep(options.sweep)
    launch, backend = _launch(sweep, options)
    found, troubles = look(sweep, launch)
    _say_all(troubles)
    wanted = [state for state in found if _like(state.run, options.only)]
    if not wanted:
        raise UserError(
            f"no run is named like {options.only!r}; i2i-prior sweep status "
            f"{sweep.quoted} --all lists them"
        )
    runs = [state.run for state in wanted if state.state in _SUBMITTED]
    rest = [state for state in wanted if state.state not in _SUBMITTED]
    print(
        f"{number(len(runs))} to {backend.name}"
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
    """`i2i-prior sweep retry`: attempts count anew."""
    sweep = open_sweep(options.sweep)
    launch = read_launch(sweep)
    found, troubles = look(sweep, launch)
    _say_all(troubles)
    if options.failed:
        chosen = [state for state in found if state.state == "failed"]
    else:
        chosen = _chosen(sweep, found, options.ids)
        for state in chosen:
            _refuse(state)
    if not chosen:
        print("no run has failed")
        return 0
    groups: dict[str, list[PlannedRun]] = {}
    for state in chosen:
        spec = options.backend or launch.backends.get(
            state.backend, launch.backends.get(launch.last, "")
        )
        groups.setdefault(spec, []).append(state.run)
    # All of them are looked at before anything is written.
    backends = {spec: _backend(sweep, spec) for spec in groups}
    for backend in backends.values():
        launch = _remembering(launch, backend)
    write_launch(sweep, launch)
    code = 0
    for spec, runs in groups.items():
        for run in runs:
            events.append(sweep.attempts(run.id), "retried")
        print(f"{number(len(runs))} to {backends[spec].name} again")
        code = max(code, backends[spec].submit(sweep, runs, False))
    return code


def cancel(options: argparse.Namespace) -> int:
    """`i2i-prior sweep cancel`: the files say so first, then the engines."""
    sweep = open_sweep(options.sweep)
    launch = read_launch(sweep)
    found = states(sweep, launch)
    if options.ids:
        found = _chosen(sweep, found, options.ids)
    chosen = [state for state in found if state.state not in OVER]
    for state in chosen:
        events.append(sweep.attempts(state.run.id), "cancelled")
    troubles = []
    for name, spec in launch.backends.items():
        runs = [state.run for state in chosen if state.backend == name]
        try:
            if runs:
                load_backend(spec).cancel(sweep, runs)
        except UserError as error:  # the others are to hear of it, too
            troubles.append(f"error: {name} was not told ({error})")
    left = [state for state in found if state.state in OVER]
    print(
        f"{number(len(chosen))} cancelled"
        + ("; what runs saves first" if chosen else "")
        + (f"; over already: {counts(left)}" if left else "")
    )
    _say_all(troubles)
    return int(bool(troubles))


def look(
    sweep: Sweep, launch: Launch | None = None
) -> tuple[list[RunState], list[str]]:
    """States by files and engines, and which engines did not answer."""
    launch = launch or read_launch(sweep)
    found = states(sweep, launch)
    hints: dict[str, str] = {}
    troubles = []
    for name, spec in launch.backends.items():
        runs = [
            state.run
            for state in found
            if state.backend == name and state.state in UNDER_WAY
        ]
        if not runs:
            continue
        try:
            hints |= load_backend(spec).poll(sweep, runs)
        except Exception as error:  # a launch file is a program
            troubles.append(f"{name} was not asked, only files ({error})")
    gone = {name for name, hint in hints.items() if hint == "gone"}
    if gone:
        # They may have ended, as their files say now, before it was asked.
        runs = [run for run in sweep.runs if run.id in gone]
        again = states(replace(sweep, runs=runs), launch)
        newer = {state.run.id: state for state in again}
        found = [newer.get(state.run.id, state) for state in found]
    return with_hints(found, hints), troubles


def counts(found: Iterable[RunState]) -> str:
    """ "2 failed, 3 running, 12 done"; those of none are left out."""
    each = Counter(state.state for state in found)
    return ", ".join(f"{each[s]} {s}" for s in STATES if each[s])


def number(runs: int) -> str:
    """ "1 run", "2 runs"."""
    return f"{runs} run" + "s" * (runs != 1)


def _launch(
    sweep: Sweep, options: argparse.Namespace
) -> tuple[Launch, Backend]:
    """What is remembered, with what the options change."""
    launch = read_launch(sweep)
    spec = options.backend or launch.backends.get(launch.last, "")
    backend = _backend(sweep, spec)
    launch = _remembering(launch, backend)
    if options.max_attempts is not None:
        launch = replace(launch, max_attempts=options.max_attempts)
    if options.hang_minutes is not None:
        launch = replace(launch, hang_minutes=options.hang_minutes)
    if launch.max_attempts < 1 or not launch.hang_minutes > 0:
        raise UserError(
            f"--max-attempts {launch.max_attempts} and --hang-minutes "
            f"{launch.hang_minutes:g} must be at least 1 and above 0"
        )
    return launch, backend


def _remembering(launch: Launch, backend: Backend) -> Launch:
    backends = {**launch.backends, backend.name: backend.spec}
    return replace(launch, backends=backends, last=backend.name)


def _backend(sweep: Sweep, spec: str) -> Backend:
    if not spec:
        raise UserError(
            f"{sweep.path} was never submitted; say where to, as --backend "
            "local"
        )
    return load_backend(spec)


def _like(run: PlannedRun, pattern: str | None) -> bool:
    names = run.name, run.id
    return not pattern or any(fnmatch.fnmatch(n, pattern) for n in names)


def _chosen(
    sweep: Sweep, found: Sequence[RunState], names: Sequence[str]
) -> list[RunState]:
    """Each once, however often it is named."""
    chosen = [named(sweep, found, name) for name in names]
    return list({state.run.id: state for state in chosen}.values())


def named(sweep: Sweep, found: Sequence[RunState], name: str) -> RunState:
    """By id, by how it begins, or by name."""
    exact = [state for state in found if state.run.name == name]
    if len(exact) == 1:
        return exact[0]
    run = sweep.run(name)
    return next(state for state in found if state.run.id == run.id)


def _refuse(state: RunState) -> None:
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


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)
