"""One attempt at a run: outcome, count and exit code of each end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from i2i_prior.errors import FullDiskError, UserError
from i2i_prior.io import child_process, locks, log_tail
from i2i_prior.sweeps.backends import Launch, write_launch
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.attempt import attempt, follow
from i2i_prior.sweeps.run.store import Sweep, open_sweep
from tests.sweeps import fixtures_sweeps


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The fake trainer, and a child that is looked at often."""
    monkeypatch.setattr(Sweep, "train_command", fixtures_sweeps.train_command)
    monkeypatch.setattr(child_process, "_TICK", 0.02)


@pytest.fixture
def sweep(tmp_path):
    """sweep("crash", "done"): of one run, whose attempts end so."""

    def make(*words: str, **launch):
        made = fixtures_sweeps.make_sweep(tmp_path / "sweep", one=list(words))
        write_launch(made, Launch(**launch))
        return made

    return make


def tries(sweep: Sweep, count: int = 1, **options) -> list[int]:
    """Exit codes of so many attempts at the sweep's first run."""
    return [attempt(sweep, sweep.runs[0], **options) for _ in range(count)]


def ends(sweep: Sweep) -> list[tuple[str, str]]:
    """Outcome and cause of each attempt."""
    known = events.read(sweep.attempts(sweep.runs[0].id))
    return [
        (event["outcome"], event["cause"])
        for event in known
        if event["event"] == "ended"
    ]


def test_relative_paths_are_those_of_the_plan(sweep, tmp_path):
    made = sweep("done")
    for home, wanted in ((str(tmp_path), tmp_path), ("/gone", Path.cwd())):
        moved = replace(made, facts={**made.facts, "cwd": home})
        run = moved.workdir(moved.runs[0].id)
        (run / "result.json").unlink(missing_ok=True)
        tries(moved)
        newest = max(run.glob("start-*"))
        assert newest.read_text() == str(wanted)


@pytest.mark.parametrize(
    ("word", "code", "how", "cause"),
    [
        ("done", 0, "done", ""),
        ("diverged", 65, "diverged", "the loss is not finite at step 7"),
        ("mistake", 1, "mistake", "there is no folder /data"),
        ("full", 75, "disk_full", "no space left in /data"),
        ("crash", 75, "crashed", "RuntimeError: the driver is gone"),
        ("killed", 75, "crashed", "killed (out of memory?)"),
        ("lost", 75, "preempted", "step 5/20  loss 0.2"),
    ],
)
def test_an_end_is_told_and_answered(sweep, capfd, word, code, how, cause):
    made = sweep(word)
    assert tries(made) == [code]
    ((outcome_, found),) = ends(made)
    assert outcome_ == how
    assert found.startswith(cause)
    log = made.attempts(made.runs[0].id) / "log-1.txt"
    out = capfd.readouterr().out
    assert out == log.read_text()
    assert "step 5/20" in out
    started = events.read(log.parent)[0]
    assert (started["event"], started["attempt"]) == ("started", 1)
    assert started["pid"] == os.getpid()


def test_failures_are_bounded_and_a_retry_counts_anew(sweep, capfd):
    made = sweep("crash", max_attempts=2)
    assert tries(made, 3) == [75, 1, 1]
    assert len(ends(made)) == 2  # the third was not even started
    assert "sweep retry" in capfd.readouterr().err
    events.append(made.attempts(made.runs[0].id), "retried")
    assert tries(made, 2) == [75, 1]
    assert len(ends(made)) == 4


def test_a_failure_that_cannot_be_counted_is_the_last(sweep, monkeypatch):
    """As on a full disk: engines would start it for ever."""
    made, append = sweep("crash"), events.append

    def full(folder, event, **facts):
        if event == "ended":
            raise FullDiskError("no space")
        append(folder, event, **facts)

    monkeypatch.setattr(events, "append", full)
    assert tries(made) == [74]


def test_what_is_no_fault_of_a_run_does_not_count(sweep, monkeypatch):
    monkeypatch.setattr(events, "MAX_INTERRUPTIONS", 4)
    made = sweep("lost", "full", "lost", "crash", "lost", "lost", "done")
    assert tries(made, 6) == [75] * 5 + [1]


def test_a_run_that_has_ended_is_not_trained_again(sweep, monkeypatch):
    from i2i_prior.config import config_hash, frozen_config

    made = sweep("done", "crash")
    run = made.runs[0]
    digest = config_hash(frozen_config(made.config(run.id)))
    monkeypatch.setenv("FAKE_HASH", digest)
    assert tries(made, 2) == [0, 0]
    assert len(ends(made)) == 1
    # Its steps were fewer than are planned now: it goes on.
    longer = replace(made, runs=[replace(run, steps=2 * run.steps)])
    assert tries(longer) == [75]


def test_a_silent_run_is_stopped_and_started_again(sweep):
    made = sweep("deaf", "wait", "done", hang_minutes=0.4 / 60)
    began = time.monotonic()
    assert tries(made, 3, hung_grace=0.2) == [75, 75, 0]
    assert time.monotonic() - began < 8
    assert [how for how, _ in ends(made)] == ["hung", "hung", "done"]
    assert ends(made)[0][1] == "silent for 0.00667 minutes"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_trainer(sweep, number):
    made = sweep("wait")
    folder = made.workdir(made.runs[0].id)
    thread = threading.Thread(target=_signal_when_ready, args=(folder, number))
    thread.start()
    assert tries(made) == [75]
    thread.join()
    assert ends(made) == [("preempted", number.name)]
    log = made.attempts(made.runs[0].id) / "log-1.txt"
    assert log.read_text().endswith("saved step 5\n")


