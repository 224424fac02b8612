"""Processes of a run, from flags or a launcher's environment variables.

`jax.distributed` detects a part of this by itself, with two faults that are
avoided here: under SLURM and MPI it gives every process one GPU (so one task
a node silently leaves the other GPUs idle), and a batch script that asked for
many tasks but did not `srun` would wait for them for ever.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from i2i_prior.distributed.launchers import (
    expand_nodes,
    find_tasks,
    number,
    task_gpus,
    to_number,
)
from i2i_prior.errors import UserError

# The ephemeral ports of jax.distributed.
_FIRST_PORT, _PORTS = 61440, 4096
_TPU_PORT = 8482
_NODES = "SLURM_STEP_NODELIST"


@dataclass(frozen=True)
class Settings:
    """The processes of a run, seen from one of them."""

    coordinator: str  # "host:port" of process 0, which the others can reach
    processes: int  # 2 or more
    process_id: int  # of this one, from 0
    local_devices: tuple[int, ...] | None = None  # GPUs; None for all visible
    hosts: tuple[str, ...] = ()  # of each process; empty where unknown
    origin: str = "flags"  # source of the settings, for messages

    def __post_init__(self) -> None:
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(
                f"coordinator {self.coordinator!r} ({self.origin}) is not "
                "HOST:PORT; name the host of process 0 and a free port on it, "
                "1 to 65535"
            )
        if not 0 <= self.process_id < self.processes:
            raise UserError(
                f"process id {self.process_id} ({self.origin}) is not one of "
                f"{self.processes} processes, which count from 0"
            )


def detect(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
) -> Settings | None:
    """Returns the settings of a run of several processes, None for one.

    The first source that is set counts: the three arguments; their variables
    I2I_PRIOR_COORDINATOR, I2I_PRIOR_PROCESSES, I2I_PRIOR_PROCESS_ID (or
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID), where the
    last two may come from the pods of a Kubernetes Job or the tasks of a
    launcher (see `launchers`); the launcher; the variables of a TPU pod in
    GKE. One process, by argument or variable, is one whatever else is set.

    Raises:
      UserError: the settings are incomplete or contradict each other.
    """
    count = _variable(environ, "I2I_PRIOR_PROCESSES", "JAX_NUM_PROCESSES")
    if processes is None and count:
        processes = to_number("the number of processes", count)
    if processes == 1:
        return None
    settings = (
        _explicit(environ, coordinator, processes, process_id)
        or _launched(environ)
        or _gke_tpu(environ)
    )
    return settings if settings and settings.processes > 1 else None


def _explicit(
    environ: Mapping[str, str],
    coordinator: str | None,
    processes: int | None,
    process_id: int | None,
) -> Settings | None:
    coordinator = coordinator or _variable(
        environ, "I2I_PRIOR_COORDINATOR", "JAX_COORDINATOR_ADDRESS"
    )
    own = _variable(environ, "I2I_PRIOR_PROCESS_ID", "JAX_PROCESS_ID")
    if process_id is None and own:
        process_id = to_number("the process id", own)
    if coordinator is None and processes is None and process_id is None:
        return None
    # A launcher that counts its tasks fills in what is not set.
    whole = coordinator and processes is not None and process_id is not None
    try:
        found = find_tasks(environ, processes)
    except UserError:
        if not whole:
            raise
        found = None
    tasks = found and found[0]
    if tasks is not None and coordinator is not None:
        processes = tasks.count if processes is None else processes
        process_id = tasks.number if process_id is None else process_id
    if processes == 1:
        return None
    if coordinator is None or processes is None or process_id is None:
        raise UserError(
            "several processes need --coordinator HOST:PORT, --processes N "
            "and --process-id I (or I2I_PRIOR_COORDINATOR, "
            "I2I_PRIOR_PROCESSES and I2I_PRIOR_PROCESS_ID); give all three"
        )
    gpus = task_gpus(environ, tasks) if tasks is not None else None
    return Settings(coordinator, processes, process_id, gpus)


def _variable(environ: Mapping[str, str], ours: str, jax: str) -> str | None:
    return environ.get(ours) or environ.get(jax)


def _launched(environ: Mapping[str, str]) -> Settings | None:
    """Settings of the launcher that started this process."""
    found = find_tasks(environ)
    if found is None or found[0].count == 1:
        return None
    tasks, host = found
    hosts, port = [], ""
    if tasks.origin == "SLURM":
        if any(n not in environ for n in ("SLURM_JOB_ID", _NODES)):
            return None
        nodes = expand_nodes(environ[_NODES])
        host, salt = nodes[0], number(environ, "SLURM_JOB_ID")
        step = environ.get("SLURM_STEP_ID", "0")
        if step.isdigit():  # two steps of one job may run side by side
            salt += 131 * int(step)
        # With more tasks a node it depends on srun's --distribution.
        hosts = nodes if len(nodes) == tasks.count else []
    else:
        # Open MPI 4 names the host that mpirun, and so rank 0, runs on:
        # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", likewise
        # tcp6://[...].
        uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
        match = re.search(r"tcp6?://\[?([^,\]/]+?)(?:[,\]]|:\d+$)", uri)
        if tasks.on_node == tasks.count:
            host, hosts = "127.0.0.1", ["127.0.0.1"] * tasks.count
        elif match is not None:
            host = match[1]
        elif not host:
            raise UserError(
                f"this {tasks.origin} does not name the host of rank 0; add "
                "--coordinator HOST:PORT with its host and a free port"
            )
        salt = number(environ, "MASTER_PORT")  # torchrun's server is at it
        if job := re.match(r"\d+", uri or environ.get("PMIX_NAMESPACE", "")):
            salt = int(job[0]) // 4096
        port = "COORDINATOR_PORT" if tasks.origin == "JAXJob" else ""
    return Settings(
        f"{host}:{_port(environ, salt, port)}",
        tasks.count,
        tasks.number,
        task_gpus(environ, tasks),
        hosts=tuple(hosts),
        origin=tasks.origin,
    )


def _gke_tpu(environ: Mapping[str, str]) -> Settings | None:
    """Settings of a TPU pod in GKE, which knows the names of all its pods."""
    names = environ.get("TPU_PROCESS_ADDRESSES")
    names = names or environ.get("TPU_WORKER_HOSTNAMES", "")
    workers = [name.strip().split(":")[0] for name in names.split(",")]
    slices = number(environ, "MEGASCALE_NUM_SLICES", 1)
    if not names or len(workers) * slices == 1:
        return None
    here = number(environ, "MEGASCALE_SLICE_ID")
    worker = number(environ, "TPU_WORKER_ID")
    host = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0]
    port = number(environ, "JAX_COORDINATOR_PORT", _TPU_PORT)
    return Settings(
        f"{host or workers[0]}:{port}",
        len(workers) * slices,
        here * len(workers) + worker,
        hosts=tuple(workers) if slices == 1 else (),
        origin="TPU pod",
    )


def _port(environ: Mapping[str, str], salt: int, name: str = "") -> int:
    """The port in a launcher's variable or JAX's, else one by the job."""
    given = number(environ, name) or number(environ, "JAX_COORDINATOR_PORT")
    return given or _FIRST_PORT + salt % _PORTS
