"""What the launch files of clusters share: names, commands, rendered files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import atomic_path
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

# Kubernetes adds "-run-0-0-xxxxx" to it, and stops at 63.
LONGEST = 40


def short_name(text: str, longest: int = LONGEST) -> str:
    """A name that every engine takes: [a-z0-9-], beginning with a letter.

    What had to be changed gets 8 hex digits of a digest of the whole, so that
    two names stay two.

    Args:
      text: any name, as a run's id.
      longest: characters it may have.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"r-{name}".rstrip("-")
    if name != text or len(name) > longest:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{name[: longest - 9].rstrip('-')}-{digest}"
    return name


def place(sweep: Sweep) -> str:
    """6 hex digits of where a sweep lies; all its jobs' names end so.

    Of the folder itself: by way of a link it is the same sweep.
    """
    folder = str(sweep.path.resolve())
    return hashlib.sha256(folder.encode()).hexdigest()[:6]


def sweep_name(sweep: Sweep) -> str:
    """Of a sweep, in labels; two folders of one name are two sweeps."""
    name = str(sweep.facts.get("name", sweep.path.name))
    return f"{short_name(name, LONGEST - 7)}-{place(sweep)}"


def job_name(sweep: Sweep, run: PlannedRun) -> str:
    """Of a run, on an engine: the same each time, so nothing starts twice.

    Another sweep of the same configs trains in its own folder: it is another
    job.
    """
    return f"{short_name(run.id, LONGEST - 7)}-{place(sweep)}"


def attempt_command(
    sweep: Sweep, run: PlannedRun, path: str, python: str
) -> list[str]:
    """`Sweep.attempt_command` on a machine where things lie elsewhere.

    Args:
      sweep: as it is seen here.
      run: one of its runs.
      path: the sweep's folder there; "" for the same as here.
      python: the Python there.
    """
    there = dataclasses.replace(sweep, path=Path(path or sweep.path))
    return [python, *there.attempt_command(run.id)[1:]]


def render(sweep: Sweep, engine: str, name: str, text: str) -> Path:
    """Writes SWEEP/rendered/ENGINE/NAME, whole or not at all.

    Raises:
      UserError: where it cannot be written.
    """
    file = sweep.path / "rendered" / engine / name
    with write_errors(file, "free space, or make the sweep's folder writable"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as beside:
            beside.write_text(text)
    return file


def as_yaml(value: Any) -> str:
    """Plain values as YAML that a person reads: blocks, and no anchors."""
    import yaml

    class Readable(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def represent_str(self, data: str) -> yaml.Node:
            style = "|" if "\n" in data else None
            return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    Readable.add_representer(str, Readable.represent_str)
    return yaml.dump(value, Dumper=Readable, sort_keys=False)


def call(
    command: Sequence[str], install: str, harmless: Sequence[str] = ()
) -> str:
    """Runs an engine's command line.

    Args:
      command: argv.
      install: how one gets the program, for the message where it is absent.
      harmless: what its stderr may say when it fails, as "already exists".

    Returns:
      its stdout.

    Raises:
      UserError: where it is absent or fails otherwise.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise UserError(
            f"{command[0]} cannot be started ({error.strerror}); {install}"
        ) from error
    failed = done.returncode != 0
    if failed and not any(text in done.stderr for text in harmless):
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why = words[-1] if words else "it does not say why"
        raise UserError(
            f"{shlex.join(command[:4])} ... failed with exit code "
            f"{done.returncode}: {why}"
        )
    return done.stdout


def submitted(sweep: Sweep, run: PlannedRun, backend: str, job: str) -> None:
    """Notes that an engine has a run.

    Args:
      sweep: whose run it is.
      run: the run.
      backend: the engine's launch file, without .py.
      job: the engine's name of it.
    """
    try:
        events.append(
            sweep.attempts(run.id), "submitted", backend=backend, job=job
        )
    except UserError as error:
        # It is on its way, and so are those that are yet to be noted.
        what = f"{run.id} is with {backend} {job}".rstrip()
        print(f"{what}, which is not noted: {error}", file=sys.stderr)


def jobs(
    sweep: Sweep, runs: Iterable[PlannedRun], backend: str
) -> dict[str, str]:
    """The engine's names of runs, by id; of the last time each was submitted.

    Runs that were never submitted to it are left out.
    """
    found = {}
    for run in runs:
        for event in events.read(sweep.attempts(run.id)):
            if event["event"] == "submitted" and event["backend"] == backend:
                found[run.id] = str(event["job"])
    return found


def require(backend: str, **options: object) -> None:
    """Raises UserError for options that have no value and need one."""
    missing = [name for name, value in options.items() if not value]
    if missing:
        raise UserError(
            f"--backend {backend} needs {', '.join(missing)}; write "
            f"--backend {backend}:{','.join(f'{m}=...' for m in missing)}"
        )
