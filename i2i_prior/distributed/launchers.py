"""Tasks that a launcher counts in its environment variables.

MPI comes before SLURM: its daemons run in a SLURM step of their own, whose
variables the ranks inherit, with other counts.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from i2i_prior.errors import UserError

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Tasks:
    """Number of tasks of a launcher, and the number of this one."""

    count: int
    number: int
    local: int = 0
    on_node: int = 1
    origin: str = "flags"


@dataclass(frozen=True)
class Launcher:
    """Variables of a launcher; where several are named, the first one set."""

    origin: str  # its name in messages
    count: str
    rank: str
    local: tuple[str, ...] = ()
    on_node: tuple[str, ...] = ()
    host: tuple[str, ...] = ()  # of rank 0


def _mpi(origin: str, prefix: str) -> Launcher:
    names = ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")
    count, rank, local, size = (f"{prefix}_COMM_WORLD_{n}" for n in names)
    return Launcher(origin, count, rank, (local,), (size,))


_MPI = _mpi("MPI", "OMPI"), _mpi("MVAPICH", "MV2"), _mpi("MVAPICH", "MVP")
# Of MPICH, Intel MPI and PALS, and of srun --mpi=pmi2 as well.
_PMI = Launcher(
    *("MPI", "PMI_SIZE", "PMI_RANK"),
    local=("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"),
    on_node=("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE"),
)
_TORCHRUN = Launcher(
    *("torchrun", "WORLD_SIZE", "RANK"),
    local=("LOCAL_RANK",),
    on_node=("LOCAL_WORLD_SIZE",),
    host=("MASTER_ADDR",),
)
_FLUX = Launcher(
    "Flux", "FLUX_JOB_SIZE", "FLUX_TASK_RANK", ("FLUX_TASK_LOCAL_ID",)
)
_JAXJOB = Launcher(
    "JAXJob", "NUM_PROCESSES", "PROCESS_ID", host=("COORDINATOR_ADDRESS",)
)
_NODES = Launcher(
    *("NNODES", "NNODES", "NODE_RANK"),
    host=("JAX_COORDINATOR_IP", "MASTER_ADDR"),
)
# Set by srun alone: a batch script, which is one process, has no step.
_SLURM = Launcher(
    "SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", ("SLURM_LOCALID",)
)
LAUNCHERS = (*_MPI, _PMI, _FLUX, _TORCHRUN, _JAXJOB, _NODES)


def number(environ: Environment, name: str, default: int = 0) -> int:
    """Whole number in a variable, `default` if it is not set or empty.

    Raises:
      UserError: it is no number.
    """
    text = environ.get(name)
    return to_number(name, text) if text else default


def to_number(name: str, text: str) -> int:
    """Whole number in the text of `name`; UserError if it is none."""
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}; give a number") from None


def find_tasks(
    environ: Environment, processes: int | None = None
) -> tuple[Tasks, str] | None:
    """The tasks of the launcher that started this process, None without one.

    Returns:
      the tasks, and the host of rank 0, "" where it is not named.

    Raises:
      UserError: several processes are announced, and not which one this is.
    """
    if "JOB_COMPLETION_INDEX" in environ and processes is not None:
        # A JobSet of several Jobs (one a TPU slice) counts them, too.
        jobs = number(environ, "I2I_PRIOR_JOBS", 1)
        first = number(environ, "I2I_PRIOR_JOB_INDEX") * (processes // jobs)
        index = number(environ, "JOB_COMPLETION_INDEX")
        return Tasks(processes, first + index), ""
    slurm, half = _tasks(_SLURM, environ), ""
    for launcher in LAUNCHERS:
        found = _tasks(launcher, environ)
        if found is None:
            if number(environ, launcher.count) > 1:
                half = half or launcher.rank
            continue
        same = slurm and (slurm.count, slurm.number)
        if launcher not in _MPI and same == (found.count, found.number):
            break  # SLURM says the same, and names its nodes
        if found.count > 1 or launcher in (*_MPI, _PMI):
            hosts = (environ.get(name, "") for name in launcher.host)
            return found, next(filter(None, hosts), "")
    if slurm is None and half:
        raise UserError(
            f"several processes are announced, but {half} is not set, which "
            "says which one this is; give --coordinator HOST:PORT, "
            "--processes N and --process-id I, or --processes 1 for a run of "
            "this process alone"
        )
    return (slurm, "") if slurm else None


def _tasks(launcher: Launcher, environ: Environment) -> Tasks | None:
    if launcher.count not in environ or launcher.rank not in environ:
        return None

    def first(names: tuple[str, ...], default: int) -> int:
        name = next((name for name in names if environ.get(name)), "")
        return number(environ, name, default)

    count, on_node = number(environ, launcher.count), 1
    if launcher is _SLURM:
        on_node = tasks_on_node(environ)
    elif launcher is _FLUX:
        on_node = count // max(number(environ, "FLUX_JOB_NNODES", count), 1)
    rank, local = number(environ, launcher.rank), first(launcher.local, 0)
    on_node = first(launcher.on_node, on_node)
    return Tasks(count, rank, local, on_node, launcher.origin)


def task_gpus(environ: Environment, tasks: Tasks) -> tuple[int, ...] | None:
    """Returns the share of one task in the GPUs that all tasks of a node see.

    None (all that are visible) where the task has the node for itself, or
    where the launcher shows each task its own GPUs only.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if tasks.on_node == 1 or not visible:
        return None
    count = len(visible.split(","))
    on_node = number(environ, "SLURM_GPUS_ON_NODE", count)
    if count < on_node or count == 1:
        return None
    if count % tasks.on_node:
        raise UserError(
            f"{tasks.on_node} tasks on a node share {count} GPUs; start one "
            "task a node, or one a GPU"
        )
    share = count // tasks.on_node
    return tuple(range(tasks.local * share, (tasks.local + 1) * share))


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
    if not names:
        raise UserError(f"the node list {text!r} names no node")
    return names


def _expand_range(text: str) -> list[str]:
    """Expands a range: "01-03,7" -> ["01", "02", "03", "7"]."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = (to_number("a node", n) for n in (first, last or first))
        for node in range(low, high + 1):
            found.append(str(node).zfill(len(first)))
    return found


def tasks_on_node(environ: Environment) -> int:
    """Returns the number of tasks on this node, from counts as "2(x3),1"."""
    counts = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return 1
        counts += [int(match[1])] * int(match[2] or 1)
    node = number(environ, "SLURM_NODEID")
    return counts[min(node, len(counts) - 1)]
