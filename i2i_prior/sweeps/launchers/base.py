"""Engines that start runs: files of launch/, and what a sweep remembers.

A launch file has `OPTIONS` (key -> default) and three functions, where
`options` are `config.parse_arg`'s over OPTIONS:

    submit(sweep, runs, options, dry_run) -> exit code
    poll(sweep, runs, options) -> {id: "queued" | "running" | "gone"}
    cancel(sweep, runs, options) -> None

`submit` notes the runs that an engine has accepted: `engines.note_submitted`.

SWEEP/launch.json remembers how runs were submitted, so that status, retry and
cancel need not be told again, and how often and how long an attempt may fail.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.config import parse_arg
from i2i_prior.errors import UserError
from i2i_prior.io.python_files import running
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

FILE = "launch.json"
_NEEDED = ("OPTIONS", "submit", "poll", "cancel")
_KINDS: dict[type, Any] = {dict: dict, str: str, int: int, float: (int, float)}


@dataclass(frozen=True)
class Launch:
    """How the runs of a sweep are started.

    Attributes:
      backends: name -> what --backend was given last, with its options.
      last: the name of the one submitted to last; "" for none.
      max_attempts: failures after which a run is given up.
      hang_minutes: of silence after which an attempt counts as hung.
    """

    backends: dict[str, str] = field(default_factory=dict)
    last: str = ""
    max_attempts: int = 3
    hang_minutes: float = 30.0


def read_launch(sweep: Sweep) -> Launch:
    """What a sweep remembers; the defaults where it was never submitted.

    Raises:
      UserError: where the file is broken.
    """
    file = sweep.path / FILE
    if not file.exists():
        return Launch()
    try:
        launch = Launch(**json.loads(file.read_text()))
        # A person may have edited it.
        wrong = [
            name
            for name, value in vars(Launch()).items()
            if not isinstance(getattr(launch, name), _KINDS[type(value)])
        ]
        if wrong:
            raise TypeError(f"{wrong[0]} is {getattr(launch, wrong[0])!r}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{file} is not what this version writes ({error}); remove it and "
            "submit again with --backend"
        ) from error
    return launch


def write_launch(sweep: Sweep, launch: Launch) -> None:
    """Raises UserError where it cannot be written."""
    write_json(sweep.path / FILE, vars(launch))


@dataclass(frozen=True)
class Backend:
    """A launch file and its options."""

    name: str
    spec: str
    module: ModuleType
    options: ConfigDict

    def submit(
        self, sweep: Sweep, runs: Sequence[PlannedRun], dry_run: bool
    ) -> int:
        """Starts runs; see the module docstring."""
        return self.module.submit(sweep, list(runs), self.options, dry_run)

    def poll(self, sweep: Sweep, runs: Sequence[PlannedRun]) -> dict[str, str]:
        """What the engine knows of runs: a hint."""
        return self.module.poll(sweep, list(runs), self.options)

    def cancel(self, sweep: Sweep, runs: Sequence[PlannedRun]) -> None:
        """Takes runs off the engine."""
        self.module.cancel(sweep, list(runs), self.options)


def load_backend(spec: str) -> Backend:
    """Reads NAME[:key=value,...]; NAME is of launch/, or a path FILE.py.

    Raises:
      UserError: where there is none, it is no launch file, or an option is
        unknown.
    """
    path, dot, arg = spec.partition(".py:")
    if dot or spec.endswith(".py"):
        # Absolute: a sweep remembers it, and is asked about from elsewhere.
        file = Path(f"{path}.py" if dot else path).absolute()
        spec = f"{file}{dot[3:]}{arg}"
    else:
        name, _, arg = spec.partition(":")
        file = _find(name)
    if not file.is_file():
        raise UserError(
            f"there is no launch file {file}; --backend takes "
            f"{', '.join(known())}, or a path FILE.py"
        )
    with running("launch file", file) as module:
        missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise UserError(
            f"{file} is no launch file (it has no {', '.join(missing)}); "
            f"--backend takes {', '.join(known())}, or a path FILE.py"
        )
    options = parse_arg(arg, **module.OPTIONS)
    return Backend(file.stem, spec, module, options)


def known() -> list[str]:
    """Names of the launch files there are."""
    files = sorted(
        file for folder in _folders() for file in folder.glob("*.py")
    )
    return [file.stem for file in files if "\nOPTIONS" in file.read_text()]


def _find(name: str) -> Path:
    files = [folder / f"{name}.py" for folder in _folders()]
    return next((file for file in files if file.is_file()), files[0])


def _folders() -> list[Path]:
    """launch/ beside the package, else of the folder one is in."""
    beside = Path(__file__).parents[3] / "launch"
    return [beside if beside.is_dir() else Path("launch")]
