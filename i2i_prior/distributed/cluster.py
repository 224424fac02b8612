"""Processes of a run, from flags or a launcher's environment variables.

`jax.distributed` detects a part of this by itself, with two faults that are
avoided here: under SLURM and MPI it gives every process one GPU (so one task
a node silently leaves the other GPUs idle), and a batch script that asked for
many tasks but did not `srun` would wait for them for ever.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from i2i_prior.errors import UserError

# The ephemeral ports of jax.distributed.
_FIRST_PORT, _PORTS = 61440, 4096
_TPU_PORT = 8482
_OPEN_MPI = "SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE"
# Variables of Open MPI and of PMI: tasks, number, and both on this node.
_MPI = (
    tuple(f"OMPI_COMM_WORLD_{name}" for name in _OPEN_MPI),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


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
    last two may come from the pods of a Kubernetes Job or the tasks of SLURM
    and MPI; SLURM; MPI; the variables of a TPU pod in GKE.

    Raises:
      UserError: the settings are incomplete or contradict each other.
    """
    settings = (
        _explicit(environ, coordinator, processes, process_id)
        or _slurm(environ)
        or _mpi(environ)
        or _gke_tpu(environ)
    )
    return settings if settings and settings.processes > 1 else None


def _explicit(
    environ: Mapping[str, str],
    coordinator: str | None,
    processes: int | None,
    process_id: int | None,
) -> Settings | None:
    def variable(ours: str, jax: str) -> str | None:
        return environ.get(ours) or environ.get(jax)

    coordinator = coordinator or variable(
        "I2I_PRIOR_COORDINATOR", "JAX_COORDINATOR_ADDRESS"
    )
    count = variable("I2I_PRIOR_PROCESSES", "JAX_NUM_PROCESSES")
    if processes is None and count:
        processes = _number("the number of processes", count)
    number = variable("I2I_PRIOR_PROCESS_ID", "JAX_PROCESS_ID")
    if process_id is None and number:
        process_id = _number("the process id", number)
    if coordinator is None and processes is None and process_id is None:
        return None
    # A launcher that counts its tasks fills in what is not set.
    tasks = _launcher_tasks(environ, processes)
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
    gpus = _task_gpus(environ, tasks) if tasks is not None else None
    return Settings(coordinator, processes, process_id, gpus)


@dataclass(frozen=True)
class _Tasks:
    """Number of tasks of a launcher, and the number of this one."""

    count: int
    number: int
    local: int = 0
    on_node: int = 1


