"""The Slurm launch file and its task, without a Slurm."""

from __future__ import annotations

import os
import pickle
import pickletools
import signal
import subprocess
import sys
import time

import pytest

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launch_support.slurm_task import Task
from i2i_prior.sweeps.run import events
from tests.launch.fixtures_sweeps import ROOT

RUN_TASK = """
import sys
from i2i_prior.sweeps.launch_support.slurm_task import Task
Task(["sh", "-c", sys.argv[1]])()
"""


@pytest.fixture
def scontrol(stand_in):
    """Slurm's, for a job that runs."""
    found = stand_in("scontrol")
    found.answers("echo 'JobId=7 JobState=RUNNING Requeue=1'")
    return found


def start(command: str, **environ: str) -> subprocess.Popen:
    """A task of job 7, as Slurm starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN_TASK, command],
        env={
            **os.environ,
            **{"PYTHONPATH": str(ROOT), "SLURM_JOB_ID": "7", **environ},
        },
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def requeued(scontrol) -> list[str]:
    return [call[1] for call in scontrol.calls if call[0] == "requeue"]


@pytest.mark.parametrize(("code", "jobs"), [(0, []), (65, []), (75, ["7"])])
def test_75_is_requeued(scontrol, code, jobs):
    task = start(f"exit {code}")
    assert task.wait(20) == code
    assert requeued(scontrol) == jobs


def test_one_of_an_array_is_requeued_alone(scontrol):
    """The last of an array has the whole array's id for its own."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert start("exit 75", **array).wait(20) == 75
    assert requeued(scontrol) == ["7_3"]


def test_first_task_speaks_for_all(scontrol):
    assert start("exit 75", SLURM_PROCID="1").wait(20) == 0
    assert scontrol.calls == []


def test_command_alone_is_pickled(sweep):
    """A job may wait for days, and the code it starts is that day's."""
    command = sweep.attempt_command(sweep.runs[0].id)
    text = pickle.dumps(Task(command), protocol=4)
    names = [
        value
        for code, value, _ in pickletools.genops(text)
        if code.name in ("SHORT_BINUNICODE", "BINUNICODE")
    ]
    ours = ["i2i_prior.sweeps.launch_support.slurm_task", "Task", "command"]
    assert sorted(set(names)) == sorted({*ours, *command})


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PENDING"])
def test_job_that_slurm_has_taken_back_is_left_alone(scontrol, state):
    scontrol.answers(f"echo 'JobId=7 JobState={state} Requeue=1'")
    assert start("exit 75").wait(20) == 75
    assert requeued(scontrol) == []


def test_requeue_that_is_refused_is_told(scontrol):
    scontrol.answers("[ $1 != requeue ] || { echo no >&2; exit 1; }")
    task = start("exit 75")
    _, words = task.communicate(timeout=20)
    assert "does not requeue job 7 (no); submit the sweep again" in words


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM"])
def test_signal_is_the_commands_who_saves_first(scontrol, tmp_path, name):
    """Slurm sends it to all; without its user signal only TERM comes."""
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    command = (
        f"trap 'sleep 0.2; touch {saved}; exit 75' {name[3:]}; touch {ready};"
        "while true; do sleep 0.05; done"
    )
    task = start(command)
    due = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < due
        time.sleep(0.01)
    os.killpg(task.pid, getattr(signal, name))
    assert task.wait(20) == 75
    assert saved.exists()
    assert requeued(scontrol) == ["7"]


def test_signal_before_the_command_listens_is_no_failure(scontrol):
    assert start("kill -USR2 $$").wait(20) == 75
    assert requeued(scontrol) == ["7"]


def test_dry_run_tells_and_does_nothing(sweep, backend, capsys):
    slurm = backend("slurm", cpus_per_task=4, mem="64GB", time=8)
    assert slurm.submit(sweep, sweep.runs, dry_run=True) == 0
    out = capsys.readouterr().out
    assert "an array of 2 jobs" in out
    assert "mem: 64GB" in out
    assert "['--cpus-per-task=4']" in out
    # The signal comes before the end, not at the start of a short job.
    assert "signal_delay_s: 120" in out
    for run in sweep.runs:
        assert f"sweep run {sweep.path} {run.id}" in out.replace("'", "")
        assert events.read(sweep.attempts(run.id)) == []


def test_options_of_sbatch_and_setup_go_through(sweep, backend, tmp_path):
    setup = tmp_path / "setup.sh"
    setup.write_text("module load cuda, and more\n")
    slurm = backend("slurm", setup=setup, extra="exclude=n[1-3];hold")
    settings = slurm.module._settings(sweep, slurm.options)
    assert settings["setup"] == ["module load cuda, and more"]
    assert settings["additional_parameters"] == {
        **{"requeue": True, "exclude": "n[1-3]", "hold": True}
    }


def test_machine_without_slurm_is_told(sweep, backend, monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no srun here; run this where"):
        backend("slurm").submit(sweep, sweep.runs, dry_run=False)


def test_states_are_squeues(sweep, backend, stand_in):
    """Whose list needs no accounting; what it does not list has ended."""
    squeue = stand_in("squeue")
    squeue.answers("echo '12_0 PENDING'; echo '13_0 RUNNING'")
    slurm = backend("slurm")
    assert slurm.poll(sweep, sweep.runs) == {}
    first, second = sweep.runs
    for run, job in ((first, "11_0"), (first, "12_0"), (second, "12_1")):
        events.append(
            sweep.attempts(run.id), "submitted", backend="slurm", job=job
        )
    assert slurm.poll(sweep, sweep.runs) == {
        first.id: "queued",
        second.id: "gone",
    }
