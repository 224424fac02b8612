"""Multi-process runtime: session, collectives of text, common stop.

In a run of one process every function is trivial, so that callers need not
know the number of processes.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax

from i2i_prior.distributed.client import Client, join
from i2i_prior.distributed.cluster import Settings, detect
from i2i_prior.errors import CRASHED, UserError

# Seconds for the report of a dead process to arrive after its effects.
_REPORT_SECONDS = 10.0
_client: Client | None = None


def find(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
) -> Settings | None:
    """Returns the settings of `cluster.detect`, else of a TPU VM's metadata."""
    given = coordinator, processes, process_id
    settings = detect(os.environ, *given)
    if settings is None and given == (None, None, None):
        settings = tpu_metadata()
    return settings


def tpu_metadata() -> Settings | None:
    """Settings of a TPU VM in a slice of several hosts, else None.

    Queries the metadata server, and only on a machine that has TPU chips.
    """
    # Private, but the one place that knows the server's two formats.
    from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster as Cluster

    if not Cluster.is_env_present() or Cluster.get_process_count() == 1:
        return None
    workers = tuple(Cluster._get_worker_list_in_slice())
    count = Cluster.get_process_count()
    address = Cluster.get_coordinator_address(
        timeout_secs=60, override_coordinator_port=None
    )
    return Settings(
        address,
        count,
        Cluster.get_process_id(),
        hosts=workers if len(workers) == count else (),
        origin="TPU metadata",
    )


@contextlib.contextmanager
def session(
    settings: Settings | None, startup: float = 300.0, heartbeat: float = 100.0
) -> Iterator[None]:
    """Context in which JAX sees the devices of all processes.

    Must be entered before JAX has looked at its devices. An exception inside
    ends every process, with a message on the others that names this one and
    the exit code of a UserError, 70 for a crash. A process that dies ends
    every other with exit code 75. Arguments and errors are those of `join`;
    without settings nothing is done.
    """
    global _client
    if settings is None:
        yield
        return
    _client = client = join(settings, startup, heartbeat)
    try:
        _initialise(settings, startup, heartbeat)
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        _abort_for(client, error)
    finally:
        _client = None
    client.close()


def _initialise(settings: Settings, startup: float, heartbeat: float) -> None:
    # Its notifier would replace our SIGTERM handler, and knows no other signal.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        settings.coordinator,
        settings.processes,
        settings.process_id,
        settings.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(startup, 60)),
        # Longer than ours: JAX's aborts the process without a message.
        heartbeat_timeout_seconds=int(max(2 * heartbeat, 10)),
    )


def _abort_for(client: Client, error: BaseException) -> NoReturn:
    """Prints an error and ends all processes with its message and code."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        client.abort(str(error), error.code)
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        client.abort("stopped by hand", 130)
    client.wait_for_end(_REPORT_SECONDS)
    traceback.print_exception(error)
    first = (str(error).splitlines() or [""])[0]
    client.abort(f"{type(error).__name__}: {first}", CRASHED)


def count() -> int:
    """Returns the number of processes."""
    return 1 if _client is None else len(_client.hosts)


def index() -> int:
    """Returns the number of this process, from 0; never asks JAX."""
    return 0 if _client is None else _client.process


def is_primary() -> bool:
    """Returns True on the one process that writes files and logs."""
    return jax.process_index() == 0


def print_once(text: str) -> None:
    """Prints a line on stderr, from the first process only."""
    if is_primary():
        print(text, file=sys.stderr, flush=True)


def allgather_text(
    name: str, text: str = "", seconds: float = 600.0
) -> list[str]:
    """Returns the texts of all processes in order; see `Client.allgather`."""
    if _client is None:
        return [text]
    return _client.allgather(name, text, seconds)


def sync_point(name: str, seconds: float = 600.0) -> None:
    """Waits until all processes have called it; see `allgather_text`."""
    allgather_text(name, "", seconds)


def any_process(name: str, flag: bool) -> bool:
    """Returns True if any process gives True; see `allgather_text`."""
    return "1" in allgather_text(name, str(int(flag)))


def assert_equal(name: str, values: Mapping[str, Any]) -> None:
    """Raises UserError for the first JSON value that differs from process 0's;
    all processes give the same names."""
    texts = allgather_text(name, json.dumps(values))
    first = json.loads(texts[0])
    for process, text in enumerate(texts):
        for key, value in json.loads(text).items():
            if value != first[key]:
                host = _client.hosts[process] if _client else ""
                raise UserError(
                    f"process {process} on {host} has {key} {value!r}, "
                    f"process 0 has {first[key]!r}; start all with the "
                    "same values"
                )


def abort(why: str, code: int) -> NoReturn:
    """Ends this process, which has printed `why`, and every other with it."""
    if _client is None:
        raise SystemExit(code)
    _client.abort(why, code)


def request_stop(text: str) -> None:
    """Requests that all processes get `text` at the same `stop_requests`."""
    if _client is not None:
        _client.request(text)


def stop_requests() -> list[str]:
    """Returns what was requested, at the same call on every process."""
    return [] if _client is None else _client.poll_requests()
