"""Worker processes for independent jobs.

Workers are spawned, since forking a process with threads may hang. They
ignore signals, which reach all processes of a terminal or job, and leave the
reaction to their parent. If it dies, they exit.

Not concurrent.futures.ProcessPoolExecutor (Python 3.11): it does not report
which process died of what during which job, and waits for running jobs
instead of ending them.
"""

import contextlib
import itertools
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from i2i_prior.errors import UserError

# task(job, tick) -> result, all of them picklable but tick.
Task = Callable[[int, Callable[[int], None]], Any]

_POLL_SECONDS = 0.2
_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


@dataclass
class _Worker:
    process: Any
    connection: Connection
    job: int | None = None


def work(
    task: Task, jobs: Iterable[int], count: int, tick: Callable[[int], None]
) -> Iterator[Any]:
    """Yields the results of task(job), in order of completion.

    `count` processes run the task, which is picklable. `tick` is called with
    the number of pieces done since its last call, at least every
    `_POLL_SECONDS`; an exception of it ends all workers. So does one of the
    task, which is raised here. UserError, which names worker and job, if a
    worker died; running jobs of the others are abandoned.
    """
    rest = iter(jobs)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        for job in itertools.islice(rest, count):
            workers.append(_start(context, task, job))
        while any(worker.job is not None for worker in workers):
            busy = {w.connection: w for w in workers if w.job is not None}
            pieces = 0
            for connection in wait(list(busy), _POLL_SECONDS):
                worker = busy[connection]  # type: ignore[index]
                kind, value = _receive(worker)
                if kind == "ticks":
                    pieces += value
                elif kind == "failed":
                    raise value
                else:
                    worker.job = next(rest, None)
                    with contextlib.suppress(OSError):
                        worker.connection.send(worker.job)
                    yield value
            tick(pieces)
    finally:
        for worker in workers:
            if worker.job is not None:
                worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


def _start(context: Any, task: Task, job: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, task), daemon=True)
    process.start()
    theirs.close()
    with contextlib.suppress(OSError):
        ours.send(job)
    return _Worker(process, ours, job)


def _receive(worker: _Worker) -> tuple[str, Any]:
    """Next message of a worker; raises UserError if it died."""
    try:
        return worker.connection.recv()
    except (EOFError, OSError) as error:
        worker.process.join()
        code = worker.process.exitcode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        why = ", as for want of memory" * (how == "SIGKILL")
        raise UserError(
            f"worker process {worker.process.pid} died ({how}{why}) while it "
            f"made shard {worker.job}; run the same command again, which goes "
            "on, with fewer --workers where memory is short"
        ) from error


def _serve(connection: Connection, task: Task) -> None:
    """Main function of a worker process."""
    for name in _SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    ticks, due = 0, time.monotonic() + _POLL_SECONDS

    def tick(pieces: int) -> None:
        nonlocal ticks, due
        ticks += pieces
        if parent is None or not parent.is_alive():
            sys.exit(1)  # an exception, so that partial files are removed
        if time.monotonic() > due:
            connection.send(("ticks", ticks))
            ticks, due = 0, time.monotonic() + _POLL_SECONDS

    # A broken pipe: the parent has exited, or needs no more results.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (job := connection.recv()) is not None:
            try:
                result = task(job, tick)
            except (OSError, UserError) as error:
                connection.send(("failed", error))
            except Exception:
                text = RuntimeError(traceback.format_exc())
                connection.send(("failed", text))
            else:
                connection.send(("ticks", ticks))
                ticks = 0
                connection.send(("done", result))
