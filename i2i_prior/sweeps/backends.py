"""Launch files, which start runs on engines, and settings of a sweep.

A launch file has `OPTIONS` (key -> default) and three functions, where
`options` are `config.parse_arg`'s over OPTIONS:

    submit(sweep, runs, options, dry_run) -> exit code
    poll(sweep, runs, options) -> {id: "queued" | "running" | "gone"}
    cancel(sweep, runs, options) -> None

`submit` notes the runs that an engine accepts: `engines.note_submitted`.

SWEEP/launch.json keeps the backends that runs were submitted to, for status,
retry and cancel, and the limits of attempts.
"""

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
    """Launch settings of a sweep."""

    # name -> its last --backend, with options
    backends: dict[str, str] = field(default_factory=dict)
    last: str = ""  # name of the one submitted to last
    max_attempts: int = 3  # failures after which a run is given up
    hang_minutes: float = 30.0  # of silence: then an attempt counts as hung


def read_launch(sweep: Sweep) -> Launch:
    """Reads the settings, or the defaults. Raises UserError if broken."""
    file = sweep.path / FILE
    if not file.exists():
        return Launch()
    try:
        launch = Launch(**json.loads(file.read_text()))
        # A person may have edited it.
        for name, default in vars(Launch()).items():
            value = getattr(launch, name)
            if not isinstance(value, _KINDS[type(default)]):
                raise TypeError(f"{name} is {value!r}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{file} is not what this version writes ({error}); remove it and "
            "submit again with --backend"
        ) from error
    return launch


def write_launch(sweep: Sweep, launch: Launch) -> None:
    """Writes the settings. Raises UserError if they cannot be written."""
    write_json(
        sweep.path / FILE, vars(launch), "make the sweep's folder writable"
    )


@dataclass(frozen=True)
class Backend:
    """Launch file with its options."""

    name: str  # of the file, without .py
    spec: str  # NAME[:key=value,...], as --backend takes it from any folder
    module: ModuleType  # the file
    options: ConfigDict  # values of its OPTIONS

    def submit(
        self, sweep: Sweep, runs: Sequence[PlannedRun], dry_run: bool
    ) -> int:
        """Starts runs; see the module docstring."""
        return self.module.submit(sweep, list(runs), self.options, dry_run)

    def poll(self, sweep: Sweep, runs: Sequence[PlannedRun]) -> dict[str, str]:
        """Asks the engine for the states of runs."""
        return self.module.poll(sweep, list(runs), self.options)

    def cancel(self, sweep: Sweep, runs: Sequence[PlannedRun]) -> None:
        """Removes runs from the engine."""
        self.module.cancel(sweep, list(runs), self.options)


def load_backend(spec: str) -> Backend:
    """Loads NAME[:key=value,...]; NAME is of launch/, or a path FILE.py.

    UserError where there is no such launch file, or an option is unknown.
    """
    path, dot, arg = spec.partition(".py:")
    if dot or spec.endswith(".py"):
        # Absolute: the sweep may be polled from another folder.
        file = Path(f"{path}.py" if dot else path).absolute()
        spec = f"{file}{dot[3:]}{arg}"
    else:
        name, _, arg = spec.partition(":")
        file = _folder() / f"{name}.py"
    choices = f"--backend takes {', '.join(_names())}, or a path FILE.py"
    if not file.is_file():
        raise UserError(f"there is no launch file {file}; {choices}")
    with running("launch file", file) as module:
        missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise UserError(
            f"{file} is no launch file (it has no {', '.join(missing)}); "
            f"{choices}"
        )
    options = parse_arg(arg, **module.OPTIONS)
    return Backend(file.stem, spec, module, options)


def _names() -> list[str]:
    """Names of the launch files in launch/."""
    files = sorted(_folder().glob("*.py"))
    return [file.stem for file in files if "\nOPTIONS" in file.read_text()]


def _folder() -> Path:
    """launch/ next to the package, else in the working directory."""
    folder = Path(__file__).parents[2] / "launch"
    return folder if folder.is_dir() else Path("launch")
