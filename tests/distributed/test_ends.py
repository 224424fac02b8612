"""Processes that do not come, die, fail or are told to stop."""

from __future__ import annotations

import signal
import socket
import time

from i2i_prior.training.telemetry.metric_writer import read_metrics

HOST = socket.gethostname()
# Process 0 dies before its first step.
DIES = """
import os, signal, sys
from i2i_prior import cli, train

def die(evaluators, state, step, buffer):
    if "--process-id=0" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
train.run_due = die
cli.main(sys.argv[1:])
"""
# The images of process 1 are elsewhere.
FAILS = """
import sys
from i2i_prior import cli
from i2i_prior.errors import UserError
from i2i_prior.training import input_pipeline

def fail(spec):
    raise UserError("no images here; mend data.source")
if "--process-id=1" in sys.argv:
    input_pipeline.open_training = fail
cli.main(sys.argv[1:])
"""


def lines(workdir) -> list[dict]:
    return [line for line in read_metrics(workdir) if "loss" in line]


def test_missing_processes_are_named(launch, tmp_path):
    began = time.monotonic()
    first, third = launch(
        tmp_path / "run",
        processes=4,
        missing=(1, 3),
        options=("--startup-timeout=3",),
    )
    assert (first.wait(), third.wait()) == (1, 1)
    assert time.monotonic() - began < 60
    said = "error: processes missing after 3 s: 1, 3; "
    assert first.err.startswith(said)
    assert third.err == first.err
    assert not (tmp_path / "run").exists()


def test_a_missing_coordinator_is_named(launch, tmp_path):
    (second,) = launch(
        tmp_path / "run", missing=(0,), options=("--startup-timeout=2",)
    )
    assert second.wait() == 1
    assert second.err.startswith("error: process 0 did not answer at 127.0.0.1")
    assert second.err.count("\n") == 1


def test_the_death_of_the_coordinator_ends_the_others(launch, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    first, second = launch(tmp_path / "run", script=script)
    assert first.wait() == -signal.SIGKILL
    died = time.monotonic()
    code = second.wait(30)
    assert time.monotonic() - died < 10
    # With process 0 goes JAX's coordinator: JAX may abort before we end.
    assert code in (75, -signal.SIGABRT), second.err
    if code == 75:
        assert f"error: process 0 on {HOST} is gone, so" in second.err


def test_a_signal_to_one_process_stops_all_at_the_same_step(launch, tmp_path):
    workdir = tmp_path / "run"
    endless = ("train.steps=1000000", "train.checkpoint_every=1000000")
    processes = launch(workdir, *endless)
    processes[0].wait_for("tiny 3/")
    processes[1].popen.send_signal(signal.SIGUSR1)
    assert [process.wait() for process in processes] == [75, 75]
    (saved,) = (int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert f"SIGUSR1: saved step {saved} in " in processes[0].err
    assert lines(workdir)[-1]["step"] == saved


def test_a_failing_process_says_why_to_the_others(launch, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    processes = launch(tmp_path / "run", script=script)
    assert [process.wait() for process in processes] == [1, 1]
    why = "no images here; mend data.source"
    assert processes[1].lines[-1] == f"error: {why}\n"
    said = f"error: process 1 on {HOST} ended: {why}\n"
    assert processes[0].lines[-1] == said
