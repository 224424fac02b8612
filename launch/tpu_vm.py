"""Runs of a sweep on TPU VMs of their own: one queued resource a run.

    i2i-prior sweep submit SWEEP --backend tpu_vm:zone=us-east5-b,\
      accelerator=v6e-16,runtime=v2-alpha-tpuv6e,setup=mount_and_install.sh,\
      python=/opt/venv/bin/python,sweep_path=/sweeps/a,spot=true

`setup` is a file of shell lines that each host runs as root when it boots: it
mounts the file system with the sweep's folder and installs this package. Every
host then trains, again after exit code 75 or a reboot; when the run has ended
its first host deletes the queued resource, for which the VM's service account
needs the role TPU Admin. A preempted spot slice is created again by another
`sweep submit`.
"""

import json
import shlex
from pathlib import Path

from ml_collections import ConfigDict

from i2i_prior.sweeps.launch_support import engines
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

OPTIONS = {
    "zone": "",
    "project": "",  # "" for gcloud's own
    "accelerator": "",  # v6e-16
    "runtime": "",  # the TPU software version, as v2-alpha-tpuv6e
    "setup": "",  # a file of shell lines; it must not exit
    "python": "python3",  # on the hosts, after setup
    "sweep_path": "",  # the sweep's folder on hosts; "" as here
    "spot": False,
    "reserved": False,
    "valid_for": "",  # how long it may wait in the queue, as 6h; "" for ever
    "service_account": "",
    "network": "",
}
_INSTALL = "install the Google Cloud CLI: https://cloud.google.com/sdk"
_STATES = {
    **dict.fromkeys(("ACCEPTED", "PROVISIONING", "CREATING"), "queued"),
    "WAITING_FOR_RESOURCES": "queued",
    "ACTIVE": "running",
}  # others have failed, or were preempted
_LABEL = "i2i-prior-sweep"

# Runs on every host at each boot. The metadata of a TPU VM has the number of
# the host in its slice, and the slice's addresses.
_SCRIPT = """\
#!/bin/bash
# {run}
metadata() {{
  curl -sf -H 'Metadata-Flavor: Google' \\
    "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}}
worker=$(metadata attributes/agent-worker-number || echo 0)
hosts=$(metadata attributes/worker-network-endpoints |
  tr ',' '\\n' | cut -d: -f3)
count=$(printf '%s\\n' "$hosts" | grep -c .)
if [ "$count" -gt 1 ]; then
  export I2I_PRIOR_COORDINATOR="$(printf '%s\\n' "$hosts" | head -n1):8476"
  export I2I_PRIOR_PROCESSES="$count" I2I_PRIOR_PROCESS_ID="$worker"
fi
# --- setup
{setup}
# ---
code=75
while [ "$code" -eq 75 ]; do
  {command}
  code=$?
  # A host that is shut down keeps its disk, and boots into this script.
  [ "$code" -ne 75 ] || sleep "${{I2I_PRIOR_PAUSE:-10}}"
done
echo "{run} ended with exit code $code"
if [ "$worker" = 0 ]; then
  {delete}
fi
exit "$code"
"""


def submit(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict, dry_run: bool
) -> int:
    """Creates a queued resource a run; one that exists is left alone."""
    engines.require(
        "tpu_vm",
        zone=options.zone,
        accelerator=options.accelerator,
        runtime=options.runtime,
    )
    scripts = {run.id: startup_script(sweep, run, options) for run in runs}
    found = {} if dry_run else _states(sweep, options)
    for run in runs:
        name = engines.job_name(sweep, run)
        file = sweep.path / "rendered" / "tpu_vm" / f"{run.id}.sh"
        command = create_command(sweep, run, options, file)
        if dry_run:
            print(f"# {file}\n{scripts[run.id]}\n{shlex.join(command)}\n")
            continue
        engines.render(sweep, "tpu_vm", file.name, scripts[run.id])
        if found.get(name) == "gone":
            engines.call(_delete(name, options), _INSTALL, ("NOT_FOUND",))
        engines.call(command, _INSTALL, ("ALREADY_EXISTS", "already exists"))
        engines.note_submitted(sweep, run, "tpu_vm", name)
    left = _list_command(sweep, options)
    print(
        f"{len(runs)} queued resources; each is deleted when its run has "
        f"ended. What is left of them: {shlex.join(left)}; i2i-prior sweep "
        f"cancel {sweep.quoted} deletes it"
    )
    return 0


def poll(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> dict[str, str]:
    """Asks for the states of the sweep's queued resources."""
    return engines.hints(sweep, runs, _states(sweep, options)) if runs else {}


def cancel(sweep: Sweep, runs: list[PlannedRun], options: ConfigDict) -> None:
    """Deletes the queued resources and their TPUs."""
    for run in runs:
        name = engines.job_name(sweep, run)
        engines.call(_delete(name, options), _INSTALL, ("NOT_FOUND",))


def startup_script(sweep: Sweep, run: PlannedRun, options: ConfigDict) -> str:
    """Startup script of each host of a run.

    Raises:
      UserError: the file of `setup` cannot be read.
    """
    setup = engines.read_setup(options).rstrip() if options.setup else ":"
    inside = engines.attempt_command(
        sweep, run, options.sweep_path, options.python
    )
    return _SCRIPT.format(
        run=run.id,
        setup=setup,
        command=shlex.join(inside),
        delete=shlex.join(_delete(engines.job_name(sweep, run), options)),
    )


def create_command(
    sweep: Sweep, run: PlannedRun, options: ConfigDict, script: Path
) -> list[str]:
    """Command `gcloud compute tpus queued-resources create` of a run."""
    name = engines.job_name(sweep, run)
    command = [
        *_gcloud(options, "create"),
        name,
        f"--node-id={name}",
        f"--accelerator-type={options.accelerator}",
        f"--runtime-version={options.runtime}",
        f"--labels={_LABEL}={engines.sweep_name(sweep)}",
        # A ^;^ in front: paths may have commas.
        f"--metadata-from-file=^;^startup-script={script}",
    ]
    more = {
        "--valid-until-duration": options.valid_for,
        "--service-account": options.service_account,
        "--network": options.network,
    }
    command += [f"{flag}={value}" for flag, value in more.items() if value]
    command += ["--scopes=https://www.googleapis.com/auth/cloud-platform"]
    return (
        command
        + ["--spot"] * bool(options.spot)
        + ["--reserved"] * bool(options.reserved)
    )


def _gcloud(options: ConfigDict, verb: str) -> list[str]:
    command = [*("gcloud", "compute", "tpus", "queued-resources"), verb]
    command.append(f"--zone={options.zone}")
    if options.project:
        command.append(f"--project={options.project}")
    return command


def _list_command(sweep: Sweep, options: ConfigDict) -> list[str]:
    ending = engines.path_digest(sweep)
    return [*_gcloud(options, "list"), f"--filter=name~-{ending}$"]


def _delete(name: str, options: ConfigDict) -> list[str]:
    return [*_gcloud(options, "delete"), name, "--force", "--quiet", "--async"]


def _states(sweep: Sweep, options: ConfigDict) -> dict[str, str]:
    """Lists the queued resources of a sweep, name -> state."""
    command = [*_list_command(sweep, options), "--format=json"]
    text = engines.call(command, _INSTALL)
    found = {}
    for each in json.loads(text or "[]"):
        state = each.get("state", {}).get("state", "")
        found[each["name"].rpartition("/")[2]] = _STATES.get(state, "gone")
    return found
