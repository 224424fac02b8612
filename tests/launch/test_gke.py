"""Manifests against JobSet's own schema, and what kubectl is asked."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from i2i_prior.distributed.cluster import detect
from i2i_prior.errors import UserError
from i2i_prior.sweeps.launch_support import engines, jobset
from i2i_prior.sweeps.launch_support.engines import job_name
from i2i_prior.sweeps.run.store import open_sweep
from tests.launch.fixtures_sweeps import SHARED, submitted

CRD = SHARED / "data" / "schemas" / "jobset_crd.yaml"
TPU = {
    "image": "gcr.io/p/i2i:1",
    "tpu": "v5e:4x4",
    "slices": 2,
    "queue": "tpus",
    "volume": "pvc:sweeps",
    "sweep_path": "/sweeps/a",
    "spot": True,
}
GPU = {
    "image": "i2i",
    "gpu": "nvidia-h100-80gb",
    "nodes": 2,
    "volume": "gcs:bucket",
    "service_account": "trainer",
}


def closed(schema: Any) -> Any:
    """The schema, refusing fields that it does not name, as servers do."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema = {"type": ["integer", "string"]}
    if "properties" in schema and isinstance(schema["properties"], dict):
        schema.setdefault("additionalProperties", False)
    return schema


@pytest.fixture(scope="module")
def schema():
    """A validator of JobSets."""
    jsonschema = pytest.importorskip("jsonschema")
    if not CRD.exists():
        pytest.skip(f"{CRD} is absent")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(CRD.read_text(), loader)
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1alpha2"]
    return jsonschema.Draft202012Validator(
        closed(version["schema"]["openAPIV3Schema"])
    )


@pytest.fixture
def made(sweep, backend):
    """made(tpu="v5e:4x4"): the manifest of the sweep's first run."""

    def build(number: int = 0, **options) -> dict:
        found = backend("gke", **options).options
        return jobset.manifest(sweep, sweep.runs[number], found)

    return build


def job(manifest: dict) -> dict:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod(manifest: dict) -> dict:
    return job(manifest)["template"]["spec"]


@pytest.mark.parametrize("options", [TPU, GPU, {"image": "i2i"}])
def test_manifest_is_what_the_schema_takes(schema, made, options):
    schema.validate(yaml.safe_load(engines.as_yaml(made(**options))))


def test_closed_schema_refuses_what_a_server_would(schema, made):
    def broken(change) -> bool:
        manifest = copy.deepcopy(made(**TPU))
        change(manifest)
        return not schema.is_valid(manifest)

    assert broken(lambda m: job(m).update(parallelizm=2))
    assert broken(lambda m: pod(m).update(nodeSelektor={}))
    assert broken(lambda m: m["spec"]["failurePolicy"].update(maxRestarts="3"))
    assert broken(lambda m: m["spec"]["failurePolicy"]["rules"][0].pop("name"))
    assert broken(lambda m: pod(m)["containers"][0].pop("name"))


def restarts(manifest: dict, code: int, evicted: bool = False) -> bool:
    """Whether the policies start the run again, read as Kubernetes does."""
    reason = "BackoffLimitExceeded"
    for rule in job(manifest)["podFailurePolicy"]["rules"]:
        if "onPodConditions" in rule:
            hit = evicted
        else:
            listed = code in rule["onExitCodes"]["values"]
            negated = rule["onExitCodes"]["operator"] == "NotIn"
            hit = listed != negated
        if hit:
            if rule["action"] == "FailJob":
                reason = "PodFailurePolicy"
            break
    assert job(manifest)["backoffLimit"] == 0
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        if reason in rule.get("onJobFailureReasons", [reason]):
            return rule["action"] == "RestartJobSet"
    return True


def test_only_75_and_lost_pods_start_a_run_again(made):
    manifest = made(**TPU)
    codes = [code for code in range(1, 256) if restarts(manifest, code)]
    assert codes == [75, 137, 143]
    assert restarts(manifest, 1, evicted=True)
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 120


