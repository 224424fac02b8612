"""Helpers of the launch files: names, commands, rendered files, events."""

import dataclasses
import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import write_bytes
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

# Kubernetes appends "-run-0-0-xxxxx" to a name, and allows 63 characters.
LONGEST = 40


def short_name(text: str, longest: int = LONGEST) -> str:
    """Makes a name for any engine: [a-z0-9-], beginning with a letter.

    A name that had to be changed gets 8 hex digits of a digest of the whole,
    so that two names stay different.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"r-{name}".rstrip("-")
    if name != text or len(name) > longest:
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{name[: longest - 9].rstrip('-')}-{digest}"
    return name


def path_digest(sweep: Sweep) -> str:
    """6 hex digits of a sweep's resolved path, the end of its jobs' names."""
    folder = str(sweep.path.resolve())
    return hashlib.sha256(folder.encode()).hexdigest()[:6]


def sweep_name(sweep: Sweep) -> str:
    """Name of a sweep in labels; each folder has another."""
    name = str(sweep.facts.get("name", sweep.path.name))
    return f"{short_name(name, LONGEST - 7)}-{path_digest(sweep)}"


def job_name(sweep: Sweep, run: PlannedRun) -> str:
    """Name of a run on an engine: always the same, so it starts only once.

    The same run of a sweep in another folder is another job.
    """
    return f"{short_name(run.id, LONGEST - 7)}-{path_digest(sweep)}"


def attempt_command(
    sweep: Sweep, run: PlannedRun, path: str, python: str
) -> list[str]:
    """`Sweep.attempt_command` where the sweep lies at `path` ("" for here)."""
    there = dataclasses.replace(sweep, path=Path(path or sweep.path))
    return [python, *there.attempt_command(run.id)[1:]]


def read_setup(options: ConfigDict) -> str:
    """Reads the shell lines of the option `setup`. Raises UserError."""
    try:
        return Path(options.setup).read_text()
    except OSError as error:
        raise UserError(
            f"setup={options.setup} cannot be read ({error.strerror}); "
            "name a file of shell lines"
        ) from error


def render(sweep: Sweep, engine: str, name: str, text: str) -> Path:
    """Writes SWEEP/rendered/ENGINE/NAME atomically. Raises UserError."""
    file = sweep.path / "rendered" / engine / name
    with write_errors(file, "make the sweep's folder writable"):
        write_bytes(file, text.encode())
    return file


def as_yaml(value: Any) -> str:
    """Formats plain values as YAML with block text and without anchors."""
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
    """Runs an engine's command line; returns its stdout.

    `install` says how to get the program, for the message where it is absent;
    `harmless` has texts of stderr that make a failure no error, as "already
    exists". UserError where the program is absent or fails otherwise.
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
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        why = lines[-1] if lines else "it gives no reason"
        raise UserError(
            f"{shlex.join(command[:4])} ... failed with exit code "
            f"{done.returncode}: {why}"
        )
    return done.stdout


def note_submitted(
    sweep: Sweep, run: PlannedRun, backend: str, job: str
) -> None:
    """Notes in a run's events that an engine has it, under a name of `job`."""
    try:
        events.append(
            sweep.attempts(run.id), "submitted", backend=backend, job=job
        )
    except UserError as error:
        # The job exists, and further ones are to be noted.
        what = f"{run.id} is with {backend} {job}".rstrip()
        print(f"{what}, which is not noted: {error}", file=sys.stderr)


def jobs(
    sweep: Sweep, runs: Iterable[PlannedRun], backend: str
) -> dict[str, str]:
    """Jobs of the last submissions to a backend: id -> job."""
    return {
        run.id: str(event["job"])
        for run in runs
        for event in events.read(sweep.attempts(run.id))
        if event["event"] == "submitted" and event["backend"] == backend
    }


def hints(
    sweep: Sweep, runs: Iterable[PlannedRun], jobs: Mapping[str, str]
) -> dict[str, str]:
    """Result of `poll`, id -> state, from states of jobs by `job_name`."""
    return {run.id: jobs.get(job_name(sweep, run), "gone") for run in runs}


def require(backend: str, **options: object) -> None:
    """Raises UserError for options that have no value and need one."""
    missing = [name for name, value in options.items() if not value]
    if missing:
        raise UserError(
            f"--backend {backend} needs {', '.join(missing)}; write "
            f"--backend {backend}:{','.join(f'{m}=...' for m in missing)}"
        )
