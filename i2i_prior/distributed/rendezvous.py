"""How the processes of a run find each other, or say who is missing."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import Any

from i2i_prior.distributed.client import Client
from i2i_prior.distributed.cluster import Settings
from i2i_prior.distributed.connection import Connection
from i2i_prior.distributed.coordinator import Coordinator, not_come
from i2i_prior.errors import UserError

_GRACE = 5.0  # seconds beyond the time-out for the hub to say who is missing


def join(
    settings: Settings, startup: float = 300.0, heartbeat: float = 100.0
) -> Client:
    """Waits until all processes are there.

    Args:
      settings: who takes part.
      startup: seconds they have to come.
      heartbeat: seconds of silence after which a process counts as gone. A
        process that dies while its machine lives is noticed at once.

    Raises:
      UserError: names the processes that did not come.
    """
    name, thread = socket.gethostname(), None
    if settings.process_id == 0:
        wire, thread = _start_coordinator(settings, name, startup, heartbeat)
    else:
        wire = _connect(settings, startup)
        wire.send(hello=settings.process_id, of=settings.processes, host=name)
    try:
        hosts, rest = _hosts(wire, settings, startup)
    except UserError:
        wire.close()  # process 0 waits for it
        raise
    return Client(wire, settings.process_id, hosts, heartbeat, rest, thread)


def _start_coordinator(
    settings: Settings, name: str, startup: float, heartbeat: float
) -> tuple[Connection, threading.Thread]:
    port = int(settings.coordinator.rpartition(":")[2])
    try:
        # Both families where there are both, as JAX's coordinator does.
        listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6
            if socket.has_dualstack_ipv6()
            else socket.AF_INET,
            dualstack_ipv6=socket.has_dualstack_ipv6(),
            backlog=4096,
        )
    except OSError as error:
        # Python adds the address to this error's own text.
        why = os.strerror(error.errno) if error.errno else error
        raise UserError(
            f"process 0 cannot listen on port {port} ({why}); end what uses "
            "it, or choose another with --coordinator"
        ) from error
    ours, theirs = socket.socketpair()
    hub = Coordinator(
        listener,
        (Connection(theirs), name),
        settings.processes,
        settings.hosts,
        startup,
        heartbeat,
    )
    thread = threading.Thread(target=hub.run, daemon=True)
    thread.start()
    return Connection(ours), thread


def _connect(settings: Settings, startup: float) -> Connection:
    """To process 0, which may start later, as may its name in the DNS."""
    host, _, port = settings.coordinator.rpartition(":")
    address = host.strip("[]"), int(port)
    due = time.monotonic() + startup
    while True:
        try:
            return Connection(socket.create_connection(address, timeout=5.0))
        except OSError as error:
            if time.monotonic() > due:
                raise UserError(
                    f"process 0 did not answer at {settings.coordinator} "
                    f"within {startup:g} s ({error.strerror or error}); look "
                    "at its log, or raise --startup-timeout"
                ) from error
            time.sleep(0.2)


def _hosts(
    wire: Connection, settings: Settings, startup: float
) -> tuple[list[str], list[dict[str, Any]]]:
    """The hub's answer once all have come, and what came behind it."""
    due = time.monotonic() + startup + _GRACE
    waiting = ["0"]
    while time.monotonic() < due:
        if not select.select([wire], [], [], 0.5)[0]:
            continue
        messages = wire.receive()
        if messages is None:
            raise UserError(
                f"process 0 at {settings.coordinator} left before all had "
                "come; look at its log"
            )
        for number, message in enumerate(messages):
            if "end" in message:
                raise UserError(message["end"])
            if "hosts" in message:
                return message["hosts"], messages[number + 1 :]
            waiting = message.get("waiting", waiting)
    raise UserError(not_come(waiting, startup))