def test_tpu_slices(made):
    manifest = made(**TPU)
    replicated = manifest["spec"]["replicatedJobs"][0]
    assert (replicated["replicas"], job(manifest)["completions"]) == (2, 4)
    assert pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod(manifest)["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    assert container["command"][-4:] == [
        *("sweep", "run", "/sweeps/a", "w32-1e9-0a1b2c3d")
    ]
    one = made(image="i", tpu="v6e:2x4")
    assert job(one)["completions"] == 1
    (container,) = pod(one)["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": "8"}
    assert container["env"] == []
    assert "env" not in made(image="i", tpu="v5p:2x2x1")["metadata"]


@pytest.mark.parametrize(
    ("options", "pods", "jobs"), [(TPU, 4, 2), (GPU, 2, 1)]
)
def test_processes_of_a_run_find_each_other(made, options, pods, jobs):
    """The pods' variables, filled in as Kubernetes does, say who is who."""
    manifest = made(**options)
    name = manifest["metadata"]["name"]
    numbers = []
    for number in range(jobs):
        for index in range(pods):
            environ = {"JOB_COMPLETION_INDEX": str(index)}
            for each in pod(manifest)["containers"][0]["env"]:
                environ[each["name"]] = each.get("value", str(number))
            found = detect(environ)
            assert found.coordinator == f"{name}-run-0-0.{name}:8476"
            assert found.processes == pods * jobs
            numbers.append(found.process_id)
    assert numbers == list(range(pods * jobs))


def test_names_and_labels_are_what_kubernetes_takes(sweep, made):
    manifests = [made(number, **TPU) for number in (0, 1)]
    for manifest, run in zip(manifests, sweep.runs, strict=True):
        name = manifest["metadata"]["name"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        # A pod's own: Job, index, and five random letters.
        assert len(f"{name}-run-00-0000-abcde") <= 63
        for value in manifest["metadata"]["labels"].values():
            assert re.fullmatch(
                r"[a-z0-9A-Z]([-._a-zA-Z0-9]*[a-zA-Z0-9])?", value
            )
            assert len(value) <= 63
        assert manifest["metadata"]["annotations"]["i2i-prior/run-id"] == run.id
    labels = manifests[0]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "tpus"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs image"),
        ({"image": "i", "tpu": "v5e:44"}, "KIND:TOPOLOGY"),
        ({"image": "i", "tpu": "v5e:4x4", "slices": 0}, "slices=0 runs"),
        ({"image": "i", "nodes": 0}, "nodes=0 runs nothing"),
        ({"image": "i", "tpu": "v5e:4x4", "gpu": "x"}, "exclude each other"),
        ({"image": "i", "volume": "nfs:a"}, "pvc:CLAIM or gcs:BUCKET"),
    ],
)
def test_bad_options_are_told(made, options, words):
    with pytest.raises(UserError, match=words):
        made(**options)


def test_submit_poll_and_cancel(sweep, backend, stand_in):
    kubectl = stand_in("kubectl")
    gke = backend("gke", image="i", namespace="research")
    first, second = (job_name(sweep, run) for run in sweep.runs)
    items = [
        {
            "metadata": {"name": first},
            "spec": {"suspend": True},
            "status": {"conditions": [{"type": "Failed", "status": "False"}]},
        },
        {
            "metadata": {"name": second},
            "spec": {},
            "status": {"conditions": [{"type": "Failed", "status": "True"}]},
        },
    ]
    listed = json.dumps({"items": items})
    kubectl.answers(f"case $* in *' get '*) echo '{listed}';; esac")
    ids = [run.id for run in sweep.runs]

    assert gke.submit(sweep, sweep.runs, dry_run=True) == 0
    assert kubectl.calls == []
    assert not (sweep.path / "rendered").exists()

    assert gke.submit(sweep, sweep.runs, dry_run=False) == 0
    verbs = [call[2] for call in kubectl.calls]
    # What has failed is removed: kubectl would leave it as it is.
    assert verbs == ["get", "delete", "apply", "apply"]
    assert kubectl.calls[1][-1] == second
    assert all(c[:2] == ["--namespace", "research"] for c in kubectl.calls)
    for run, call in zip(sweep.runs, kubectl.calls[2:], strict=True):
        manifest = yaml.safe_load(Path(call[-1]).read_text())
        assert manifest == jobset.manifest(sweep, run, gke.options)
        assert submitted(sweep, run) == [("gke", job_name(sweep, run))]

    assert gke.poll(sweep, sweep.runs) == dict(
        zip(ids, ["queued", "gone"], strict=True)
    )
    gke.cancel(sweep, sweep.runs[:1])
    assert kubectl.calls[-1][2:4] == ["delete", "jobset"]
    assert kubectl.calls[-1][-1] == first


