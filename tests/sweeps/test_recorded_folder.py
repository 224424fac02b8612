"""A folder that an earlier version planned and half ran goes on here."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from i2i_prior.sweeps.run.store import Sweep, open_sweep
from tests.sweeps import fixtures_sweeps

HOST = socket.gethostname()
METRIC = "validation/ema_uniform"
SWEEP_JSON = """{
  "schema": 1,
  "name": "hand",
  "source": "seeds.py",
  "overrides": [],
  "metric": "validation/ema_uniform",
  "notes": [],
  "left_out": [],
  "cwd": "/gone",
  "version": "0.1.0",
  "planned": 1796042782
}
"""
RUN_LINE = (
    '{{"id": "s{0}-0000000{0}", "name": "s{0}", "config_hash": "0000000{0}", '
    '"role": "fit", "labels": {{"seed": {0}}}, "overrides": {{"seed": {0}}}, '
    '"parameters": 71776, "steps": 20, "examples": 160, "tokens": 640, '
    '"flops": 179189760.0, "model_flops": 179189760.0, "epochs": 2.5}}\n'
)
LAUNCH_JSON = """{
  "backends": {
    "local": "local:slots=1,backoff=0.1"
  },
  "last": "local",
  "max_attempts": 2,
  "hang_minutes": 30.0
}
"""
# Fields of that version, under its names; its hash of the first is below.
CONFIG = {
    "name": "seed0",
    "seed": 3,
    "optim.learning_rate": 0.001,
    "data.batch_size": 8,
    "conditioner.choice": "patches",
    "diffusion.convention": "own",
}
RESULT_JSON = {
    "outcome": "done",
    "step": 20,
    "steps": 20,
    "examples": 160,
    "config_hash": "3af8817fceab",
    "time": 1796042954.837,
    "metrics": {METRIC: 0.5, f"{METRIC}_standard_error": 0.01},
}
SUBMITTED = (
    '{"event": "submitted", "time": 1796042790.311, "backend": "local", '
    '"job": ""}\n'
)
STARTED = (
    '{"event": "started", "time": 1796042791.61, "attempt": 1, '
    f'"host": "{HOST}", "pid": 20502, "job": ""}}\n'
)
ENDED = (
    '{"event": "ended", "time": 1796042959.418, "attempt": 1, "code": 0, '
    '"outcome": "done", "cause": "", "seconds": 167.8}\n'
)
LOCK = f'{{"host": "{HOST}", "pid": 20455}}'
FILES = {
    "sweep.json": SWEEP_JSON,
    "runs.jsonl": "".join(map(RUN_LINE.format, range(3))),
    "launch.json": LAUNCH_JSON,
    "local.lock": LOCK,
    "attempts/s0-00000000/events.jsonl": SUBMITTED + STARTED + ENDED,
    "attempts/s0-00000000/lock": LOCK,
    "attempts/s0-00000000/local.txt": "s0-00000000, attempt 1: done\n",
    "attempts/s0-00000000/log-1.txt": "done, step 20\n",
    "runs/s0-00000000/result.json": json.dumps(RESULT_JSON, indent=2),
    "runs/s0-00000000/metrics.jsonl": '{"step": 20, "time": 1.0, '
    '"loss": 0.6875, "examples_per_second": 64.0}\n',
    # Its launcher and its trainer were killed in the middle.
    "attempts/s1-00000001/events.jsonl": SUBMITTED + STARTED,
    "attempts/s1-00000001/lock": LOCK,
    "attempts/s1-00000001/log-1.txt": "step 5/20  loss 0.2\n",
    "runs/s1-00000001/metrics.jsonl": '{"step": 5, "time": 1.0, "loss": 0.75',
    "attempts/s2-00000002/events.jsonl": SUBMITTED,
}
COLUMNS = (
    *("id", "name", "role", "state", "params", "tokens", "flops", "loss"),
    *("standard_error", "learning_rate", "batch_size", "epochs", "examples"),
    *("steps", "step", "model_flops", "seed", METRIC),
    f"{METRIC}_standard_error",
)


@pytest.fixture
def recorded(tmp_path) -> Sweep:
    folder = tmp_path / "recorded"
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    sweep = open_sweep(folder)
    for run in sweep.runs:
        sweep.config(run.id).parent.mkdir(exist_ok=True)
        document = {"config": CONFIG | {"seed": 3 + run.labels["seed"]}}
        sweep.config(run.id).write_text(json.dumps(document) + "\n")
        (folder / "words").mkdir(exist_ok=True)
        (folder / "words" / run.id).write_text('["done"]')
    return sweep


def test_status_is_what_the_files_say(command, recorded):
    ended = command("sweep", "status", recorded.path, "--json")
    document = json.loads(ended.out)
    assert document["counts"] == {
        **dict.fromkeys(document["counts"], 0),
        **{"stopped": 2, "done": 1},
    }
    done, killed, queued = document["runs"]
    assert (done["state"], done["metric"], done["loss"]) == (
        *("done", 0.5, 0.6875),
    )
    assert (killed["state"], killed["attempts"]) == ("stopped", 1)
    assert (queued["state"], queued["cause"]) == (
        *("stopped", "its launcher is gone"),
    )
    out = command("sweep", "logs", recorded.path, "s1", "--lines", "1").out
    assert out == FILES["attempts/s1-00000001/log-1.txt"]


def test_what_is_left_is_trained_and_what_is_done_is_not(recorded, command):
    done, killed, _ = (run.id for run in recorded.runs)
    again = command("sweep", "run", recorded.path, done)
    assert (again.code, again.err.splitlines()[-1]) == (
        *(0, f"{done} is done already"),
    )
    root = str(Path(fixtures_sweeps.__file__).parents[2])
    program = [sys.executable, fixtures_sweeps.__file__]
    ended = subprocess.run(
        [*program, "sweep", "submit", str(recorded.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "2 runs to local; left as they are: 1 done\n"
    lines = (recorded.attempts(killed) / "events.jsonl").read_text()
    assert lines.startswith(SUBMITTED + STARTED)
    events = [json.loads(line) for line in lines.splitlines()][2:]
    assert [event["event"] for event in events] == [
        *("submitted", "ended", "started", "ended")
    ]
    assert (events[1]["outcome"], events[3]["outcome"]) == ("lost", "done")
    assert (recorded.attempts(killed) / "log-2.txt").exists()
    assert command("sweep", "collect", recorded.path).code == 0
    with (recorded.path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["state"] for row in rows] == ["done"] * 3
