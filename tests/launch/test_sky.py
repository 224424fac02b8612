"""Tasks through SkyPilot's own parser, and what its command is asked."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from i2i_prior.distributed.cluster import detect
from i2i_prior.errors import UserError
from i2i_prior.sweeps.launch_support import engines
from i2i_prior.sweeps.launch_support.engines import job_name
from tests.launch.fixtures_sweeps import submitted

VARIANTS = {
    "gpu": {
        "accelerators": "H100:8",
        "nodes": 2,
        "spot": True,
        "bucket": "gs://sweeps/a",
        "sweep_path": "/sweeps/a",
    },
    "tpu": {"accelerators": "tpu-v5e-16", "infra": "gcp/us-west4"},
    "kubernetes": {"accelerators": "H100:1", "infra": "k8s"},
    "slurm": {"infra": "slurm/lab/low", "image": "docker:i2i"},
}


@pytest.fixture
def sky(backend, tmp_path):
    """sky(spot=True): the backend, with a setup."""
    setup = tmp_path / "setup.sh"
    setup.write_text("pip install i2i-prior\n")
    return lambda **options: backend("sky", setup=setup, **options)


@pytest.fixture(params=VARIANTS)
def task(request, sweep, sky) -> dict:
    found = sky(**VARIANTS[request.param])
    made = found.module.task(sweep, sweep.runs[0], found.options)
    return yaml.safe_load(engines.as_yaml(made))


@pytest.mark.skipif(
    importlib.util.find_spec("sky") is None, reason="skypilot is absent"
)
def test_skypilot_takes_the_task(task):
    import sky

    parsed = sky.Task.from_yaml_config(task)
    (resources,) = parsed.resources
    assert resources.job_recovery["recover_on_exit_codes"] == [75]
    assert parsed.num_nodes == task["num_nodes"]
    task["resources"]["acelerators"] = "H100:8"
    with pytest.raises(ValueError, match="acelerators"):
        sky.Task.from_yaml_config(task)


def test_only_75_starts_a_job_again(task):
    recovery = task["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [75]
    assert recovery["max_restarts_on_errors"] == 0
    assert recovery["strategy"] == "EAGER_NEXT_REGION"


@pytest.mark.parametrize("hosts", [1, 3])
def test_hosts_of_a_job_find_each_other(sweep, sky, stand_in, hosts):
    """The task's own shell lines, with what SkyPilot sets."""
    python = stand_in("python")
    environ = python.calls_file.with_name("environ")
    python.answers(f"env > '{environ}'; exit 75")
    found = sky(sweep_path="/sweeps/it's")
    made = found.module.task(sweep, sweep.runs[0], found.options)
    ips = "\n".join(f"10.0.0.{number}" for number in range(hosts))
    done = subprocess.run(
        ["bash", "-c", made["run"]],
        env={
            **os.environ,
            "SKYPILOT_NODE_IPS": ips,
            "SKYPILOT_NODE_RANK": str(hosts - 1),
        },
        timeout=20,
    )
    assert done.returncode == 75
    run = ["sweep", "run", "/sweeps/it's", sweep.runs[0].id]
    assert python.calls[0][-4:] == run
    lines = [
        line
        for line in environ.read_text().splitlines()
        if line.startswith("I2I_PRIOR_")
    ]
    settings = detect(dict(line.split("=", 1) for line in lines))
    if hosts == 1:
        assert settings is None
    else:
        assert settings.coordinator == "10.0.0.0:8476"
        assert (settings.processes, settings.process_id) == (3, 2)


def test_submit_poll_and_cancel(sweep, sky, stand_in, capsys):
    program = stand_in("sky")
    first, second = (job_name(sweep, run) for run in sweep.runs)
    jobs = [
        {"job_name": first, "status": "RECOVERING"},
        {"job_name": "another", "status": "RUNNING"},
    ]
    program.answers(f"case $2 in queue) echo '{json.dumps(jobs)}';; esac")
    found = sky(accelerators="H100:8")
    assert found.submit(sweep, sweep.runs, dry_run=True) == 0
    assert program.calls == []
    assert "sky jobs launch -y -d -n" in capsys.readouterr().out

    assert found.submit(sweep, sweep.runs, dry_run=False) == 0
    # The first is under way: SkyPilot itself would start it twice.
    _, launch = program.calls
    assert launch[:6] == ["jobs", "launch", "-y", "-d", "-n", second]
    made = yaml.safe_load(Path(launch[-1]).read_text())
    assert made == found.module.task(sweep, sweep.runs[1], found.options)
    for run in sweep.runs:
        assert submitted(sweep, run) == [("sky", job_name(sweep, run))]
    ids = [run.id for run in sweep.runs]
    assert found.poll(sweep, sweep.runs) == dict(
        zip(ids, ["queued", "gone"], strict=True)
    )
    found.cancel(sweep, sweep.runs)
    assert program.calls[-1] == ["jobs", "cancel", "-y", "-n", first]


def test_wrong_strategy_is_told(sweep, sky):
    """SkyPilot's parser would take it."""
    with pytest.raises(UserError, match="EAGER_NEXT_REGION or FAILOVER"):
        sky(strategy="NOPE").submit(sweep, sweep.runs, dry_run=True)
