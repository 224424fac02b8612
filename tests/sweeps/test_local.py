"""Sweeps on this machine: slots, retries, stops and kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from i2i_prior.checkpoint.run_dir import write_json
from i2i_prior.config import flatten
from i2i_prior.errors import UserError
from i2i_prior.io import locks
from i2i_prior.sweeps.launch_support.slots import find_gpus, make_slots
from i2i_prior.sweeps.run.state import states
from i2i_prior.sweeps.run.store import Sweep, save_sweep
from i2i_prior.training.telemetry.metric_writer import read_metrics
from launch import local
from tests.sweeps import fixtures_sweeps

ROOT = Path(__file__).parents[2]


def start(program: list[str | Path], *words: str | Path) -> subprocess.Popen:
    """`i2i-prior sweep WORDS`, by the real or the fake program."""
    return subprocess.Popen(
        [sys.executable, *map(str, program), "sweep", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def fake():
    """fake("submit", ...) -> a process; those that live are ended."""
    started = []

    def begin(*words: str | Path) -> subprocess.Popen:
        started.append(start([fixtures_sweeps.__file__], *words))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def progress(sweep: Sweep) -> dict[str, tuple[str, int]]:
    """State and attempts of each run."""
    return {one.run.name: (one.state, one.attempts) for one in states(sweep)}


def until(true, seconds: float = 60.0) -> None:
    due = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < due, "it did not come"
        time.sleep(0.05)


def test_one_bad_run_never_stops_the_others(fake, tmp_path):
    sweep = fixtures_sweeps.make_sweep(
        tmp_path / "s",
        full=["full", "done"],
        mistake="mistake",
        hung=["wait", "done"],
        nan="diverged",
        crash="crash",
        good="done",
    )
    process = fake(
        *("submit", sweep.path, "--backend", "local:slots=3,backoff=0.1"),
        *("--max-attempts", "2", "--hang-minutes", "0.03"),
    )
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1, err
    assert out == "6 runs to local\n"
    assert progress(sweep) == {
        "full": ("done", 2),
        "mistake": ("failed", 1),
        "hung": ("done", 2),
        "nan": ("diverged", 1),
        "crash": ("failed", 2),
        "good": ("done", 1),
    }
    assert "mistake: failed (there is no folder /data)" in err
    assert "full: retrying (no space left in /data), attempt 1" in err
    assert err.endswith("fakes: 2 failed, 1 diverged, 3 done\n")
    log = sweep.attempts(sweep.runs[4].id) / "log-2.txt"
    assert "the driver is gone" in log.read_text()


def test_a_stop_saves_a_second_submit_joins_and_a_third_goes_on(fake, tmp_path):
    sweep = fixtures_sweeps.make_sweep(
        tmp_path / "s", a=["wait", "done"], b=["mistake", "done"]
    )
    first = fake("submit", sweep.path, "--backend", "local:slots=2")
    ready = sweep.workdir(sweep.runs[0].id) / "ready"
    until(lambda: ready.exists() and progress(sweep)["b"][0] == "failed")
    # While the launcher runs, a retry is handed to it.
    retry = fake("retry", sweep.path, "--failed")
    assert f"process {first.pid} on " in retry.communicate(timeout=30)[0]
    assert retry.returncode == 0
    until(lambda: progress(sweep)["b"][0] == "done")
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=30)
    assert first.returncode == 75, err
    assert "stopped; 1 done, 1 to go" in err
    assert progress(sweep) == {"a": ("queued", 1), "b": ("done", 1)}
    third = fake("submit", sweep.path)
    out, err = third.communicate(timeout=30)
    assert third.returncode == 0, err
    assert out == "1 run to local; left as they are: 1 done\n"
    assert progress(sweep)["a"] == ("done", 2)


def test_a_pool_that_stops_takes_nothing_up_and_says_so(fake, tmp_path):
    sweep = fixtures_sweeps.make_sweep(tmp_path / "s", a="done")
    file = sweep.path / local.LOCK
    held = locks.acquire(file)
    locks.announce_leaving(file)
    late = fake("submit", sweep.path, "--backend", "local")
    out, err = late.communicate(timeout=30)
    assert late.returncode == 75, err
    assert out.endswith("is stopping; submit again when it has ended\n")
    os.close(held)
    again = fake("submit", sweep.path)
    assert again.wait(timeout=30) == 0
    assert progress(sweep) == {"a": ("done", 1)}


def test_slots_share_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    one, two, three = make_slots(3, [])
    assert (one.cpus, two.cpus, three.cpus) == ((0, 1), (2, 3, 4), (5, 6, 7))
    assert [slot.cpus for slot in make_slots(0, [])] == [tuple(range(8))]
    cards = [s.environment for s in make_slots(0, ["0", "3"])]
    assert cards == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "3"},
    ]
    (both,) = make_slots(1, ["0", "3"])
    assert both.environment == {"CUDA_VISIBLE_DEVICES": "0,3"}
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    four = make_slots(4, ["0", "3"])
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in four] == list("0303")
    part = {s.environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] for s in four}
    assert part == {"0.450"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4})
    assert [slot.cpus for slot in make_slots(2, [])] == [(4,), (4,)]
    with pytest.raises(UserError, match="slots is -1; give 1 or more"):
        make_slots(-1, [])


def test_gpus_are_those_that_are_visible(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-ab")
    assert find_gpus() == ["1", "GPU-ab"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert find_gpus() == []


# The real program; but what is trained first only copies what the trainer had
# written at step 4, then kills the launcher, the attempt and itself, with -9.
# (tests/training/resilience/test_restarts.py kills the trainer itself.)
KILLED_ONCE = """
import os, shutil, signal, sys
from pathlib import Path
from i2i_prior.sweeps.run.store import Sweep

