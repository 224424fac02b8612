"""Rendezvous of the processes of a run, with a message about missing ones."""

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
from i2i_prior.distributed.coordinator import Coordinator, startup_timeout
from i2i_prior.errors import UserError

_RELAY_SECONDS = 5.0  # beyond the time-out, for the coordinator's message


def join(
    settings: Settings, startup: float = 300.0, heartbeat: float = 100.0
) -> Client:
    """Waits until all processes have joined.

    Args:
      settings: processes of the run.
      startup: seconds in which they must join.
      heartbeat: seconds of silence after which a process is lost. A process
        that dies while its machine lives is noticed at once.

    Raises:
      UserError: names the missing processes.
    """
    host, number, thread = socket.gethostname(), settings.process_id, None
    if number == 0:
        connection, thread = _start_coordinator(
            settings, host, startup, heartbeat
        )
    else:
        connection = _connect(settings, startup)
        connection.send(join=number, processes=settings.processes, host=host)
    try:
        hosts, rest = _receive_hosts(connection, settings, startup)
    except UserError:
        connection.close()  # process 0 waits for it
        raise
    return Client(connection, number, hosts, heartbeat, rest, thread)


def _start_coordinator(
    settings: Settings, host: str, startup: float, heartbeat: float
) -> tuple[Connection, threading.Thread]:
    port = int(settings.coordinator.rpartition(":")[2])
    dualstack = socket.has_dualstack_ipv6()
    try:
        # Both families where there are both, as JAX's coordinator does.
        listener = socket.create_server(
            ("", port),
            family=socket.AF_INET6 if dualstack else socket.AF_INET,
            dualstack_ipv6=dualstack,
            backlog=4096,
        )
    except OSError as error:
        # Python adds the address to this error's own text.
        why = os.strerror(error.errno) if error.errno else error
        raise UserError(
            f"process 0 cannot listen on port {port} ({why}); end the program "
            "that uses it, or choose another port with --coordinator"
        ) from error
    ours, theirs = socket.socketpair()
    coordinator = Coordinator(
        listener,
        (Connection(theirs), host),
        settings.processes,
        settings.hosts,
        startup,
        heartbeat,
    )
    thread = threading.Thread(target=coordinator.run, daemon=True)
    thread.start()
    return Connection(ours), thread


def _connect(settings: Settings, startup: float) -> Connection:
    """Connects to process 0, which may start (or get its DNS name) later."""
    host, _, port = settings.coordinator.rpartition(":")
    address = host.strip("[]"), int(port)
    deadline = time.monotonic() + startup
    while True:
        try:
            return Connection(socket.create_connection(address, timeout=5.0))
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 did not answer at {settings.coordinator} "
                    f"within {startup:g} s ({error.strerror or error}); look "
                    "at its log, or raise --startup-timeout"
                ) from error
            time.sleep(0.2)


def _receive_hosts(
    connection: Connection, settings: Settings, startup: float
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the hosts of all processes, and the messages after that one."""
    deadline = time.monotonic() + startup + _RELAY_SECONDS
    waiting_for = ["0"]
    while time.monotonic() < deadline:
        if not select.select([connection], [], [], 0.5)[0]:
            continue
        messages = connection.receive()
        if messages is None:
            raise UserError(
                f"process 0 at {settings.coordinator} ended before all "
                "processes had joined; look at its log"
            )
        for number, message in enumerate(messages):
            if "end" in message:
                raise UserError(message["end"])
            if "hosts" in message:
                return message["hosts"], messages[number + 1 :]
            waiting_for = message.get("waiting_for", waiting_for)
    raise UserError(startup_timeout(waiting_for, startup))
