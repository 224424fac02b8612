"""A run of a sweep as a Kubernetes JobSet, a dict that becomes YAML.

https://jobset.sigs.k8s.io: one replicated Job named "run", a Job a TPU slice
(or one for all GPU nodes), a pod a host.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launchers import engines
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

SWEEP, RUN = "i2i-prior/sweep", "i2i-prior/run"  # labels
_PORT = 8476
# What GKE's nodes are labelled with, and chips of a host of more than one.
_TPUS = {
    "v4": ("tpu-v4-podslice", 4),
    "v5e": ("tpu-v5-lite-podslice", 4),
    "v5p": ("tpu-v5p-slice", 4),
    "v6e": ("tpu-v6e-slice", 4),
}
_ONE_HOST = ("v5e", "v6e")  # up to 8 chips on a host of their own
# Save and again; killed (a container out of memory, all of it); a TERM
# before anything listened. All else is final: `sweep run` has counted.
_AGAIN = [75, 137, 143]


def manifest(
    sweep: Sweep, run: PlannedRun, options: ConfigDict
) -> dict[str, Any]:
    """The JobSet of a run.

    Args:
      sweep: whose run it is.
      run: the run.
      options: of launch/gke.py.

    Raises:
      UserError: for options that are missing or contradict each other.
    """
    engines.require("gke", image=options.image)
    name = engines.job_name(sweep, run)
    labels = {
        SWEEP: engines.sweep_name(sweep),
        RUN: engines.short_name(run.id, 63),
        "app.kubernetes.io/managed-by": "i2i-prior",
    }
    queue = {"kueue.x-k8s.io/queue-name": options.queue}
    hosts, jobs = _hosts(options)
    annotations = {"i2i-prior/run-id": run.id}
    if options.tpu:
        # A slice is a node pool: two runs never share the links of one.
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = (
            "cloud.google.com/gke-nodepool"
        )
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "namespace": options.namespace,
            "labels": {**labels, **(queue if options.queue else {})},
            "annotations": annotations,
        },
        "spec": {
            "failurePolicy": _failure_policy(options),
            "replicatedJobs": [
                {
                    "name": "run",
                    "replicas": jobs,
                    "template": {
                        "spec": {
                            "parallelism": hosts,
                            "completions": hosts,
                            "completionMode": "Indexed",
                            # A pod alone cannot go on: all start again.
                            "backoffLimit": 0,
                            "podFailurePolicy": _pod_failure_policy(),
                            "template": _pod(
                                sweep, run, options, name, labels, hosts * jobs
                            ),
                        }
                    },
                }
            ],
        },
    }


def _failure_policy(options: ConfigDict) -> dict[str, Any]:
    return {
        "maxRestarts": options.max_restarts,
        "rules": [
            {
                "name": "final",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
            },
            {"name": "again", "action": "RestartJobSet"},
        ],
    }


def _pod_failure_policy() -> dict[str, Any]:
    return {
        "rules": [
            # A node that goes takes its pod along, whatever its exit code.
            {
                "action": "Count",
                "onPodConditions": [
                    {"type": "DisruptionTarget", "status": "True"}
                ],
            },
            {
                "action": "FailJob",
                "onExitCodes": {
                    "containerName": "run",
                    "operator": "NotIn",
                    "values": _AGAIN,
                },
            },
        ]
    }


def _pod(
    sweep: Sweep,
    run: PlannedRun,
    options: ConfigDict,
    name: str,
    labels: dict[str, str],
    processes: int,
) -> dict[str, Any]:
    selector, resources = _accelerator(options)
    container: dict[str, Any] = {
        "name": "run",
        "image": options.image,
        "command": engines.attempt_command(
            sweep, run, options.sweep_path, options.python
        ),
        "env": _environment(name, processes, _hosts(options)[1]),
        "resources": resources,
    }
    spec: dict[str, Any] = {
        # podFailurePolicy needs it; restarts are the JobSet's.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "containers": [container],
    }
    metadata: dict[str, Any] = {"labels": labels}
    if options.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        spec["tolerations"] = [
            {
                "key": "cloud.google.com/gke-spot",
                "operator": "Equal",
                "value": "true",
                "effect": "NoSchedule",
            }
        ]
    if selector:
        spec["nodeSelector"] = selector
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.volume:
        spec["volumes"] = [_volume(options.volume)]
        container["volumeMounts"] = [
            {"name": "sweeps", "mountPath": options.mount}
        ]
    if options.volume.startswith("gcs:"):
        metadata["annotations"] = {"gke-gcsfuse/volumes": "true"}
    return {"metadata": metadata, "spec": spec}


def _environment(name: str, processes: int, jobs: int) -> list[dict[str, Any]]:
    """What `hosts.cluster.detect` reads; Kubernetes counts a Job's pods."""
    if processes == 1:
        return []
    index = "metadata.labels['jobset.sigs.k8s.io/job-index']"
    return [
        # JobSet gives pod 0 of Job 0 this name, in a service of its own.
        {
            "name": "I2I_PRIOR_COORDINATOR",
            "value": f"{name}-run-0-0.{name}:{_PORT}",
        },
        {"name": "I2I_PRIOR_PROCESSES", "value": str(processes)},
        {"name": "I2I_PRIOR_JOBS", "value": str(jobs)},
        {
            "name": "I2I_PRIOR_JOB_INDEX",
            "valueFrom": {"fieldRef": {"fieldPath": index}},
        },
    ]


