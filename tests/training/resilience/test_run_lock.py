"""One trainer at a time in a run directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time

import pytest

from i2i_prior.errors import UserError
from i2i_prior.io import locks
from i2i_prior.training.resilience import run_lock
from i2i_prior.training.telemetry.metric_writer import read_metrics
from tests.forked import Forked

ENDLESS = (
    "--config.train.steps=1000000",
    "--config.train.checkpoint_every=1000000",
)


@pytest.fixture
def trainer(tiny_spec, tmp_path):
    """A trainer at its third step in tmp_path/run, and its process."""
    arguments = "--config", tiny_spec, "--workdir", tmp_path / "run"
    process = Forked("train", *arguments, *ENDLESS)
    for line in process.stderr:
        if line.startswith("tiny 3/"):
            break
    reader = threading.Thread(target=process.stderr.read, daemon=True)
    reader.start()
    yield process
    process.kill()
    process.wait(60)


def test_the_second_ends_at_once_and_names_the_first(trainer, train, tmp_path):
    began = time.monotonic()
    ended = train(*(text.removeprefix("--config.") for text in ENDLESS))
    assert time.monotonic() - began < 5
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    said = f"error: process {trainer.pid} on {socket.gethostname()} (since 20"
    assert ended.err.startswith(said)
    assert f"trains in {tmp_path / 'run'}: stop it or wait" in ended.err
    # The first goes on, and ends as if nobody had been there.
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(60) == 75
    steps = [x["step"] for x in read_metrics(tmp_path / "run") if "loss" in x]
    assert steps == list(range(1, len(steps) + 1))
    assert not list((tmp_path / "run").glob(".*.lock"))


def test_a_dead_trainer_s_lock_holds_nobody_up(trainer, train, tmp_path):
    trainer.send_signal(signal.SIGKILL)
    assert trainer.wait(60) == -signal.SIGKILL
    assert list((tmp_path / "run").glob(".*.lock"))
    ended = train("train.steps=2", "train.checkpoint_every=1000000")
    assert ended.code == 0, ended.err
    assert not list((tmp_path / "run").glob(".*.lock"))


@pytest.fixture
def run(tmp_path):
    return tmp_path / "a" / "run"


def test_a_failed_start_leaves_no_folder(run, tmp_path):
    def start():
        with run_lock.run_lock(run):
            assert run.is_dir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start()
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays(run):
    run.mkdir(parents=True)
    with run_lock.run_lock(run):
        (run / "kept").touch()
    assert [path.name for path in run.iterdir()] == ["kept"]


@pytest.mark.parametrize("why", ["leaving", "queued again"])
def test_a_predecessor_that_leaves_is_waited_for(run, monkeypatch, capsys, why):
    file = run / run_lock._FILE
    held = locks.acquire(file)
    if why == "leaving":
        run_lock.announce_leaving(run)
    else:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    threading.Timer(1.0, os.close, (held,)).start()
    began = time.monotonic()
    with run_lock.run_lock(run):
        assert 0.9 < time.monotonic() - began < 10
        assert json.loads(file.read_text())["pid"] == os.getpid()
    said = capsys.readouterr().err
    assert f"waiting for process {os.getpid()} on" in said
    assert "to save and leave" in said


def test_the_wait_has_an_end(run, monkeypatch):
    monkeypatch.setattr(run_lock, "_GRACE", 0.1)
    held = locks.acquire(run / run_lock._FILE)
    run_lock.announce_leaving(run)
    with pytest.raises(UserError, match="trains in"), run_lock.run_lock(run):
        pass
    os.close(held)


def test_a_file_system_without_locks(run, monkeypatch):
    """No protection there, and nothing in the way."""

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    for _ in range(2):
        with run_lock.run_lock(run), run_lock.run_lock(run):
            assert run.is_dir()
    assert not run.exists()


def test_a_lock_of_another_host_that_is_gone(run):
    run.mkdir(parents=True)
    text = '{"host": "other", "pid": 7, "since": "2020-01-01 00:00:00"}'
    (run / run_lock._FILE).write_text(text)
    with run_lock.run_lock(run):
        pass


def test_a_copy_of_a_run_is_free(run, tmp_path):
    with run_lock.run_lock(run):
        shutil.copytree(run, tmp_path / "copy")
        with run_lock.run_lock(tmp_path / "copy"):
            pass