def _launcher_tasks(
    environ: Mapping[str, str], processes: int | None = None
) -> _Tasks | None:
    """Tasks of a Kubernetes Job, SLURM, Open MPI, or an MPI with PMI."""

    def number(name: str, default: int = 0) -> int:
        text = environ.get(name)
        return default if not text else _number(name, text)

    if "JOB_COMPLETION_INDEX" in environ and processes is not None:
        # A JobSet of several Jobs (one a TPU slice) counts them, too.
        jobs = number("I2I_PRIOR_JOBS", 1)
        first = number("I2I_PRIOR_JOB_INDEX") * (processes // jobs)
        return _Tasks(processes, first + number("JOB_COMPLETION_INDEX"))
    if "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:
        return _Tasks(
            number("SLURM_STEP_NUM_TASKS"),
            number("SLURM_PROCID"),
            number("SLURM_LOCALID"),
            tasks_on_node(environ),
        )
    for count, rank, local, on_node in _MPI:
        if count in environ and rank in environ:
            tasks = number(count), number(rank)
            return _Tasks(*tasks, number(local), number(on_node, 1))
    return None


def _slurm(environ: Mapping[str, str]) -> Settings | None:
    # srun sets the step's variables; a batch script alone has none of them.
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS")
    if any(name not in environ for name in names):
        return None
    tasks = _launcher_tasks(environ)
    if tasks is None or tasks.count == 1:
        return None
    nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
    step = environ.get("SLURM_STEP_ID", "0")
    salt = _number("SLURM_JOB_ID", environ["SLURM_JOB_ID"])
    if step.isdigit():  # two steps of one job may run side by side
        salt += 131 * int(step)
    return Settings(
        f"{nodes[0]}:{_port(environ, salt)}",
        tasks.count,
        tasks.number,
        _task_gpus(environ, tasks),
        # With more tasks a node it depends on srun's --distribution.
        hosts=tuple(nodes) if len(nodes) == tasks.count else (),
        origin="SLURM",
    )


def _task_gpus(
    environ: Mapping[str, str], tasks: _Tasks
) -> tuple[int, ...] | None:
    """Returns the share of one task in the GPUs that all tasks of a node see.

    None (all that are visible) where the task has the node for itself, or
    where the launcher shows each task its own GPUs only.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if tasks.on_node == 1 or not visible:
        return None
    count = len(visible.split(","))
    on_node = int(environ.get("SLURM_GPUS_ON_NODE") or count)
    if count < on_node or count == 1:
        return None
    if count % tasks.on_node:
        raise UserError(
            f"{tasks.on_node} tasks on a node share {count} GPUs; start one "
            "task a node, or one a GPU"
        )
    share = count // tasks.on_node
    return tuple(range(tasks.local * share, (tasks.local + 1) * share))


def _mpi(environ: Mapping[str, str]) -> Settings | None:
    tasks = _launcher_tasks(environ)
    mpi = "OMPI_COMM_WORLD_SIZE" in environ or "PMI_SIZE" in environ
    if not mpi or tasks is None or tasks.count == 1:
        return None
    # Open MPI 4 names the host that mpirun, and so rank 0, runs on:
    # "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", tcp6://[...] likewise.
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    match = re.search(r"tcp6?://\[?([^,\]/]+?)(?:[,\]]|:\d+$)", uri)
    if tasks.on_node == tasks.count:
        host = "127.0.0.1"
    elif match is not None:
        host = match[1]
    else:
        raise UserError(
            "this MPI does not name the host of rank 0; add --coordinator "
            "HOST:PORT with its host and a free port"
        )
    job = re.match(r"\d+", uri or environ.get("PMIX_NAMESPACE", ""))
    salt = int(job[0]) // 4096 if job else 0
    return Settings(
        f"{host}:{_port(environ, salt)}",
        tasks.count,
        tasks.number,
        _task_gpus(environ, tasks),
        hosts=(host,) * tasks.count if host == "127.0.0.1" else (),
        origin="MPI",
    )


def _gke_tpu(environ: Mapping[str, str]) -> Settings | None:
    """Settings of a TPU pod in GKE, which knows the names of all its pods."""
    names = environ.get("TPU_PROCESS_ADDRESSES")
    names = names or environ.get("TPU_WORKER_HOSTNAMES", "")
    workers = [name.strip().split(":")[0] for name in names.split(",")]
    slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
    if not names or len(workers) * slices == 1:
        return None
    here = int(environ.get("MEGASCALE_SLICE_ID") or 0)
    number = _number("TPU_WORKER_ID", environ.get("TPU_WORKER_ID", "0"))
    host = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0]
    port = environ.get("JAX_COORDINATOR_PORT", _TPU_PORT)
    return Settings(
        f"{host or workers[0]}:{port}",
        len(workers) * slices,
        here * len(workers) + number,
        hosts=tuple(workers) if slices == 1 else (),
        origin="TPU pod",
    )


def _port(environ: Mapping[str, str], salt: int) -> int:
    given = environ.get("JAX_COORDINATOR_PORT")
    return int(given) if given else _FIRST_PORT + salt % _PORTS


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}; give a number") from None


def expand_nodes(text: str) -> list[str]:
    """Expands a node list: "n[1-3,7],gpu[01-02]-ib" -> six names."""
    names = []
    # Commas outside brackets.
    for part in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", text):
        pieces = [
            _expand_range(piece[1:-1]) if piece.startswith("[") else [piece]
            for piece in re.findall(r"\[[^\]]*\]|[^\[]+", part)
        ]
        names += ["".join(name) for name in itertools.product(*pieces)]
    return names


def _expand_range(text: str) -> list[str]:
    """Expands a range: "01-03,7" -> ["01", "02", "03", "7"]."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            found.append(str(number).zfill(len(first)))
    return found


def tasks_on_node(environ: Mapping[str, str]) -> int:
    """Returns the number of tasks on this node, from counts as "2(x3),1"."""
    counts = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return 1
        counts += [int(match[1])] * int(match[2] or 1)
    node = int(environ.get("SLURM_NODEID", "0"))
    return counts[min(node, len(counts) - 1)]