def _hosts(options: ConfigDict) -> tuple[int, int]:
    """Hosts of a Job, and Jobs."""
    for name in ("slices", "nodes"):
        if options[name] < 1:  # would be done at once, with nothing run
            raise UserError(
                f"{name}={options[name]} runs nothing; give 1 or more"
            )
    if options.tpu:
        chips, a_host, _ = _slice(options.tpu)
        return chips // a_host, options.slices
    return options.nodes, 1


def _accelerator(
    options: ConfigDict,
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Labels of the nodes, and what a pod asks of one."""
    if options.tpu and options.gpu:
        raise UserError("tpu= and gpu= exclude each other; give one of them")
    if options.tpu:
        _, a_host, label = _slice(options.tpu)
        selector = {
            "cloud.google.com/gke-tpu-accelerator": label,
            "cloud.google.com/gke-tpu-topology": options.tpu.split(":")[1],
        }
        return selector, _both({"google.com/tpu": str(a_host)})
    if options.gpu:
        selector = {"cloud.google.com/gke-accelerator": options.gpu}
        return selector, _both({"nvidia.com/gpu": str(options.gpus_per_node)})
    return {}, {}


def _both(amounts: dict[str, str]) -> dict[str, dict[str, str]]:
    """Devices are not overcommitted: what is asked for is the limit, too."""
    return {"requests": amounts, "limits": amounts}


def _slice(text: str) -> tuple[int, int, str]:
    """Chips of a slice, chips of a host of it, and its nodes' label."""
    kind, _, topology = text.partition(":")
    if kind not in _TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", topology):
        raise UserError(
            f"tpu={text} is no TPU slice; write KIND:TOPOLOGY, as v5e:4x4, "
            f"with a kind of {', '.join(_TPUS)}"
        )
    label, a_host = _TPUS[kind]
    chips = math.prod(map(int, topology.split("x")))
    if chips < a_host or (kind in _ONE_HOST and chips <= 8):
        a_host = chips
    return chips, a_host, label


def _volume(text: str) -> dict[str, Any]:
    kind, _, name = text.partition(":")
    if kind == "pvc" and name:
        return {"name": "sweeps", "persistentVolumeClaim": {"claimName": name}}
    if kind == "gcs" and name:
        csi = {
            "driver": "gcsfuse.csi.storage.gke.io",
            "volumeAttributes": {"bucketName": name},
        }
        return {"name": "sweeps", "csi": csi}
    raise UserError(
        f"volume={text} is no volume; write pvc:CLAIM or gcs:BUCKET"
    )