half = Path(__file__).with_name("half")
def killed_once(self, run_id, real=Sweep.train_command):
    first = [sys.executable, __file__, "die", str(self.workdir(run_id))]
    return first if half.exists() else real(self, run_id)
def by_this_file(self, run_id, real=Sweep.attempt_command):
    return [sys.executable, __file__, *real(self, run_id)[3:]]
Sweep.train_command, Sweep.attempt_command = killed_once, by_this_file

if sys.argv[1] == "die":
    # What the attempt passes on once the launcher is dead must not end this.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    shutil.move(half, sys.argv[2])
    attempt = os.getppid()
    stat = Path(f"/proc/{attempt}/stat").read_text()
    launcher = int(stat.rpartition(")")[2].split()[1])
    for process in (launcher, attempt, os.getpid()):
        os.kill(process, signal.SIGKILL)
from i2i_prior import cli
cli.main(sys.argv[1:])
"""


def cut_at_step_4(whole: Path, half: Path) -> None:
    """A run directory as a kill leaves it: a step further than it saved."""
    left_out = shutil.ignore_patterns("6", "result.json")
    shutil.copytree(whole, half, ignore=left_out)
    file = half / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 5]
    assert 0 < len(kept) < len(lines)
    file.write_text("".join(kept) + '{"step": 6, "lo')


def losses(workdir: Path) -> dict[float, float]:
    lines = read_metrics(workdir)
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_a_sweep_killed_in_the_middle_ends_as_an_undisturbed_one(
    tiny, run_directory, tmp_path
):
    """Bit for bit; and what the trainer itself calls done is skipped."""
    program = tmp_path / "program.py"
    program.write_text(KILLED_ONCE)
    cut_at_step_4(run_directory, tmp_path / "half")
    runs = [
        fixtures_sweeps.planned("cut-00000000"),
        fixtures_sweeps.planned("whole-00000001"),
    ]
    runs = [replace(run, steps=6) for run in runs]
    sweep = Sweep(tmp_path / "s", fixtures_sweeps.facts(), runs)
    save_sweep(sweep)
    for run in runs:
        document = {"config": flatten(tiny())}
        write_json(sweep.config(run.id), document)
    shutil.copytree(run_directory, sweep.workdir(runs[1].id))

    submit = "submit", sweep.path, "--backend", "local"
    first = start([program], *submit)
    out, err = first.communicate(timeout=80)
    assert first.returncode == -signal.SIGKILL, err
    assert out == "1 run to local; left as they are: 1 done\n"
    until(lambda: progress(sweep)["cut"] == ("stopped", 1))
    again = start([program], *submit)
    _, err = again.communicate(timeout=80)
    assert again.returncode == 0, err
    assert progress(sweep) == {"cut": ("done", 2), "whole": ("done", 0)}
    log = sweep.attempts(runs[0].id) / "log-2.txt"
    assert "resumed, step 4" in log.read_text()
    assert losses(sweep.workdir(runs[0].id)) == losses(run_directory)