def _signal_when_ready(folder: Path, number: int) -> None:
    until(lambda: (folder / "ready").exists())
    os.kill(os.getpid(), number)


def until(true, seconds: float = 20.0) -> None:
    """Waits for something."""
    due = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < due, "it did not come"
        time.sleep(0.02)


def test_a_cancelled_run_saves_and_is_final(sweep):
    made = sweep("wait")
    run = made.runs[0]

    def cancel() -> None:
        until(lambda: (made.workdir(run.id) / "ready").exists())
        events.append(made.attempts(run.id), "cancelled")

    thread = threading.Thread(target=cancel)
    thread.start()
    assert tries(made, 2) == [1, 1]
    thread.join()
    assert ends(made) == [("preempted", "SIGTERM")]


def test_nothing_of_a_run_outlives_it(sweep):
    made = sweep("orphan")
    assert tries(made) == [1]
    pid = int((made.workdir(made.runs[0].id) / "child").read_text())
    # Killed, though perhaps not yet reaped.
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")


def test_two_engines_do_not_train_one_run(sweep):
    made = sweep("done")
    file = made.run_lock(made.runs[0].id)
    held = locks.acquire(file)
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* status"):
        tries(made, lock_timeout=0.1)
    assert ends(made) == []
    os.close(held)
    assert tries(made) == [0]


def test_a_killed_launcher_leaves_a_saved_run_that_goes_on(sweep):
    """The trainer saves on the kernel's TERM; only then may the next begin."""
    made = sweep("wait", "done")
    run = made.runs[0]
    arguments = "sweep", "run", str(made.path), run.id
    root = {
        **os.environ,
        "PYTHONPATH": str(Path(fixtures_sweeps.__file__).parents[2]),
    }
    process = subprocess.Popen(
        [sys.executable, fixtures_sweeps.__file__, *arguments],
        env=root,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: (made.workdir(run.id) / "ready").exists())
    finally:
        process.kill()
        process.wait()
    assert tries(made) == [0]
    known = events.read(made.attempts(run.id))
    assert [e["event"] for e in known] == ["started", "ended"] * 2
    assert [how for how, _ in ends(made)] == ["lost", "done"]
    log = made.attempts(run.id) / "log-1.txt"
    assert log.exists()


def test_other_hosts_answer_as_the_first(sweep):
    made = sweep("crash", max_attempts=1)
    run = made.runs[0]
    first: list[int] = []
    thread = threading.Thread(
        target=lambda: first.append(follow(made, run, 1)), daemon=True
    )
    # Signals belong to the main thread: the other host gets none here.
    with pytest.MonkeyPatch.context() as patch:
        quiet = contextlib.nullcontext([])
        real = child_process.forwarded_signals
        here = threading.main_thread()
        patch.setattr(
            child_process,
            "forwarded_signals",
            lambda children: (
                real(children) if threading.current_thread() is here else quiet
            ),
        )
        thread.start()
        time.sleep(0.3)
        assert tries(made, several=True) == [1]
        thread.join(20)
    assert first == [1]
    folder = made.attempts(run.id)
    assert "the driver is gone" in (folder / "log-1.host1.txt").read_text()


def test_a_mistake_of_one_of_several_may_be_its_network(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: process 1 did not come within 300 s\n")
    assert events.classify(child_process.Exit(1), log)[0] == "mistake"
    how, cause = events.classify(child_process.Exit(1), log, several=True)
    assert (how, cause) == ("crashed", "process 1 did not come within 300 s")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("step 5\n 12%|#####     | 5/40\r", "step 5"),
        ("error: a\nerror: b\nstopped\n", "b"),
        (
            "Traceback (most recent call last):\n  File\nValueError: inner\n\n"
            "During handling, another:\n\nTraceback (most recent call last):\n"
            "  File\n    Broken: no\njax.errors.Outer: first\nsecond\n",
            "jax.errors.Outer: first",
        ),
        ("x" * 400, "x" * 297 + "..."),
        ("\x1b[1;31mred\x1b[0m\tone\x07\n", "red one"),
    ],
)
def test_last_words(tmp_path, text, words):
    log = tmp_path / "log"
    log.write_text(text)
    assert log_tail.tail_cause(log) == words


def test_a_torn_event_is_passed_over(sweep):
    made = sweep("crash", "done")
    assert tries(made) == [75]
    file = made.attempts(made.runs[0].id) / events.FILE
    file.write_bytes(file.read_bytes() + b'{"event": "sub')
    assert len(events.read(file.parent)) == 2
    events.append(file.parent, "retried")  # not swallowed by the torn one
    assert [e["event"] for e in events.read(file.parent)][2:] == ["retried"]
    assert json.loads(file.read_text().splitlines()[0])["attempt"] == 1
    assert open_sweep(made.path).runs == made.runs
