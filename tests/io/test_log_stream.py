"""Logs and outputs that cannot be written."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest

from i2i_prior.cli import main
from i2i_prior.io.child_process import handled_signals
from tests.conftest import ROOT
from tests.forked import Forked

FULL = "/dev/full"


def shell(text, *arguments, **options):
    words = [sys.executable, "-m", "i2i_prior.cli", *map(str, arguments)]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", text.format(shlex.join(words))],
        capture_output=True,
        text=True,
        timeout=300,
        env=path,
        **options,
    )


@pytest.mark.skipif(not os.path.exists(FULL), reason="there is no /dev/full")
@pytest.mark.parametrize("where", [f"2>{FULL}", "2>&-", "2>&1 | head -1"])
def test_a_log_that_cannot_be_written_ends_no_run(where, tiny_spec, tmp_path):
    run = tmp_path / "run"
    ended = shell(
        "set -o pipefail; {} " + where,
        *("train", "--config", tiny_spec, "--workdir", run),
        "--config.train.steps=3",
    )
    assert ended.returncode == 0, ended.stderr
    assert [p.name for p in (run / "checkpoints").iterdir()].count("3") == 1
    assert (run / "result.json").is_file()


@pytest.mark.skipif(not os.path.exists(FULL), reason="there is no /dev/full")
def test_a_full_output_is_one_sentence(tiny_spec, tmp_path):
    words = "train", "--config", tiny_spec, "--workdir", tmp_path / "run"
    ended = shell("{} >" + FULL, *words, "--print-config")
    assert ended.returncode == 74, ended.stderr
    assert ended.stderr == (
        "error: cannot write the output (No space left on device); free some "
        "space and run the same command again\n"
    )


def test_a_full_disk_is_74_wherever_it_shows(command, monkeypatch):
    def full(options, overrides):
        raise OSError(28, "No space left on device", "out/00-1.png")

    monkeypatch.setattr("i2i_prior.commands.doctor.run", full)
    ended = command("doctor")
    assert ended.code == 74
    said = "error: cannot write out/00-1.png (No space left on device); free"
    assert ended.err.startswith(said)
    assert len(ended.err.splitlines()) == 1


def test_a_session_that_drops_saves_the_run(tiny_spec, tmp_path):
    run = tmp_path / "run"
    process = Forked(
        *("train", "--config", tiny_spec, "--workdir", run),
        "--config.train.steps=1000000",
        "--config.train.checkpoint_every=1000000",
    )
    for line in process.stderr:
        if line.startswith("tiny 3/"):
            break
    process.send_signal(signal.SIGHUP)
    process.stderr.close()  # as its terminal is gone, too
    assert process.wait(60) == 75
    assert len(list((run / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize(
    ("ignored", "heard"),
    [
        (signal.SIGHUP, []),  # by nohup
        # A shell starts its jobs in the background so, and means nothing.
        (signal.SIGINT, [signal.SIGINT]),
    ],
)
def test_only_nohup_is_respected(ignored, heard):
    seen = []
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        with handled_signals(lambda number, _: seen.append(number)):
            os.kill(os.getpid(), ignored)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert signal.getsignal(ignored) is signal.SIG_IGN
    finally:
        signal.signal(ignored, before)
    assert seen == [*heard, signal.SIGUSR1]


def test_a_command_leaves_stderr_as_it_was():
    stream = sys.stderr
    with pytest.raises(SystemExit):
        main(["doctor", "--fast"])
    assert sys.stderr is stream
