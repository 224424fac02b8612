"""Several processes at jobs that know nothing of each other.

Workers are spawned, since forking a process with threads may hang. They
ignore signals, which reach a whole terminal or job: the process that started
them decides. Where it dies, they end by themselves.
"""

from __future__ import annotations

import contextlib
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

_PATIENCE = 0.2  # seconds between two looks at the clock or at the parent
_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


@dataclass
class _Worker:
    process: Any
    connection: Connection
    job: int | None = None


def work(
    task: Task,
    jobs: Iterable[int],
    count: int,
    tick: Callable[[int], None],
) -> Iterator[Any]:
    """The results of task(job), as they come.

    Args:
        task: picklable.
        jobs: numbers.
        count: processes.
        tick: called with how many pieces were done since it was called last,
            at least every `_PATIENCE` seconds; ends all by an exception.

    Raises:
        UserError: a worker died; names it and its job. What the others were
            at is left undone.
        Exception: of the task.
    """
    rest = iter(jobs)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        for job in rest:
            workers.append(_started(context, task, job))
            if len(workers) == count:
                break
        while any(worker.job is not None for worker in workers):
            busy = {w.connection: w for w in workers if w.job is not None}
            pieces = 0
            for connection in wait(list(busy), _PATIENCE):
                worker = busy[connection]  # type: ignore[index]
                kind, value = _heard(worker)
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


def _started(context: Any, task: Task, job: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, task), daemon=True)
    process.start()
    theirs.close()
    with contextlib.suppress(OSError):
        ours.send(job)
    return _Worker(process, ours, job)


def _heard(worker: _Worker) -> tuple[str, Any]:
    try:
        return worker.connection.recv()
    except (EOFError, OSError) as error:
        worker.process.join()
        code = worker.process.exitcode
        how = f"exit code {code}"
        if code < 0:
            how = signal.Signals(-code).name
        why = ", as for want of memory" * (how == "SIGKILL")
        raise UserError(
            f"worker process {worker.process.pid} died ({how}{why}) while it "
            f"made shard {worker.job}; run the same command again, which goes "
            "on, with fewer --workers where memory is short"
        ) from error


def _serve(connection: Connection, task: Task) -> None:
    """The life of a worker."""
    for name in _SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    ticks, due = 0, time.monotonic() + _PATIENCE

    def tick(pieces: int) -> None:
        nonlocal ticks, due
        ticks += pieces
        if parent is None or not parent.is_alive():
            sys.exit(1)  # by an exception, so that nothing is left behind
        if time.monotonic() > due:
            connection.send(("ticks", ticks))
            ticks, due = 0, time.monotonic() + _PATIENCE

    # Broken: the parent has gone, or wants no more.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (job := connection.recv()) is not None:
            try:
                result = task(job, tick)
            except (OSError, UserError) as error:
                connection.send(("failed", error))
            except Exception:
                told = RuntimeError(traceback.format_exc())
                connection.send(("failed", told))
            else:
                connection.send(("ticks", ticks))
                ticks = 0
                connection.send(("done", result))