def test_kubectl_that_fails_or_is_absent_is_told(
    sweep, backend, stand_in, monkeypatch
):
    kubectl = stand_in("kubectl")
    kubectl.answers("echo first >&2; echo 'error: no server' >&2; exit 1")
    gke = backend("gke", image="i")
    with pytest.raises(UserError, match="exit code 1: error: no server"):
        gke.submit(sweep, sweep.runs, dry_run=False)
    assert submitted(sweep, sweep.runs[0]) == []
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="install kubectl"):
        gke.poll(sweep, sweep.runs)


def xpk_options(**more) -> dict:
    return {
        **{"image": "i", "engine": "xpk", "cluster": "c"},
        **{"tpu": "v5litepod-16", **more},
    }


def test_xpk_is_told_which_code_starts_again(sweep, backend, capsys):
    gke = backend("gke", **xpk_options())
    assert gke.submit(sweep, sweep.runs, dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "--restart-on-exit-codes=75" in line
        assert "--max-restarts=120" in line


def test_xpk_starts_an_ended_run_again(sweep, backend, stand_in):
    kubectl, xpk = stand_in("kubectl"), stand_in("xpk")
    ended = {
        "metadata": {"name": job_name(sweep, sweep.runs[1])},
        "spec": {},
        "status": {"conditions": [{"type": "Failed", "status": "True"}]},
    }
    listed = json.dumps({"items": [ended]})
    kubectl.answers(f"case $* in *' get '*) echo '{listed}';; esac")
    gke = backend("gke", **xpk_options())
    assert gke.submit(sweep, sweep.runs, dry_run=False) == 0
    assert [call[2] for call in kubectl.calls] == ["get", "delete"]
    assert kubectl.calls[1][-1] == ended["metadata"]["name"]
    assert len(xpk.calls) == 2


def test_a_sweep_is_one_by_whatever_way(sweep, tmp_path):
    """Else a second submit by a link would start all machines again."""
    (tmp_path / "link").symlink_to(sweep.path)
    linked = open_sweep(tmp_path / "link")
    assert linked.path != sweep.path
    names = [job_name(each, each.runs[0]) for each in (sweep, linked)]
    assert names[0] == names[1]


@pytest.mark.skipif(shutil.which("xpk") is None, reason="xpk is absent")
def test_xpk_writes_a_manifest_that_restarts_on_75(sweep, backend, tmp_path):
    gke = backend("gke", **xpk_options())
    command = gke.module.xpk_command(sweep, sweep.runs[0], gke.options)
    file = tmp_path / "manifest.yaml"
    offline = [
        *("--dry-run", "--skip-validation", f"--output-manifest-file={file}"),
        *("--project=p", "--zone=us-central1-a", "--project-number=1"),
    ]
    done = subprocess.run(
        command + offline, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (manifest,) = [
        each for each in yaml.safe_load_all(file.read_text()) if each
    ]
    policy = job(manifest)["podFailurePolicy"]["rules"]
    (rule,) = [rule for rule in policy if rule["action"] == "FailJob"]
    assert rule["onExitCodes"]["operator"] == "NotIn"
    assert 75 in rule["onExitCodes"]["values"]
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 120
