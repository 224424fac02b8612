"""Planned runs, and programs that stand in for engines."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from i2i_prior.sweeps.run.store import PlannedRun, Sweep

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


def planned(run_id: str, steps: int = 6) -> PlannedRun:
    """A run of a plan; no test here looks at its numbers."""
    name, _, digest = run_id.rpartition("-")
    return PlannedRun(
        *(run_id, name, digest, "fit", {}, {}),
        *(1000, steps, 8 * steps, 32 * steps, 1e6, 1e6),
    )


class StandIn:
    """Program that records its calls and runs a shell text of a test."""

    def __init__(self, folder: Path, name: str) -> None:
        self.calls_file = folder / f"{name}.calls"
        self.answer_file = folder / f"{name}.answer"
        program = folder / name
        program.write_text(
            "#!/bin/sh\n"
            f'for each in "$@"; do printf "%s\\0" "$each"; done '
            f">> {self.calls_file}\n"
            f'printf "\\n" >> {self.calls_file}\n'
            f"[ ! -e {self.answer_file} ] || . {self.answer_file}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def answers(self, shell: str) -> None:
        """Sets the shell text that later calls run."""
        self.answer_file.write_text(shell + "\n")

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of each call so far."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().split("\0\n")[:-1]
        return [line.split("\0") for line in lines]


def submitted(sweep: Sweep, run: PlannedRun) -> list[tuple[str, str]]:
    """Backend and job of each submission of a run."""
    file = sweep.attempts(run.id) / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    events = [json.loads(line) for line in lines]
    return [
        (event["backend"], event["job"])
        for event in events
        if event["event"] == "submitted"
    ]
