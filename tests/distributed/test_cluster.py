"""Settings of a run from flags and the variables of launchers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from i2i_prior.distributed import runtime
from i2i_prior.distributed.cluster import Settings, detect
from i2i_prior.distributed.launchers import expand_nodes
from i2i_prior.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
GKE = {"TPU_WORKER_HOSTNAMES": "t-0.t,t-1.t,t-2.t,t-3.t", "TPU_WORKER_ID": "2"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node001", ["node001"]),
        ("a,b", ["a", "b"]),
        ("n[1-3,7]", ["n1", "n2", "n3", "n7"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[1,3],gpu[01-02]-ib", ["n1", "n3", "gpu01-ib", "gpu02-ib"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("login-1.site", ["login-1.site"]),
    ],
)
def test_node_lists_are_written_out(text, names):
    assert expand_nodes(text) == names


def test_nothing_said_is_one_process():
    assert detect({}) is None
    assert detect({}, processes=1) is None
    assert detect({"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    assert (
        detect(
            {"JAX_COORDINATOR_ADDRESS": "h:1", "SLURM_JOB_ID": "1"}
            | {"I2I_PRIOR_PROCESSES": "1"}
        )
        is None
    )


def test_flags_count_before_variables_and_launchers():
    environ = SLURM | {"I2I_PRIOR_COORDINATOR": "other:1"}
    found = detect(environ, "h:5000", 8, 3)
    assert (found.coordinator, found.processes) == ("h:5000", 8)
    assert (found.process_id, found.origin) == (3, "flags")
    ours = {
        "I2I_PRIOR_COORDINATOR": "h:5000",
        "I2I_PRIOR_PROCESSES": "8",
        "I2I_PRIOR_PROCESS_ID": "3",
    }
    assert detect(ours) == found
    theirs = {
        "JAX_COORDINATOR_ADDRESS": "h:5000",
        "JAX_NUM_PROCESSES": "8",
        "JAX_PROCESS_ID": "3",
    }
    assert detect(theirs) == found


def test_a_kubernetes_job_counts_its_pods():
    pod = {
        "JAX_COORDINATOR_ADDRESS": "run-0-0.run:8476",
        "I2I_PRIOR_PROCESSES": "4",
        "JOB_COMPLETION_INDEX": "1",
    }
    assert detect(pod) == Settings("run-0-0.run:8476", 4, 1)
    # The second Job of a JobSet with two: its pods come after the first's.
    slice_ = pod | {"I2I_PRIOR_JOBS": "2", "I2I_PRIOR_JOB_INDEX": "1"}
    assert detect(slice_).process_id == 3
    assert detect(pod | {"I2I_PRIOR_PROCESSES": "1"}) is None
    # An indexed Job that is not ours to distribute: each pod by itself.
    assert detect({"JOB_COMPLETION_INDEX": "1"}) is None


def test_one_task_a_node_takes_all_its_gpus():
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"}
    found = detect(SLURM | gpus)
    assert found == Settings(
        "n1:61586", 2, 1, None, hosts=("n1", "n2"), origin="SLURM"
    )


@pytest.mark.parametrize(
    ("tasks", "local", "visible", "on_node", "own"),
    [
        (8, 3, "0,1,2,3,4,5,6,7", "8", (3,)),  # all see all: one each
        (2, 1, "0,1,2,3,4,5,6,7", "8", (4, 5, 6, 7)),
        (8, 3, "3", "8", None),  # --gpu-bind shows each its own
        (2, 1, "4,5,6,7", "8", None),
        (2, 1, "", "", None),  # no GPUs
    ],
)
def test_tasks_of_a_node_share_its_gpus(tasks, local, visible, on_node, own):
    environ = SLURM | {
        "SLURM_STEP_NUM_TASKS": str(2 * tasks),
        "SLURM_STEP_TASKS_PER_NODE": f"{tasks}(x2)",
        "SLURM_PROCID": str(tasks + local),
        "SLURM_LOCALID": str(local),
        "CUDA_VISIBLE_DEVICES": visible,
        "SLURM_GPUS_ON_NODE": on_node,
    }
    found = detect(environ)
    assert found.local_devices == own
    assert found.process_id == tasks + local
    assert found.hosts == ()  # srun --distribution decides


def test_gpus_that_tasks_cannot_share_are_refused():
    environ = SLURM | {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "1,3",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    }
    with pytest.raises(UserError, match="3 tasks on a node share 8 GPUs"):
        detect(environ)
    assert detect(environ | {"SLURM_NODEID": "0"}).local_devices is None


def test_slurm_without_srun_or_with_one_task_is_one_process():
    one = SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "n1"}
    assert detect(one) is None
    # A batch script that asked for eight tasks, and started one.
    batch = {
        "SLURM_JOB_ID": "4242",
        "SLURM_NTASKS": "8",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_JOB_NODELIST": "n[1-8]",
    }
    assert detect(batch) is None


def test_steps_and_jobs_have_their_own_ports():
    ports = {
        detect(SLURM | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step}).coordinator
        for job in ("1", "2")
        for step in ("0", "1")
    }
    assert len(ports) == 4
    chosen = detect(SLURM | {"JAX_COORDINATOR_PORT": "7777"})
    assert chosen.coordinator == "n1:7777"
    named = detect(SLURM | {"I2I_PRIOR_COORDINATOR": "n1-ib:7777"})
    assert named == Settings("n1-ib:7777", 2, 1)


def test_mpi_says_ranks_and_sometimes_the_first_host():
    found = detect(OPEN_MPI)
    assert (found.processes, found.process_id) == (4, 3)
    assert found.coordinator.startswith("10.96.0.1:")
    six = OPEN_MPI | {
        "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b,2620:1::2]:43"
    }
    assert detect(six).coordinator.startswith("fe80::b9b:")
    gpus = detect(OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert gpus.local_devices == (2, 3)
    intel = {"PMI_SIZE": "2", "PMI_RANK": "1"}
    with pytest.raises(UserError, match="add --coordinator HOST:PORT"):
        detect(intel)
    found = detect(intel, coordinator="h:1")
    assert found == Settings("h:1", 2, 1)
    one_node = intel | {"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}
    assert detect(one_node).coordinator.startswith("127.0.0.1:")
    assert detect({"PMI_SIZE": "1", "PMI_RANK": "0"}) is None


# The step of 1 task that carries an MPI daemon, or a shell.
STEP = SLURM | {
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_NODEID": "0",
}


def open_mpi(rank, count, local=0, on_node=2):
    return {
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(local),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(on_node),
        "OMPI_MCA_orte_hnp_uri": OPEN_MPI["OMPI_MCA_orte_hnp_uri"],
    }


def test_mpi_inside_a_slurm_step_counts_its_own_ranks():
    for rank in range(2):
        found = detect(STEP | open_mpi(rank, 2, rank))
        assert (found.process_id, found.processes) == (rank, 2)
        assert found.coordinator.startswith("127.0.0.1:")
    found = detect(STEP | {"SLURM_STEP_NODELIST": "n2"} | open_mpi(2, 4))
    assert (found.process_id, found.processes) == (2, 4)
    assert found.coordinator.startswith("10.96.0.1:")
    # Three nodes, two daemons by one srun: all ranks agree.
    two = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[2-3]"}
    ranks = [
        {"SLURM_JOB_ID": "4242"} | open_mpi(0, 6),
        STEP | two | open_mpi(2, 6),
        STEP | two | open_mpi(3, 6, 1),
        STEP | two | {"SLURM_PROCID": "1"} | open_mpi(4, 6),
    ]
    found = [detect(environ) for environ in ranks]
    assert [one.process_id for one in found] == [0, 2, 3, 4]
    assert {one.processes for one in found} == {6}
    assert len({one.coordinator for one in found}) == 1
    # MPICH's proxies likewise; srun's own PMI says what SLURM says.
    hydra = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}
    assert detect(STEP | hydra).process_id == 1
    same = detect(SLURM | {"PMI_SIZE": "2", "PMI_RANK": "1"})
    assert same == detect(SLURM)


@pytest.mark.parametrize(
    ("environ", "coordinator", "number", "count"),
    [
        (
            {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
            | {"LOCAL_WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"},
            f"n1:{61440 + 29500 % 4096}",
            1,
            4,
        ),
        (
            {"COORDINATOR_ADDRESS": "j-0", "COORDINATOR_PORT": "1234"}
            | {"NUM_PROCESSES": "2", "PROCESS_ID": "1"},
            "j-0:1234",
            1,
            2,
        ),
        (
            {"JAX_COORDINATOR_IP": "10.0.0.1", "NNODES": "2"}
            | {"NODE_RANK": "1", "JAX_COORDINATOR_PORT": "1234"},
            "10.0.0.1:1234",
            1,
            2,
        ),
        (
            {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"}
            | {"MV2_COMM_WORLD_LOCAL_SIZE": "2"},
            "127.0.0.1:61440",
            1,
            2,
        ),
        (
            {"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"}
            | {"FLUX_JOB_NNODES": "1"},
            "127.0.0.1:61440",
            1,
            2,
        ),
        (
            {"PALS_RANKID": "1", "PMI_RANK": "1", "PMI_SIZE": "2"}
            | {"PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"},
            "127.0.0.1:61440",
            1,
            2,
        ),
    ],
    ids=["torchrun", "JAXJob", "NNODES", "MVAPICH", "Flux", "PALS"],
)
def test_other_launchers_are_understood(environ, coordinator, number, count):
    found = detect(environ)
    assert found.coordinator == coordinator
    assert (found.process_id, found.processes) == (number, count)
    assert detect(environ, processes=1) is None
    explicit = detect(environ, "h:1", 8, 3)
    assert (explicit.coordinator, explicit.processes) == ("h:1", 8)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"WORLD_SIZE": "2"}, "announced, but RANK is not set"),
        ({"NUM_PROCESSES": "2"}, "PROCESS_ID is not set"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "this torchrun does not name"),
        (
            {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"},
            "this MVAPICH does not name the host",
        ),
        ({"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"}, "this Flux does not"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "x"}, "WORLD_RANK is 'x'"),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, "names no node"),
        (SLURM | {"SLURM_STEP_NODELIST": "n[a-b]"}, "a node is 'a'"),
        (SLURM | {"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID is 'x'"),
        (SLURM | {"SLURM_NODEID": "x"}, "SLURM_NODEID is 'x'"),
        (SLURM | {"JAX_COORDINATOR_PORT": "abc"}, "PORT is 'abc'"),
        (GKE | {"JAX_COORDINATOR_PORT": "abc"}, "PORT is 'abc'"),
        (GKE | {"MEGASCALE_NUM_SLICES": "two"}, "SLICES is 'two'"),
        (GKE | {"TPU_WORKER_ID": "x"}, "TPU_WORKER_ID is 'x'"),
        (
            SLURM
            | {"SLURM_STEP_TASKS_PER_NODE": "2"}
            | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "h100:2"},
            "SLURM_GPUS_ON_NODE is 'h100:2'",
        ),
    ],
)
def test_odd_variables_are_a_sentence(environ, said):
    with pytest.raises(UserError, match=said):
        detect(environ)
    assert detect(environ, processes=1) is None
    if "SLURM_GPUS_ON_NODE" not in environ:  # they are shared all the same
        assert detect(environ, "h:1", 2, 0).process_id == 0


def test_all_three_by_hand_still_share_the_node_s_gpus():
    environ = OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert detect(environ, "h:1", 4, 3).local_devices == (2, 3)


def test_a_size_of_one_announces_nobody():
    assert detect({"WORLD_SIZE": "1"}) is None
    assert detect({"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert detect(SLURM | {"WORLD_SIZE": "1"}) == detect(SLURM)


def test_a_tpu_pod_of_gke_names_its_workers():
    found = detect(GKE)
    assert found.coordinator == "t-0.t:8482"
    assert (found.processes, found.process_id) == (4, 2)
    assert found.hosts[3] == "t-3.t"
    slices = GKE | {
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "s-0-0.s:8080",
    }
    found = detect(slices)
    assert (found.processes, found.process_id) == (8, 6)
    assert found.coordinator == "s-0-0.s:8482"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("h:1", 2, None), "give all three"),
        ((None, 2, 0), "give all three"),
        (("h", 2, 0), "'h' .flags. is not HOST:PORT"),
        (("h:x", 2, 0), "is not HOST:PORT"),
        (("h:99999", 2, 0), "a free port on it, 1 to 65535"),
        (("h:1", 2, 2), "process id 2 .flags. is not one of 2 processes"),
        (("h:1", 2, -1), "process id -1"),
    ],
)
def test_what_is_not_enough_is_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        detect({}, *arguments)


def test_numbers_are_checked():
    with pytest.raises(UserError, match="number of processes is 'two'"):
        detect({"I2I_PRIOR_PROCESSES": "two"})


def test_a_tpu_vm_of_several_hosts_is_in_its_metadata(monkeypatch):
    """JAX's own reading of the server's answers, with the answers faked."""
    from jax._src.clusters import cloud_tpu_cluster as clusters

    answers = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "w:1:10.0.0.1,w:2:10.0.0.2",
        "tpu-env": "MEGASCALE_NUM_SLICES: '1'",
    }

    def answer(key):
        return answers[key], 200

    assert (
        runtime.tpu_metadata() is None
    )  # no TPU chips here, and nobody is asked
    monkeypatch.setattr(clusters, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(clusters, "get_metadata", answer)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    found = runtime.tpu_metadata()
    assert found == Settings(
        "10.0.0.1:8482",
        2,
        1,
        hosts=("10.0.0.1", "10.0.0.2"),
        origin="TPU metadata",
    )
    monkeypatch.setattr(runtime, "os", SimpleNamespace(environ={}))
    assert runtime.find() == found
    answers["worker-network-endpoints"] = "w:1:10.0.0.1"
    assert runtime.find() is None
