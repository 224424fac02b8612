"""Startup scripts, run for real, and gcloud's own check of its flags."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from i2i_prior.distributed.cluster import detect
from i2i_prior.errors import UserError
from i2i_prior.sweeps.launch_support.engines import job_name
from tests.launch.fixtures_sweeps import submitted

NEEDED = {"zone": "us-east5-b", "accelerator": "v6e-16", "runtime": "v2-alpha"}


@pytest.fixture
def tpu_vm(backend, tmp_path):
    """The backend, with all options that it has."""
    setup = tmp_path / "set up.sh"
    setup.write_text("mount='a b'\n")
    return backend(
        "tpu_vm",
        **NEEDED,
        setup=setup,
        sweep_path="/mnt/it's here",
        python="/opt/my venv/bin/python",
        project="p",
        spot=True,
        valid_for="6h",
        service_account="a@b.c",
        network="n",
    )


@pytest.fixture
def boot(tpu_vm, sweep, stand_in, tmp_path):
    """boot(["75", "0"]): the script's exit code, and what it started."""

    def run(codes: list[str], worker: int = 0, hosts: int = 1):
        module = tpu_vm.module
        python = stand_in("python")
        options = tpu_vm.options.copy_and_resolve_references()
        options.python = str(python.calls_file.with_name("python"))
        text = module.startup_script(sweep, sweep.runs[0], options)
        left = tmp_path / "codes"
        left.write_text("".join(f"{code}\n" for code in codes))
        python.answers(
            f"code=$(head -n1 '{left}'); sed -i 1d '{left}'\n"
            f"env | grep I2I_PRIOR_ > '{tmp_path}/environ'\n"
            'exit "$code"'
        )
        addresses = ",".join(
            f"unknown:unknown:10.0.0.{n}" for n in range(hosts)
        )
        stand_in("curl").answers(
            f"case $* in *worker-number) echo {worker};; "
            f"*) echo {addresses};; esac"
        )
        gcloud = stand_in("gcloud")
        script = tmp_path / "startup.sh"
        script.write_text(text)
        done = subprocess.run(
            ["bash", str(script)],
            env={**os.environ, "I2I_PRIOR_PAUSE": "0"},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert not done.stderr
        return done.returncode, python.calls, gcloud.calls

    return run


def test_host_starts_again_on_75_alone(boot, sweep):
    code, started, deleted = boot(["75", "75", "0"])
    assert code == 0
    arguments = ["sweep", "run", "/mnt/it's here", sweep.runs[0].id]
    assert [call[-4:] for call in started] == [arguments] * 3
    assert [call[3] for call in deleted] == ["delete"]
    assert job_name(sweep, sweep.runs[0]) in deleted[0]


@pytest.mark.parametrize("final", ["1", "65", "137"])
def test_other_codes_are_final(boot, final):
    code, started, deleted = boot([final, "0"])
    assert (code, len(started), len(deleted)) == (int(final), 1, 1)


def test_hosts_of_a_slice_find_each_other(boot, tmp_path):
    _, _, deleted = boot(["0"], worker=2, hosts=4)
    assert deleted == []  # the first host's to do
    lines = (tmp_path / "environ").read_text().splitlines()
    found = detect(dict(line.split("=", 1) for line in lines))
    assert (found.coordinator, found.processes) == ("10.0.0.0:8476", 4)
    assert found.process_id == 2


def test_submit_poll_and_cancel(sweep, tpu_vm, stand_in, capsys):
    gcloud = stand_in("gcloud")
    first, second = (job_name(sweep, run) for run in sweep.runs)
    at = "projects/p/locations/z/queuedResources"
    listed = json.dumps(
        [
            {"name": f"{at}/{first}", "state": {"state": "ACTIVE"}},
            {"name": f"{at}/{second}", "state": {"state": "SUSPENDED"}},
        ]
    )
    gcloud.answers(
        f"case $4 in list) echo '{listed}';; "
        "create) echo ALREADY_EXISTS >&2; exit 1;; esac"
    )
    assert tpu_vm.submit(sweep, sweep.runs, dry_run=True) == 0
    assert gcloud.calls == []
    assert "queued-resources create" in capsys.readouterr().out

    assert tpu_vm.submit(sweep, sweep.runs, dry_run=False) == 0
    verbs = [call[3] for call in gcloud.calls]
    # A spot slice that was taken away is made anew.
    assert verbs == ["list", "create", "delete", "create"]
    assert second in gcloud.calls[2]
    for run in sweep.runs:
        script = sweep.path / "rendered" / "tpu_vm" / f"{run.id}.sh"
        assert run.id in script.read_text()
        assert submitted(sweep, run) == [("tpu_vm", job_name(sweep, run))]
    assert "--filter=name~-" in capsys.readouterr().out
    ids = [run.id for run in sweep.runs]
    assert tpu_vm.poll(sweep, sweep.runs) == dict(
        zip(ids, ["running", "gone"], strict=True)
    )
    tpu_vm.cancel(sweep, sweep.runs[:1])
    assert gcloud.calls[-1][3:] == [
        *("delete", "--zone=us-east5-b", "--project=p", first),
        *("--force", "--quiet", "--async"),
    ]


def test_what_is_missing_is_told(sweep, backend, tmp_path):
    with pytest.raises(UserError, match="needs accelerator, runtime"):
        backend("tpu_vm", zone="z").submit(sweep, sweep.runs, dry_run=True)
    absent = backend("tpu_vm", **NEEDED, setup=tmp_path / "absent")
    with pytest.raises(UserError, match=r"setup=.*absent cannot be read"):
        absent.submit(sweep, sweep.runs, dry_run=True)


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is absent")
def test_gcloud_knows_all_flags(sweep, tpu_vm, tmp_path, monkeypatch):
    """It checks them before it looks for credentials, and then stops."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no account"))
    script = tmp_path / "a, b.sh"
    script.write_text("true\n")
    module, options = tpu_vm.module, tpu_vm.options
    create = module.create_command(sweep, sweep.runs[0], options, script)
    for command in (create, module._delete("name", options)):
        assert "active account" in _words(command)
    assert "unrecognized arguments: --spott" in _words([*create, "--spott"])


def _words(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr


def test_absent_gcloud_is_told(sweep, tpu_vm, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="gcloud cannot be started"):
        tpu_vm.cancel(sweep, sweep.runs)
    assert not Path(sweep.path / "rendered").exists()
