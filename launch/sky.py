"""Runs of a sweep on any cloud, as SkyPilot's managed jobs: one job a run.

    pip install 'i2i-prior[sky]'
    i2i-prior sweep submit SWEEP --backend \
      sky:accelerators=H100:8,spot=true,bucket=gs://me/sweeps,sweep_path=/sweeps/a

The sweep's folder lies in the bucket, which is mounted at `mount`; or `setup`,
a file of shell lines, mounts a file system that knows locks, which is better.
A job whose machine was taken away, or that ends with exit code 75, is started
again, elsewhere if need be; all other codes are final. SkyPilot asks nobody
whether a job of this name is there: this file does.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launchers import engines
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

OPTIONS = {
    "accelerators": "",  # H100:8, tpu-v5e-16; "" for a CPU machine
    "infra": "",  # gcp/us-east5, k8s, slurm/cluster; "" for the cheapest
    "spot": False,
    "nodes": 1,  # of a run
    "image": "",  # an image or docker:NAME; "" for SkyPilot's own
    "bucket": "",  # gs://NAME/FOLDER or s3://, mounted at
    "mount": "/sweeps",
    "sweep_path": "",  # the sweep's folder as machines see it; "" as here
    "setup": "",  # a file of shell lines: installs, once a machine
    "python": "python",  # on the machines, after setup
    "strategy": "EAGER_NEXT_REGION",  # or FAILOVER: first where it was
    "max_restarts": 0,  # on other exit codes: `sweep run` has counted
}
_INSTALL = "install it with: pip install 'i2i-prior[sky]'"
# Its parser takes any word.
_STRATEGIES = ("EAGER_NEXT_REGION", "FAILOVER")
_QUEUED = ("PENDING", "SUBMITTED", "STARTING", "RECOVERING")
_RUNNING = ("RUNNING", "WINDING_DOWN", "CANCELLING")
# Who takes part, in the words of `hosts.cluster.detect`; a TPU slice has more
# hosts than SkyPilot has nodes.
_WHO = """\
if [ "$(echo "$SKYPILOT_NODE_IPS" | wc -l)" -gt 1 ]; then
  export I2I_PRIOR_COORDINATOR="$(echo "$SKYPILOT_NODE_IPS" | head -n1):8476"
  export I2I_PRIOR_PROCESSES="$(echo "$SKYPILOT_NODE_IPS" | wc -l)"
  export I2I_PRIOR_PROCESS_ID="$SKYPILOT_NODE_RANK"
fi
"""


def submit(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict, dry_run: bool
) -> int:
    """Launches a managed job a run; one that is under way is left alone."""
    texts = {run.id: engines.as_yaml(task(sweep, run, options)) for run in runs}
    under_way = {} if dry_run else _under_way()
    for run in runs:
        name = engines.job_name(sweep, run)
        file = sweep.path / "rendered" / "sky" / f"{run.id}.yaml"
        command = ["sky", "jobs", "launch", "-y", "-d", "-n", name, str(file)]
        if dry_run:
            print(f"# {file}\n{texts[run.id]}{shlex.join(command)}\n")
            continue
        engines.render(sweep, "sky", file.name, texts[run.id])
        if name not in under_way:
            engines.call(command, _INSTALL)
        engines.submitted(sweep, run, "sky", name)
    if not dry_run:
        print(f"submitted {len(runs)} runs; sky jobs queue shows them, too")
    return 0


def poll(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> dict[str, str]:
    """What `sky jobs queue` says."""
    if not runs:
        return {}
    states = _under_way()
    return {
        run.id: states.get(engines.job_name(sweep, run), "gone") for run in runs
    }


def cancel(sweep: Sweep, runs: list[PlannedRun], options: ConfigDict) -> None:
    """Cancels the jobs that are under way."""
    under_way = _under_way() if runs else {}
    for run in runs:
        name = engines.job_name(sweep, run)
        if name in under_way:
            engines.call(["sky", "jobs", "cancel", "-y", "-n", name], _INSTALL)


def task(sweep: Sweep, run: PlannedRun, options: ConfigDict) -> dict[str, Any]:
    """SkyPilot's task of a run, a dict that becomes YAML.

    Raises:
      UserError: for a strategy it does not know, or a setup that cannot be
        read.
    """
    if options.strategy not in _STRATEGIES:
        raise UserError(
            f"strategy={options.strategy} is none of SkyPilot's; give "
            f"{' or '.join(_STRATEGIES)}"
        )
    resources: dict[str, Any] = {
        "use_spot": bool(options.spot),
        "job_recovery": {
            "strategy": options.strategy,
            "max_restarts_on_errors": options.max_restarts,
            "recover_on_exit_codes": [75],
        },
    }
    more = {
        "accelerators": options.accelerators,
        "infra": options.infra,
        "image_id": options.image,
    }
    resources.update({key: value for key, value in more.items() if value})
    inside = engines.attempt_command(
        sweep, run, options.sweep_path, options.python
    )
    found: dict[str, Any] = {
        "name": engines.job_name(sweep, run),
        "num_nodes": options.nodes,
        "resources": resources,
        "envs": {"I2I_PRIOR_SWEEP": engines.sweep_name(sweep)},
        # exec: a signal to the job is the command's.
        "run": f"{_WHO}exec {shlex.join(inside)}\n",
    }
    if options.bucket:
        found["file_mounts"] = {
            options.mount: {"source": options.bucket, "mode": "MOUNT"}
        }
    if options.setup:
        try:
            found["setup"] = Path(options.setup).read_text()
        except OSError as error:
            raise UserError(
                f"setup={options.setup} cannot be read ({error.strerror}); "
                "name a file of shell lines"
            ) from error
    return found


def _under_way() -> dict[str, str]:
    """The state of each managed job that has not ended, by its name."""
    text = engines.call(
        ["sky", "jobs", "queue", "--skip-finished", "--all", "-o", "json"],
        _INSTALL,
    )
    found = {}
    for job in json.loads(text or "[]"):
        if job["status"] in _QUEUED:
            found[job["job_name"]] = "queued"
        elif job["status"] in _RUNNING:
            found[job["job_name"]] = "running"
    return found
