"""A run of several processes: started together, ended together.

In a run of one process everything here is trivial, so that the rest of the
program need not know how many there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax

from i2i_prior.distributed.client import Client
from i2i_prior.distributed.cluster import Settings, detect
from i2i_prior.distributed.rendezvous import join
from i2i_prior.errors import CRASHED, UserError

_NEWS = 10.0  # seconds for the news of a death to come after its effects
_member: Client | None = None


def find(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
) -> Settings | None:
    """Who takes part: `cluster.detect`, else what a TPU VM's metadata say.

    Raises:
      UserError: see `cluster.detect`.
    """
    given = coordinator, processes, process_id
    found = detect(os.environ, *given)
    if found is None and given == (None, None, None):
        found = tpu_metadata()
    return found


def tpu_metadata() -> Settings | None:
    """Of a TPU VM whose slice has several hosts, else None.

    Asks the metadata server, and only on a machine that has TPU chips.
    """
    # Private, but the one place that knows the server's two formats.
    from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster as Cluster

    if not Cluster.is_env_present() or Cluster.get_process_count() == 1:
        return None
    workers = tuple(Cluster._get_worker_list_in_slice())
    count = Cluster.get_process_count()
    return Settings(
        Cluster.get_coordinator_address(
            timeout_secs=60, override_coordinator_port=None
        ),
        count,
        Cluster.get_process_id(),
        hosts=workers if len(workers) == count else (),
        origin="TPU metadata",
    )


@contextlib.contextmanager
def session(
    settings: Settings | None, startup: float = 300.0, heartbeat: float = 100.0
) -> Iterator[None]:
    """JAX sees the devices of all processes inside, and none lives on alone.

    Must be entered before JAX has looked at its devices. An exception inside
    ends every process, with a sentence on the others that names this one:
    with the exit code of a UserError, 70 for a crash. A process that dies
    ends every other with exit code 75.

    Args:
      settings: see `cluster.detect`; with None nothing is done.
      startup: seconds in which all processes must come.
      heartbeat: seconds of silence after which a process counts as gone.

    Raises:
      UserError: names the processes that did not come.
    """
    global _member
    if settings is None:
        yield
        return
    _member = member = join(settings, startup, heartbeat)
    try:
        _initialise(settings, startup, heartbeat)
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        _leave(member, error)
    finally:
        _member = None
    member.close()


def _initialise(settings: Settings, startup: float, heartbeat: float) -> None:
    # Its notifier would take SIGTERM from us, and knows no other signal.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        settings.coordinator,
        settings.processes,
        settings.process_id,
        settings.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(startup, 60)),
        # Ours come first, since JAX's abort the process without a sentence.
        heartbeat_timeout_seconds=int(max(2 * heartbeat, 10)),
    )


def _leave(member: Client, error: BaseException) -> NoReturn:
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        member.leave(str(error), error.code)
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        member.leave("stopped by hand", 130)
    member.await_news(_NEWS)
    traceback.print_exception(error)
    first = (str(error).splitlines() or [""])[0]
    member.leave(f"{type(error).__name__}: {first}", CRASHED)


def count() -> int:
    """How many processes there are."""
    return 1 if _member is None else len(_member.hosts)


def is_primary() -> bool:
    """Whether this is the one process that writes files and speaks."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Prints a line on stderr, from the first process only."""
    if is_primary():
        print(text, file=sys.stderr, flush=True)


def allgather_text(
    name: str, text: str = "", seconds: float = 600.0
) -> list[str]:
    """The texts of all processes, in their order; all must call it.

    Args:
      name: of the place in the program, for the message.
      text: of this process.
      seconds: to wait for the others.

    Raises:
      UserError: names the processes that did not come in time.
    """
    if _member is None:
        return [text]
    return _member.gather(name, text, seconds)


def sync_point(name: str, seconds: float = 600.0) -> None:
    """Returns when all processes have come here; as `allgather_text`."""
    allgather_text(name, "", seconds)


def any_process(name: str, flag: int) -> int:
    """The greatest flag of all processes; as `allgather_text`."""
    return max(int(text) for text in allgather_text(name, str(int(flag))))


def sum_counts(name: str, values: Sequence[int]) -> list[int]:
    """Each value's sum over all processes; as `allgather_text`."""
    texts = allgather_text(name, json.dumps([int(value) for value in values]))
    return [sum(column) for column in zip(*map(json.loads, texts), strict=True)]


def assert_equal(name: str, values: Mapping[str, Any]) -> None:
    """Makes sure that all processes say the same; as `allgather_text`.

    Args:
      name: of the place in the program, for the message.
      values: plain ones by name, the same names on every process.

    Raises:
      UserError: names the first value that differs from that of process 0.
    """
    texts = allgather_text(name, json.dumps(values))
    first = json.loads(texts[0])
    for process, text in enumerate(texts):
        for key, value in json.loads(text).items():
            if value != first[key]:
                host = _member.hosts[process] if _member else ""
                raise UserError(
                    f"process {process} on {host} has {key} {value!r}, "
                    f"process 0 has {first[key]!r}; start all alike"
                )


def abort(why: str, code: int) -> NoReturn:
    """Ends this process, and every other with the same code and a sentence
    that says why."""
    if _member is None:
        raise SystemExit(code)
    _member.leave(why, code)


def request_stop(text: str) -> None:
    """Asks that all processes get `text` at the same `stop_requests`."""
    if _member is not None:
        _member.request(text)


def stop_requests() -> list[str]:
    """What processes requested, at the same call on each; see `Client`."""
    return [] if _member is None else _member.reached()
