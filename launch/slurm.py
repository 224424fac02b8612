"""Runs of a sweep on a Slurm cluster, as one job array, through submitit.

    pip install 'i2i-prior[slurm]'
    i2i-prior sweep submit SWEEP \
      --backend slurm:partition=gpu,gpus_per_node=8,time=720,max_parallel=16

On a login node, with the sweep's folder and this environment on a file system
that all nodes see. A run that is preempted, runs out of time, or fails with
attempts left saves, exits 75 and is requeued; it goes on where it stands.
With nodes=2 and more a run trains on all of them: one task a node, which has
all its GPUs, or tasks_per_node.
"""

import shlex
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.sweeps.launch_support import engines
from i2i_prior.sweeps.launch_support.slurm_task import Task
from i2i_prior.sweeps.run.store import PlannedRun, Sweep

OPTIONS = {
    "partition": "",
    "account": "",
    "qos": "",
    "constraint": "",
    "time": 1440,  # minutes, after which a run is saved and queued again
    "signal_delay": 300,  # seconds before the end to save in
    "nodes": 1,  # of a run
    "tasks_per_node": 1,
    "gpus_per_node": 0,
    "cpus_per_task": 0,  # 0 for the cluster's own
    "mem": "",  # of a node, as 64GB
    "max_parallel": 64,  # runs at the same time
    "setup": "",  # a file of shell lines that run before, as module load
    "extra": "",  # more of sbatch: "reservation=x;exclude=n[1-3]"
}
_INSTALL = "run this where Slurm's commands are, as on a login node"
_UNCHANGED = (  # options that submitit takes by these names
    *("partition", "account", "qos", "constraint", "mem"),
    *("gpus_per_node", "cpus_per_task"),
)
# Slurm's states; jobs that it does not show have ended.
_QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def submit(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict, dry_run: bool
) -> int:
    """Submits all runs as one array; the job of a run is ARRAY_INDEX."""
    settings = _settings(sweep, options)
    tasks = [Task(sweep.attempt_command(run.id)) for run in runs]
    if dry_run:
        print(f"an array of {len(runs)} jobs, each with")
        for name, value in sorted(settings.items()):
            print(f"  {name}: {value}")
        for run, task in zip(runs, tasks, strict=True):
            print(f"{run.id}: {shlex.join(task.command)}")
        return 0
    executor = _executor(sweep)
    try:
        executor.update_parameters(**settings)
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (_submitit().core.utils.FailedJobError, OSError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(
            f"sbatch did not take the jobs ({lines[-1] if lines else error}); "
            "correct the options of --backend slurm"
        ) from error
    for run, job in zip(runs, jobs, strict=True):
        engines.note_submitted(sweep, run, "slurm", job.job_id)
    print(f"submitted {len(runs)} runs, from job {jobs[0].job_id} on")
    return 0


def poll(
    sweep: Sweep, runs: list[PlannedRun], options: ConfigDict
) -> dict[str, str]:
    """Asks squeue for the states of jobs; sacct would need accounting."""
    jobs = engines.jobs(sweep, runs, "slurm")
    if not jobs:
        return {}
    text = engines.call(
        ["squeue", "--me", "--noheader", "--array", "--format=%i %T"], _INSTALL
    )
    states = dict(line.split(maxsplit=1) for line in text.splitlines() if line)
    return {
        run: "gone"
        if job not in states
        else "queued"
        if states[job].strip() in _QUEUED
        else "running"
        for run, job in jobs.items()
    }


def cancel(sweep: Sweep, runs: list[PlannedRun], options: ConfigDict) -> None:
    """Takes waiting jobs out of the queue.

    A running one finds the cancellation in its run's events, and saves;
    scancel would leave it KillWait (30 s) for that.
    """
    jobs = list(engines.jobs(sweep, runs, "slurm").values())
    if jobs:
        engines.call(
            ["scancel", "--state=PENDING", *jobs],
            _INSTALL,
            harmless=("Invalid job id", "already completing or completed"),
        )


def _settings(sweep: Sweep, options: ConfigDict) -> dict[str, Any]:
    """Parameters for submitit; options without a value are left out."""
    for name in ("time", "nodes", "tasks_per_node"):
        if options[name] < 1:  # a time of 0 is no limit, to Slurm
            raise UserError(
                f"{name}={options[name]} is too few; give 1 or more"
            )
    more: dict[str, Any] = {"requeue": True}
    for pair in filter(None, options.extra.split(";")):
        name, _, value = pair.partition("=")
        more[name.strip().lstrip("-").replace("_", "-")] = value or True
    settings: dict[str, Any] = {
        "job_name": engines.sweep_name(sweep),
        "time": options.time,
        # A delay of the whole time would be a signal at the start.
        "signal_delay_s": min(options.signal_delay, 15 * options.time),
        "nodes": options.nodes,
        "ntasks_per_node": options.tasks_per_node,
        "stderr_to_stdout": True,
        "array_parallelism": max(options.max_parallel, 1),
        "additional_parameters": more,
    }
    for name in _UNCHANGED:
        if options[name]:
            settings[name] = options[name]
    if options.cpus_per_task:
        # Since 22.05 srun no longer inherits it from sbatch.
        settings["srun_args"] = [f"--cpus-per-task={options.cpus_per_task}"]
    if options.setup:
        settings["setup"] = engines.read_setup(options).splitlines()
    return settings


def _executor(sweep: Sweep) -> Any:
    submitit = _submitit()
    folder = sweep.path / "rendered" / "slurm"
    try:
        # Time-outs do not count: each run resumes.
        return submitit.SlurmExecutor(folder, max_num_timeout=10**6)
    except RuntimeError as error:
        raise UserError(f"there is no srun here; {_INSTALL}") from error


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(
            "--backend slurm needs submitit; pip install 'i2i-prior[slurm]'"
        ) from None
    return submitit
