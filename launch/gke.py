"""Runs of a sweep on GKE: one JobSet a run, queued by Kueue.

    i2i-prior sweep submit SWEEP --backend \
      gke:image=IMG,queue=tpus,tpu=v5e:4x4,volume=pvc:sweeps,sweep_path=/sweeps/a

The sweep's folder lies on the volume; `sweep_path` is its path in pods, and
submit writes to its path here. `kubectl apply` is called with
SWEEP/rendered/gke/RUN.yaml. All pods of a run start again together after exit
code 75 or a lost node, and never after another code. A Filestore volume
(pvc:NAME) is better than a bucket (gcs:NAME), which has no locks.

With engine=xpk,cluster=NAME (and tpu=v5litepod-16, as xpk calls it) `xpk
workload create` makes the JobSet, and --dry-run prints the commands. It sends
usage statistics until `xpk config set send-telemetry false`.
"""

import json
import shlex
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.sweeps.launch_support import engines, jobset
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

OPTIONS = {
    "image": "",  # with this package installed
    "python": "python",  # in the image
    "sweep_path": "",  # the sweep's folder in pods; "" as here
    "volume": "",  # pvc:CLAIM or gcs:BUCKET
    "mount": "/sweeps",  # path of the volume in pods
    "queue": "",  # Kueue's local queue; "" for no queue
    "namespace": "default",
    "tpu": "",  # v5e:4x4 as `sweep plan --accelerator`; or
    "slices": 1,
    "gpu": "",  # nvidia-h100-80gb, as the node pool says; with
    "gpus_per_node": 8,
    "nodes": 1,  # of a run, where it has no TPU
    "spot": False,
    "service_account": "",
    "grace": 300,  # seconds to save in
    "max_restarts": 120,  # above the bounds of `sweep run` itself
    "engine": "kubectl",  # or xpk
    "cluster": "",  # xpk's
}
_KUBECTL = "install it with: gcloud components install kubectl"
_XPK = "install it with: pip install xpk"


def submit(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict, dry_run: bool
) -> int:
    """Applies a manifest a run; a JobSet that exists is left alone."""
    if options.engine == "xpk":
        return _submit_with_xpk(sweep, runs, options, dry_run)
    manifests = {
        run.id: engines.as_yaml(jobset.manifest(sweep, run, options))
        for run in runs
    }
    if dry_run:
        print("---\n".join(manifests.values()), end="")
        return 0
    _delete_ended(sweep, runs, options)
    for run in runs:
        file = engines.render(sweep, "gke", f"{run.id}.yaml", manifests[run.id])
        _kubectl(options, "apply", "-f", str(file))
        engines.note_submitted(sweep, run, "gke", engines.job_name(sweep, run))
    print(f"submitted {len(runs)} runs; sweep cancel deletes their JobSets")
    return 0


def poll(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> dict[str, str]:
    """Asks the cluster for the states of the sweep's JobSets."""
    if not runs:
        return {}
    return engines.hints(sweep, runs, _jobset_states(sweep, options))


def cancel(sweep: Sweep, runs: list[PlannedRun], options: ConfigDict) -> None:
    """Deletes the JobSets; their pods have `grace` seconds to save."""
    if runs:
        names = [engines.job_name(sweep, run) for run in runs]
        delete = "delete", "jobset", "--ignore-not-found", "--wait=false"
        _kubectl(options, *delete, *names)


def _delete_ended(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> None:
    """Deletes JobSets that have ended: `apply` would leave them as they are."""
    found = _jobset_states(sweep, options)
    names = [engines.job_name(sweep, run) for run in runs]
    ended = [name for name in names if found.get(name) == "gone"]
    if ended:
        _kubectl(options, "delete", "jobset", "--ignore-not-found", *ended)


def _kubectl(options: ConfigDict, *arguments: str) -> str:
    return engines.call(
        ["kubectl", "--namespace", options.namespace, *arguments], _KUBECTL
    )


def _jobset_states(sweep: Sweep, options: ConfigDict) -> dict[str, str]:
    """Asks the cluster for the JobSets of a sweep, name -> state."""
    label = f"{jobset.SWEEP}={engines.sweep_name(sweep)}"
    if options.engine == "xpk":
        label = "xpk.google.com/workload"  # xpk's only label
    text = _kubectl(options, "get", "jobset", "-l", label, "-o", "json")
    return {
        each["metadata"]["name"]: _state(each)
        for each in json.loads(text)["items"]
    }


def _state(found: dict[str, Any]) -> str:
    conditions = found.get("status", {}).get("conditions", [])
    if any(
        each["type"] in ("Completed", "Failed") and each["status"] == "True"
        for each in conditions
    ):
        return "gone"
    return "queued" if found["spec"].get("suspend") else "running"


def _submit_with_xpk(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict, dry_run: bool
) -> int:
    commands = {run.id: xpk_command(sweep, run, options) for run in runs}
    if dry_run:
        print(*map(shlex.join, commands.values()), sep="\n")
        return 0
    _delete_ended(sweep, runs, options)
    for run in runs:
        engines.call(commands[run.id], _XPK, harmless=("already exists",))
        engines.note_submitted(sweep, run, "gke", engines.job_name(sweep, run))
    return 0


def xpk_command(
    sweep: Sweep, run: PlannedRun, options: ConfigDict
) -> list[str]:
    """Command `xpk workload create` of a run.

    Without --restart-on-exit-codes its JobSet would fail for good at the
    first exit code 75, whatever --max-restarts says.
    """
    engines.require(
        "gke", image=options.image, cluster=options.cluster, tpu=options.tpu
    )
    inside = engines.attempt_command(
        sweep, run, options.sweep_path, options.python
    )
    command = [
        *("xpk", "workload", "create"),
        f"--cluster={options.cluster}",
        f"--workload={engines.job_name(sweep, run)}",
        f"--tpu-type={options.tpu}",
        f"--num-slices={options.slices}",
        f"--docker-image={options.image}",
        f"--max-restarts={options.max_restarts}",
        "--restart-on-exit-codes=75",
        f"--termination-grace-period-seconds={options.grace}",
        f"--namespace={options.namespace}",
        f"--command={shlex.join(inside)}",
    ]
    return command + ["--spot"] * bool(options.spot)
