"""Kubernetes JobSet of a run of a sweep, a dict that becomes YAML.

https://jobset.sigs.k8s.io: one replicated Job named "run", a Job a TPU slice
(or one for all GPU nodes), a pod a host.
"""

import math
import re
from string import Template
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launch_support import engines
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

SWEEP, RUN = "i2i-prior/sweep", "i2i-prior/run"  # labels
# GKE's label of the nodes, and chips of a host of more than one.
_TPUS = {
    "v4": ("tpu-v4-podslice", 4),
    "v5e": ("tpu-v5-lite-podslice", 4),
    "v5p": ("tpu-v5p-slice", 4),
    "v6e": ("tpu-v6e-slice", 4),
}
_ONE_HOST = ("v5e", "v6e")  # slices of up to 8 chips are one host
_SPOT = "cloud.google.com/gke-spot"

# Exit codes that start a run again: 75 (saved), 137 (killed, as for memory)
# and 143 (a SIGTERM before it was handled). All others are final, because
# `sweep run` has counted the attempts. One pod cannot go on alone, so the
# backoff limit is 0 and all pods start again. A lost node takes its pod along
# with any exit code: DisruptionTarget comes first.
_JOBSET = Template("""
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  namespace: '$namespace'
spec:
  failurePolicy:
    maxRestarts: $max_restarts
    rules:
    - name: final
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
    - name: again
      action: RestartJobSet
  replicatedJobs:
  - name: run
    replicas: $jobs
    template:
      spec:
        parallelism: $hosts
        completions: $hosts
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: Count
            onPodConditions:
            - {type: DisruptionTarget, status: 'True'}
          - action: FailJob
            onExitCodes:
              containerName: run
              operator: NotIn
              values: [75, 137, 143]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: $grace
            containers:
            - name: run
""")
# Read by `distributed.cluster.detect`. JobSet gives pod 0 of Job 0 this host
# name in a service of its own; Kubernetes counts the pods of a Job.
_ENVIRONMENT = Template("""
- {name: I2I_PRIOR_COORDINATOR, value: '$name-run-0-0.$name:8476'}
- {name: I2I_PRIOR_PROCESSES, value: '$processes'}
- {name: I2I_PRIOR_JOBS, value: '$jobs'}
- name: I2I_PRIOR_JOB_INDEX
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['jobset.sigs.k8s.io/job-index']
""")


def manifest(
    sweep: Sweep, run: PlannedRun, options: ConfigDict
) -> dict[str, Any]:
    """JobSet of a run. Raises UserError for options that contradict."""
    import yaml

    engines.require("gke", image=options.image)
    name = engines.job_name(sweep, run)
    hosts, jobs = _hosts(options)
    values = {**options, "name": name, "hosts": hosts, "jobs": jobs}
    values["processes"] = hosts * jobs
    jobset = yaml.safe_load(_JOBSET.substitute(values))
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    labels = {
        SWEEP: engines.sweep_name(sweep),
        RUN: engines.short_name(run.id, 63),
        "app.kubernetes.io/managed-by": "i2i-prior",
    }
    job["template"]["metadata"] = {"labels": labels}
    annotations = {"i2i-prior/run-id": run.id}
    jobset["metadata"] |= {"labels": dict(labels), "annotations": annotations}
    if options.queue:
        queue = {"kueue.x-k8s.io/queue-name": options.queue}
        jobset["metadata"]["labels"] |= queue
    if options.tpu:
        # A slice is a node pool: two runs never share its links.
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = (
            "cloud.google.com/gke-nodepool"
        )
    environment = _ENVIRONMENT.substitute(values) if hosts * jobs > 1 else "[]"
    selector, devices = _accelerator(options)
    container |= {
        "image": options.image,
        "command": engines.attempt_command(
            sweep, run, options.sweep_path, options.python
        ),
        "env": yaml.safe_load(environment),
        # Devices are not overcommitted: requests are limits.
        "resources": dict.fromkeys(("requests", "limits"), devices)
        if devices
        else {},
    }
    if options.spot:
        selector[_SPOT] = "true"
        toleration = {"key": _SPOT, "operator": "Equal", "value": "true"}
        pod["tolerations"] = [{**toleration, "effect": "NoSchedule"}]
    if selector:
        pod["nodeSelector"] = selector
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    if options.volume:
        pod["volumes"] = [{"name": "sweeps", **_volume(options.volume)}]
        mount = {"name": "sweeps", "mountPath": options.mount}
        container["volumeMounts"] = [mount]
    if options.volume.startswith("gcs:"):
        gcsfuse = {"gke-gcsfuse/volumes": "true"}
        job["template"]["metadata"]["annotations"] = gcsfuse
    return jobset


def _hosts(options: ConfigDict) -> tuple[int, int]:
    """Hosts of a Job, and Jobs."""
    for name in ("slices", "nodes"):
        if options[name] < 1:  # would be done at once, with nothing run
            raise UserError(
                f"{name}={options[name]} runs nothing; give 1 or more"
            )
    if options.tpu:
        chips, host_chips, _ = _slice(options.tpu)
        return chips // host_chips, options.slices
    return options.nodes, 1


def _accelerator(options: ConfigDict) -> tuple[dict[str, str], dict[str, str]]:
    """Node selector, and devices of a pod."""
    if options.tpu and options.gpu:
        raise UserError("tpu= and gpu= exclude each other; give one of them")
    if options.tpu:
        _, host_chips, label = _slice(options.tpu)
        selector = {
            "cloud.google.com/gke-tpu-accelerator": label,
            "cloud.google.com/gke-tpu-topology": options.tpu.split(":")[1],
        }
        return selector, {"google.com/tpu": str(host_chips)}
    if options.gpu:
        selector = {"cloud.google.com/gke-accelerator": options.gpu}
        return selector, {"nvidia.com/gpu": str(options.gpus_per_node)}
    return {}, {}


def _slice(text: str) -> tuple[int, int, str]:
    """Chips of a slice, chips of one of its hosts, and its nodes' label."""
    kind, _, topology = text.partition(":")
    if kind not in _TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", topology):
        raise UserError(
            f"tpu={text} is no TPU slice; write KIND:TOPOLOGY, as v5e:4x4, "
            f"with a kind of {', '.join(_TPUS)}"
        )
    label, host_chips = _TPUS[kind]
    chips = math.prod(map(int, topology.split("x")))
    if chips < host_chips or (kind in _ONE_HOST and chips <= 8):
        host_chips = chips
    return chips, host_chips, label


def _volume(text: str) -> dict[str, Any]:
    """Source of a Kubernetes volume."""
    kind, _, name = text.partition(":")
    if kind == "pvc" and name:
        return {"persistentVolumeClaim": {"claimName": name}}
    if kind == "gcs" and name:
        csi = {
            "driver": "gcsfuse.csi.storage.gke.io",
            "volumeAttributes": {"bucketName": name},
        }
        return {"csi": csi}
    raise UserError(
        f"volume={text} is no volume; write pvc:CLAIM or gcs:BUCKET"
    )
