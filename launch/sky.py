"""Runs of a sweep on any cloud, as SkyPilot's managed jobs: one job a run.

    pip install 'i2i-prior[sky]'
    i2i-prior sweep submit SWEEP --backend \
      sky:accelerators=H100:8,spot=true,bucket=gs://me/sweeps,sweep_path=/sweeps/a

The sweep's folder lies in the bucket, which is mounted at `mount`; or `setup`,
a file of shell lines, mounts a file system with locks, which is better. A job
with exit code 75, or on a preempted machine, is started again, elsewhere if
need be; all other codes are final. SkyPilot accepts a second job of the same
name: this file checks for one.
"""

import json
import shlex
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launch_support import engines
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

OPTIONS = {
    "accelerators": "",  # H100:8, tpu-v5e-16; "" for a CPU machine
    "infra": "",  # gcp/us-east5, k8s, slurm/cluster; "" for the cheapest
    "spot": False,
    "nodes": 1,  # of a run
    "image": "",  # an image or docker:NAME; "" for SkyPilot's own
    "bucket": "",  # gs://NAME/FOLDER or s3://, mounted at
    "mount": "/sweeps",
    "sweep_path": "",  # the sweep's folder on machines; "" as here
    "setup": "",  # a file of shell lines: installs, once a machine
    "python": "python",  # on the machines, after setup
    "strategy": "EAGER_NEXT_REGION",  # or FAILOVER: first where it was
    "max_restarts": 0,  # on other exit codes: `sweep run` has counted
}
_INSTALL = "install it with: pip install 'i2i-prior[sky]'"
# Its parser takes any text.
_STRATEGIES = ("EAGER_NEXT_REGION", "FAILOVER")
_QUEUED = ("PENDING", "SUBMITTED", "STARTING", "RECOVERING")
_RUNNING = ("RUNNING", "WINDING_DOWN", "CANCELLING")
# Variables of `distributed.cluster.detect`; a TPU slice has more hosts than
# SkyPilot has nodes.
_CLUSTER = """\
if [ "$(echo "$SKYPILOT_NODE_IPS" | wc -l)" -gt 1 ]; then
  export I2I_PRIOR_COORDINATOR="$(echo "$SKYPILOT_NODE_IPS" | head -n1):8476"
  export I2I_PRIOR_PROCESSES="$(echo "$SKYPILOT_NODE_IPS" | wc -l)"
  export I2I_PRIOR_PROCESS_ID="$SKYPILOT_NODE_RANK"
fi
"""


def submit(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict, dry_run: bool
) -> int:
    """Launches a managed job a run, unless it is under way."""
    texts = {run.id: engines.as_yaml(task(sweep, run, options)) for run in runs}
    under_way = {} if dry_run else _job_states()
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
        engines.note_submitted(sweep, run, "sky", name)
    if not dry_run:
        print(f"submitted {len(runs)} runs; sky jobs queue shows them, too")
    return 0


def poll(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> dict[str, str]:
    """Asks `sky jobs queue` for the states of jobs."""
    return engines.hints(sweep, runs, _job_states()) if runs else {}


def cancel(sweep: Sweep, runs: list[PlannedRun], options: ConfigDict) -> None:
    """Cancels the jobs that are under way."""
    under_way = _job_states() if runs else {}
    for run in runs:
        name = engines.job_name(sweep, run)
        if name in under_way:
            engines.call(["sky", "jobs", "cancel", "-y", "-n", name], _INSTALL)


def task(sweep: Sweep, run: PlannedRun, options: ConfigDict) -> dict[str, Any]:
    """SkyPilot's task of a run, a dict that becomes YAML.

    Raises:
      UserError: the strategy is unknown, or the setup cannot be read.
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
        # exec: a signal to the job reaches the command.
        "run": f"{_CLUSTER}exec {shlex.join(inside)}\n",
    }
    if options.bucket:
        found["file_mounts"] = {
            options.mount: {"source": options.bucket, "mode": "MOUNT"}
        }
    if options.setup:
        found["setup"] = engines.read_setup(options)
    return found


def _job_states() -> dict[str, str]:
    """Lists the managed jobs that have not ended, name -> state."""
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
