"""On a real Slurm of two nodes: an array, failures, preemption, two nodes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2i_prior.checkpoint.run_dir import read_json, write_json
from i2i_prior.config import flatten, load_config
from i2i_prior.errors import UserError
from i2i_prior.sweeps.backends import load_backend
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.store import Sweep, save_sweep
from tests.launch.fixtures_sweeps import ROOT, SHARED, planned

SCRIPT = SHARED / "tools" / "slurm_onebox.sh"
LIMIT = 150.0  # seconds for anything; a cluster that is stuck fails
LONG = 200  # steps
PROGRAMS = ("slurmctld", "slurmd", "munged", "slurmdbd", "mariadbd")
PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"


def why_not() -> str:
    """Why there is no cluster here, "" where one can be had."""
    if not SCRIPT.exists():
        return f"{SCRIPT} is absent"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    for program in (*PROGRAMS, "unshare"):
        if shutil.which(program) is None:
            return f"{program} is absent: apt-get install {PACKAGES}"
    if subprocess.call(["unshare", "-m", "true"], stderr=subprocess.DEVNULL):
        return "unshare -m is not allowed here"
    return ""


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Slurm's commands of this process and its children speak to it."""
    pytest.importorskip("submitit", reason="submitit is absent")
    # pytest's own folders are closed to the user whom the database runs as.
    folder = Path(tempfile.mkdtemp(prefix="i2i-prior-slurm-"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        # Two test sessions on a machine have a cluster each.
        patch.setenv("SLURM_TEST_PORT", str(20000 + os.getpid() % 10000))
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        # One device a process; the jobs inherit it, as they do the cache.
        flags = re.sub(
            r"(--xla_force_host_platform_device_count)=\d+",
            r"\1=1",
            os.environ["XLA_FLAGS"],
        )
        patch.setenv("XLA_FLAGS", flags)
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        patch.setenv("PYTHONPATH", path)
        command = ["bash", str(SCRIPT), "start", str(folder)]
        with (folder / "start.log").open("w") as log:
            code = subprocess.call(command, stdout=log, stderr=log, timeout=90)
        try:
            assert code == 0, (folder / "start.log").read_text()
            yield
        finally:
            subprocess.call(["bash", str(SCRIPT), "stop", str(folder)])
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def make(tiny_spec, tmp_path_factory) -> Callable[..., Sweep]:
    """make({"a-00000001": ["train.steps=3"]}): a sweep of the tiny run."""

    def build(runs: dict[str, list[str]]) -> Sweep:
        folder = tmp_path_factory.mktemp("sweep")
        made = Sweep(folder, {"name": "tiny"}, [])
        for run_id, overrides in runs.items():
            config = load_config(tiny_spec, overrides)
            made.runs.append(planned(run_id, config.train.steps))
            write_json(made.config(run_id), {"config": flatten(config)})
        save_sweep(made)
        return made

    return build


def wait_for(what: Callable[[], object], sweep: Sweep) -> None:
    """Returns once it is true; fails with the jobs' words."""
    due = time.monotonic() + LIMIT
    while not what():
        if time.monotonic() > due:
            logs = sorted((sweep.path / "rendered" / "slurm").glob("*.out"))
            pytest.fail("\n".join(log.read_text()[-2000:] for log in logs))
        time.sleep(0.02)


def outcomes(sweep: Sweep, run_id: str) -> list[str]:
    """How each attempt ended so far."""
    found = events.read(sweep.attempts(run_id))
    return [each["outcome"] for each in found if each["event"] == "ended"]


def losses(sweep: Sweep, run_id: str) -> dict[int, float]:
    """Of each logged step."""
    lines = (sweep.workdir(run_id) / "metrics.jsonl").read_text().splitlines()
    read = [json.loads(line) for line in lines]
    return {line["step"]: line["loss"] for line in read if "loss" in line}


def shown(*command: str) -> str:
    """What a command of Slurm's says."""
    return subprocess.check_output(command, text=True).strip()


def job_of(sweep: Sweep, run_id: str) -> str:
    found = events.read(sweep.attempts(run_id))
    return next(each["job"] for each in found if each["event"] == "submitted")


def ended_states(sweep: Sweep) -> dict[str, str]:
    """What the accounting says of each run's job, as "FAILED 1:0"."""
    states = dict(
        line.split("|", 1)
        for line in shown(
            *("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode")
        ).splitlines()
    )
    return {
        run.id: states[job_of(sweep, run.id)].replace("|", " ")
        for run in sweep.runs
    }


def signal_trainer(sweep: Sweep, run_id: str, number: int) -> None:
    """To the child of the one who has noted that an attempt started."""

    def starts() -> list[dict]:
        found = events.read(sweep.attempts(run_id))
        return [each for each in found if each["event"] == "started"]

    wait_for(starts, sweep)
    wrapper = starts()[0]["pid"]
    children = Path(f"/proc/{wrapper}/task/{wrapper}/children")
    wait_for(lambda: children.read_text().split(), sweep)
    for pid in children.read_text().split():
        os.kill(int(pid), number)


@pytest.fixture(scope="module")
def swept(cluster, make) -> Sweep:
    """An array of four, two at once; see the tests for what befell each."""
    long = [
        *(f"train.steps={LONG}", "train.log_every=10"),
        *("train.checkpoint_every=50", "optim.schedule=constant"),
    ]
    sweep = make(
        {
            "disturbed-00000001": long,
            "calm-00000002": long,
            "mistake-00000003": ["data.source=folder:/absent"],
            "killed-00000004": ["optim.schedule=constant"],
        }
    )
    backend = load_backend("slurm:partition=low,cpus_per_task=3,time=5")
    assert backend.submit(sweep, sweep.runs, False) == 0
    first, last = sweep.runs[0].id, sweep.runs[-1].id

    metrics = sweep.workdir(first) / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text(), sweep)
    # It must not end before it is preempted; Slurm wakes it up then.
    signal_trainer(sweep, first, signal.SIGSTOP)
    assert backend.poll(sweep, sweep.runs)[first] == "running"
    assert backend.poll(sweep, sweep.runs)[last] == "queued"
    node = shown("squeue", "-h", "-j", job_of(sweep, first), "-o", "%N")
    shown(
        *("sbatch", "-p", "high", "-w", node, "-c", "4", "-o", "/dev/null"),
        *("--wrap", "sleep 1"),
    )
    signal_trainer(sweep, last, signal.SIGKILL)
    wait_for(
        lambda: set(backend.poll(sweep, sweep.runs).values()) == {"gone"}, sweep
    )
    return sweep


def test_all_runs_of_an_array_come_to_their_own_end(swept):
    # The accounting comes a little after.
    wait_for(lambda: "RUNNING" not in str(ended_states(swept)), swept)
    assert ended_states(swept) == {
        "disturbed-00000001": "COMPLETED 0:0",
        "calm-00000002": "COMPLETED 0:0",
        "mistake-00000003": "FAILED 1:0",
        "killed-00000004": "COMPLETED 0:0",
    }
    assert outcomes(swept, "calm-00000002") == ["done"]
    assert outcomes(swept, "mistake-00000003") == ["mistake"]


def test_preempted_run_goes_on_to_the_same_losses(swept):
    assert outcomes(swept, "disturbed-00000001") == ["preempted", "done"]
    disturbed = losses(swept, "disturbed-00000001")
    calm = losses(swept, "calm-00000002")
    assert max(calm) == LONG
    # It has logged the step it was preempted at, too.
    assert {step: disturbed[step] for step in calm} == calm


def test_killed_trainer_is_started_again_alone(swept):
    assert outcomes(swept, "killed-00000004") == ["crashed", "done"]
    # One job of an array has the array's own id: requeued by that, all of
    # them would start again. An ended run would say so in its job's log.
    log = swept.path / "rendered" / "slurm"
    for run in swept.runs[1:3]:
        (text,) = log.glob(f"{job_of(swept, run.id)}_0_log.out")
        assert text.read_text().count("Starting with JobEnvironment") == 1


def test_srun_has_the_cpus_that_sbatch_was_given(swept):
    scripts = list((swept.path / "rendered" / "slurm").glob("*submission*.sh"))
    assert scripts
    for script in scripts:
        srun = re.search(r"^srun .*", script.read_text(), re.MULTILINE)
        assert "--cpus-per-task=3 " in srun[0]


def test_run_trains_on_two_nodes(swept, make):
    two = "two-00000005"
    sweep = make({two: ["train.steps=4", "optim.schedule=constant"]})
    backend = load_backend("slurm:nodes=2,cpus_per_task=1,time=5")
    assert backend.submit(sweep, sweep.runs, False) == 0
    wait_for(lambda: backend.poll(sweep, sweep.runs) == {two: "gone"}, sweep)
    assert outcomes(sweep, two) == ["done"]
    logs = sorted(file.name for file in sweep.attempts(two).glob("log-*"))
    assert logs == ["log-1.host1.txt", "log-1.txt"]
    metadata = read_json(sweep.workdir(two) / "metadata.json")
    assert (metadata["hosts"], metadata["devices"]) == (2, 2)
    # The same run as on one node, but for the order of sums.
    one = losses(swept, "killed-00000004")
    for step, loss in losses(sweep, two).items():
        assert loss == pytest.approx(one[step], rel=1e-4)


def test_cancelled_jobs_leave_the_queue_and_stay_away(swept, make):
    waiting = "waiting-00000006"
    sweep = make({waiting: []})
    # Nothing starts before tomorrow.
    backend = load_backend("slurm:time=5,extra=begin=now+1day")
    backend.submit(sweep, sweep.runs, False)
    assert backend.poll(sweep, sweep.runs) == {waiting: "queued"}
    backend.cancel(sweep, sweep.runs)
    wait_for(
        lambda: backend.poll(sweep, sweep.runs) == {waiting: "gone"}, sweep
    )
    backend.cancel(sweep, sweep.runs)  # of what is over: no error


def test_what_slurm_refuses_is_one_sentence(cluster, make):
    sweep = make({"refused-00000007": []})
    backend = load_backend("slurm:partition=nowhere")
    with pytest.raises(UserError, match=r"sbatch .*partition.*slurm"):
        backend.submit(sweep, sweep.runs, False)
    assert not events.read(sweep.attempts("refused-00000007"))
