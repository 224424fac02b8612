"""Writes a plan into a sweep's folder: adds its new runs, loses none."""

import contextlib
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from i2i_prior.config.config import current
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.locks import exclusive
from i2i_prior.sweeps.run.store import (
    BrokenSweepError,
    PlannedRun,
    Sweep,
    open_sweep,
    save_sweep,
)
from i2i_prior.sweeps.spec.plan import Plan

UNCHANGED = "all as before"
_REMEDY = "choose another --out"


def write_plan(
    made: Plan, out: Path, facts: dict[str, Any], replace: bool
) -> tuple[Sweep, str]:
    """Writes the new runs of a plan; runs/ and attempts/ stay as they are.

    `out`, the sweep's folder, is made if absent; `facts` are those of
    sweep.json. `replace` drops planned runs that the plan no longer has, if
    none of them was ever submitted. Returns the sweep, and a description of the
    changes, or `UNCHANGED`. UserError where the folder holds something else,
    would lose a run, or cannot be written.
    """
    _refuse_other_folder(out)
    with exclusive(out):
        before = Sweep(out.absolute(), {})
        if (out / "sweep.json").exists():
            with contextlib.suppress(BrokenSweepError):
                before = open_sweep(out)
        old = {run.id: run for run in before.runs}
        new = {run.id: run for run in made.runs}
        gone = [run for run in before.runs if run.id not in new]
        _check_strays(before, old.keys() | new.keys())
        if gone:
            _check_dropped(before, gone, replace)
        for run_id in new.keys() & old.keys():
            _check_frozen(before.config(run_id), made.configs[run_id])
        with write_errors(out / "configs", _REMEDY):
            (out / "configs").mkdir(parents=True, exist_ok=True)
        for run_id in new:
            file = before.config(run_id)
            # A folder that lost a config gets it back. One that a kill cuts
            # is in no plan, and made again.
            if run_id not in old or not file.exists():
                with write_errors(file, _REMEDY):
                    text = json.dumps({"config": made.configs[run_id]})
                    file.write_text(f"{text}\n")
        if before.runs == made.runs:
            return before, UNCHANGED
        sweep = Sweep(before.path, {**before.facts, **facts}, made.runs)
        save_sweep(sweep)
        for run in gone:
            before.config(run.id).unlink(missing_ok=True)
    changes = f"{len(new.keys() - old.keys())} new"
    if old:
        changes += f", {len(old) - len(gone)} as before, {len(gone)} dropped"
    return sweep, changes


def _check_strays(before: Sweep, known: Set[str]) -> None:
    """Refuses a folder with runs that neither plan has, as of a torn one."""
    folders = before.path / "runs", before.path / "attempts"
    found = {path.name for folder in folders for path in folder.glob("*")}
    strays = sorted(found - known)
    if strays:
        raise UserError(
            f"{before.path} has runs of another plan ({strays[0]}); plan into "
            "another --out"
        )


def _refuse_other_folder(out: Path) -> None:
    if out.is_file():
        raise UserError(f"--out {out} is a file; choose a folder")
    if not out.is_dir() or (out / "sweep.json").exists():
        return
    # A first plan that was cut leaves configs and no sweep.json.
    ours = {"configs", "runs.jsonl"}
    names = {path.name for path in out.iterdir()} - ours
    others = [name for name in names if not name.startswith(".")]
    if others:
        raise UserError(
            f"--out {out} holds other things ({others[0]}) and no sweep; "
            "choose a new folder"
        )


def _check_dropped(
    before: Sweep, gone: list[PlannedRun], replace: bool
) -> None:
    names = ", ".join(run.id for run in gone[:3])
    names += f" and {len(gone) - 3} more" * (len(gone) > 3)
    started = [
        run
        for run in gone
        if before.workdir(run.id).exists() or before.attempts(run.id).exists()
    ]
    if started:
        raise UserError(
            f"{before.path} has runs that this plan has not, and "
            f"{len(started)} of them were submitted ({started[0].id}); plan "
            "into another --out"
        )
    if not replace:
        raise UserError(
            f"{before.path} has runs that this plan has not ({names}); plan "
            "into another --out, or drop them with --replace"
        )


def _check_frozen(file: Path, planned: Mapping[str, Any]) -> None:
    """Checks that a frozen config agrees with the plan of the same id."""
    try:
        frozen = json.loads(file.read_text())["config"].items()
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); remove it and plan again"
        ) from error
    known = dict(current(name, value) for name, value in frozen)
    for name, value in planned.items():
        if known.get(name, value) != value:
            raise UserError(
                f"{file} has {name} {known[name]!r}, where this version "
                f"plans {value!r} for the same run; plan into another --out"
            )
