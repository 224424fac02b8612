"""Restarts: after a crash, not after an end, never in a circle."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from i2i_prior.cli import build_parser
from i2i_prior.commands import train
from i2i_prior.training.resilience.restarts import supervise

# Makes checkpoint N at its start N, then ends as the argument after says.
CHILD = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1]) / "checkpoints"
starts = Path(sys.argv[1]) / "starts"
count = int(starts.read_text()) if starts.exists() else 0
starts.write_text(str(count + 1))
how = sys.argv[2 + count]
if not how.startswith("stuck"):
    (folder / str(count)).mkdir(parents=True)
how = how.removeprefix("stuck ")
if how.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, how))
if how == "wait":
    def end(*_):
        (folder / "ended").mkdir()
        sys.exit(75)
    signal.signal(signal.SIGTERM, end)
    (folder / "ready").mkdir()
    time.sleep(60)
sys.exit(int(how))
"""


def run(workdir, *ends: str, restarts: int = 3) -> tuple[int, int]:
    """Exit code, and how often the child was started."""
    command = [sys.executable, "-c", CHILD, str(workdir), *ends]
    code = supervise(command, workdir, restarts, first_wait=0.01)
    return code, int((workdir / "starts").read_text())


@pytest.mark.parametrize("code", [0, 1, 2, 64, 65, 75])
def test_an_end_is_passed_on(tmp_path, code):
    assert run(tmp_path, str(code)) == (code, 1)


def test_crashes_with_progress_are_restarted(tmp_path, capfd):
    assert run(tmp_path, "SIGKILL", "139", "0") == (0, 3)
    said = capfd.readouterr().err
    assert "crashed (SIGKILL) at checkpoint 0; restart 1 of 3" in said
    assert "crashed (SIGSEGV) at checkpoint 1; restart 2 of 3" in said


def test_a_crash_loop_ends(tmp_path, capfd):
    ends = "SIGKILL", "stuck 3", "0"
    assert run(tmp_path, *ends) == (3, 2)
    said = capfd.readouterr().err.splitlines()[-1]
    assert "crashed again (exit code 3) with no new checkpoint" in said
    assert "(checkpoint 0)" in said


def test_one_crash_before_the_first_checkpoint_is_forgiven(tmp_path):
    assert run(tmp_path, "stuck SIGABRT", "0") == (0, 2)


def test_restarts_are_counted(tmp_path, capfd):
    assert run(tmp_path, *["SIGKILL"] * 9, restarts=2) == (128 + 9, 3)
    assert "after 2 restarts" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)]
)
def test_a_signal_reaches_the_run_and_ends_it(tmp_path, python, number, code):
    """Passed on, or sent by the kernel where the supervisor is killed."""
    script = tmp_path / "supervised.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from i2i_prior.training.resilience.restarts import supervise\n"
        f"folder, child = {str(tmp_path)!r}, {CHILD!r}\n"
        "command = [sys.executable, '-c', child, folder, 'wait']\n"
        "sys.exit(supervise(command, Path(folder), 3))\n"
    )
    process = python(script)
    try:
        _await(tmp_path / "checkpoints" / "ready")
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        _await(tmp_path / "checkpoints" / "ended")
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "starts").read_text() == "1"


def _await(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--restarts", "-1"), "--restarts is -1; give 0 or more"),
        (
            (
                *("--restarts", "2", "--coordinator", "localhost:9999"),
                *("--processes", "2", "--process-id", "0"),
            ),
            "leave it to what starts them all",
        ),
    ],
)
def test_what_cannot_be_supervised(
    command, tiny_spec, tmp_path, arguments, said
):
    run = "--config", tiny_spec, "--workdir", tmp_path / "run"
    ended = command("train", *run, *arguments)
    assert ended.code == 1
    assert said in ended.err
    assert not (tmp_path / "run").exists()


def test_the_child_is_not_supervised_in_its_turn(monkeypatch, tiny_spec):
    monkeypatch.setattr(
        "i2i_prior.training.resilience.restarts.supervise",
        lambda command, workdir, restarts: (command, restarts),
    )
    given = f"train --restarts 3 --config {tiny_spec} --restarts=2 --workdir b"
    parser = build_parser(["train"])
    options = parser.parse_args(given.split())
    options.arguments = given.split()
    (_, *command), restarts = train.run(options, [])
    assert restarts == 2
    assert command[:2] == ["-m", "i2i_prior.cli"]
    assert parser.parse_args(command[2:]).restarts == 0


# Killed once, by itself, when checkpoint 4 is due: the supervisor resumes it.
KILLED_ONCE = """
import os, signal, sys
from pathlib import Path
from i2i_prior import cli, train

save = train._save
def die(run, state, step):
    once = run.workdir / ".killed"
    save(run, state, step)
    if step == 4 and not once.exists():
        run.checkpoints.wait()
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
train._save = die
cli.main(sys.argv[1:])
"""


def test_train_survives_a_kill(python, tiny_spec, run_directory, tmp_path):
    from i2i_prior.training.telemetry.metric_writer import read_metrics

    script, workdir = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(KILLED_ONCE)
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from i2i_prior.training.resilience.restarts import supervise\n"
        f"command = [sys.executable, {str(script)!r}]\n"
        "command += [*sys.argv[1:], '--restarts=0']\n"
        f"sys.exit(supervise(command, Path({str(workdir)!r}), 2, "
        "first_wait=0.1))\n"
    )
    arguments = "train", "--config", tiny_spec, "--workdir", workdir
    process = python(runner, *arguments, "--restarts", "2")
    try:
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "crashed (SIGKILL) at checkpoint 4; restart 1 of 2" in err
    assert "resumed, step 4" in err

    def losses(folder: Path) -> dict[float, float]:
        lines = read_metrics(folder)
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    assert losses(workdir) == losses(run_directory)
