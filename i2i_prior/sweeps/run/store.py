"""Folder of a sweep: planned runs and the paths of their files.

    sweep.json        facts of the sweep and of its plan
    runs.jsonl        one line a planned run
    configs/ID.json   the whole config of a run, frozen when it was planned
    runs/ID/          its run directory, written by the trainer alone
    attempts/ID/      written by its launchers: events.jsonl, log-N.txt, lock

All machines of a sweep share the folder's file system. Nothing here imports
JAX.
"""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.errors import UserError
from i2i_prior.io.disk import write_errors
from i2i_prior.io.files import write_bytes

SCHEMA = 1
METRIC = "validation/ema_uniform"
PROGRAM = (sys.executable, "-m", "i2i_prior.cli")


class BrokenSweepError(UserError):
    """Raised for torn files of a sweep; planning it again writes them."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep."""

    id: str  # NAME-HASH: the same config in the same place has the same id
    name: str  # its values on the sweep's axes, as "w192-1e13"
    config_hash: str  # 8 hex digits over the config without its name
    role: str  # "fit", "holdout" (laws must predict it), or "tune"
    labels: dict[str, Any]  # axis -> value: {"size": "w192", "budget": 1e13}
    overrides: dict[str, Any]  # fields that differ from the base config
    parameters: int  # trained ones, N of the laws
    steps: int  # optimizer updates
    examples: int  # images seen, steps x batch
    tokens: int  # latent tokens seen, D of the laws
    flops: float  # of training the trained networks, C of the laws
    model_flops: float  # with frozen networks; the MFU is a share of these
    epochs: float | None = None  # examples over unique images, if known


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk."""

    path: Path  # its folder, absolute
    facts: dict[str, Any]  # of sweep.json: name, source (a SPEC), metric, ...
    runs: list[PlannedRun] = field(default_factory=list)  # as planned

    @property
    def name(self) -> str:
        """Name in reports."""
        return str(self.facts["name"])

    @property
    def metric(self) -> str:
        """Metric that laws are fitted to, a key of result.json's metrics."""
        return str(self.facts.get("metric", METRIC))

    @property
    def quoted(self) -> str:
        """Path quoted for a shell."""
        return shlex.quote(str(self.path))

    def run(self, run_id: str) -> PlannedRun:
        """Finds a run by its id or its beginning. Raises UserError."""
        found = [run for run in self.runs if run.id.startswith(run_id)]
        exact = [run for run in found if run.id == run_id]
        if len(exact or found) != 1:
            what = f"{len(found)} runs" if found else "no run"
            raise UserError(
                f"{self.path} has {what} whose id begins with {run_id!r}; "
                f"`i2i-prior sweep status {self.path}` lists them"
            )
        return (exact or found)[0]

    def config(self, run_id: str) -> Path:
        """Frozen config of a run."""
        return self.path / "configs" / f"{run_id}.json"

    def workdir(self, run_id: str) -> Path:
        """Run directory of a run."""
        return self.path / "runs" / run_id

    def attempts(self, run_id: str) -> Path:
        """Folder of a run that its launchers write."""
        return self.path / "attempts" / run_id

    def run_lock(self, run_id: str) -> Path:
        """Lock of the process that trains a run."""
        return self.attempts(run_id) / "lock"

    def train_command(self, run_id: str) -> list[str]:
        """Command that trains a run, and resumes it."""
        return [
            *(*PROGRAM, "train", "--config", str(self.config(run_id))),
            *("--workdir", str(self.workdir(run_id))),
        ]

    def attempt_command(self, run_id: str) -> list[str]:
        """Command that an engine starts for a run, on each of its hosts.

        Exit codes: 0 done; 75 start it again (a signal came, or it failed
        and may be retried); any other is final, and 65 is a divergence. See
        `attempt`.
        """
        return [*PROGRAM, "sweep", "run", str(self.path), run_id]


def open_sweep(path: str | Path) -> Sweep:
    """Reads a sweep's folder; UserError where it is no sweep, or of a newer
    version, BrokenSweepError where its files cannot be read."""
    folder = Path(path).absolute()
    if not (folder / "sweep.json").exists():
        raise UserError(
            f"{path} is no sweep; make one with i2i-prior sweep plan "
            f"--config configs/sweeps/NAME.py --out {shlex.quote(str(path))}"
        )
    file = folder / "sweep.json"
    try:
        facts = json.loads(file.read_text())
        schema = facts["schema"]
        if schema == SCHEMA:
            facts["name"]  # required by all reports
            file = folder / "runs.jsonl"
            lines = file.read_text().splitlines()
            runs = [PlannedRun(**json.loads(line)) for line in lines]
            if not runs:
                raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenSweepError(
            f"{file} cannot be read ({type(error).__name__}: {error}); plan "
            "the sweep again into the same folder"
        ) from error
    if schema != SCHEMA:
        raise UserError(
            f"{path} is a sweep of schema {schema}, and this version reads "
            f"{SCHEMA}; use the version that planned it"
        )
    return Sweep(folder, facts, runs)


def save_sweep(sweep: Sweep) -> None:
    """Writes sweep.json and runs.jsonl, the former last. Raises UserError."""
    sweep.path.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(vars(run)) for run in sweep.runs]
    file = sweep.path / "runs.jsonl"
    with write_errors(file, "choose another --out"):
        write_bytes(file, "".join(f"{line}\n" for line in lines).encode())
    write_json(
        sweep.path / "sweep.json",
        {"schema": SCHEMA, **sweep.facts},
        "choose another --out",
    )
