"""Client side of the coordinator protocol: one process of a run joins."""

import contextlib
import itertools
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from i2i_prior.distributed.cluster import Settings
from i2i_prior.distributed.connection import Connection
from i2i_prior.distributed.coordinator import (
    LOST,
    Coordinator,
    lost_process,
    startup_timeout,
)
from i2i_prior.errors import UserError

_SHUTDOWN_SECONDS = 60.0  # for the others to finish after process 0
_RELAY_SECONDS = 5.0  # for the coordinator to pass a message on


class Client:
    """Client of the coordinator in one process; made by `join`.

    Its thread receives messages. When the run has to end, it ends this
    process at once with a message, since the main thread may wait for a dead
    process. `hosts` are the names of all processes, `first` the messages that
    came together with them; process 0 has the thread of the `coordinator`.
    """

    def __init__(
        self,
        connection: Connection,
        process: int,
        hosts: list[str],
        heartbeat: float,
        first: Sequence[dict[str, Any]] = (),
        coordinator: threading.Thread | None = None,
    ):
        self.process, self.hosts, self._heartbeat = process, hosts, heartbeat
        self._connection, self._coordinator = connection, coordinator
        self._changed = threading.Condition()
        self._gather_numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        # Calls of `poll_requests`, and rounds that forbid the next one.
        self._calls, self._open_rounds = 0, 0
        self._deliveries: dict[int, list[str]] = {}
        self._requested: set[str] = set()
        self._aborting = self._closed = False
        self._over = threading.Event()
        for message in first:
            self._receive(message)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def allgather(
        self, name: str, text: str = "", seconds: float = 600.0
    ) -> list[str]:
        """Returns the texts of all processes, which call it at one place.

        Args:
          name: of the place, for the message when a process is missing.
          text: of this process.
          seconds: to wait for the others, from the first on.

        Raises:
          UserError: names the processes that are missing after that.
        """
        number = next(self._gather_numbers)
        self._connection.send(
            gather=number, name=name, text=text, seconds=seconds
        )
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers)
            answer = self._answers.pop(number)
        if "missing" not in answer:
            return answer["texts"]
        names = (f"{i} ({self.hosts[i]})" for i in answer["missing"])
        raise UserError(
            f"processes missing at {name!r} after {seconds:g} s: "
            f"{', '.join(names)}; look at their logs"
        )

    def request(self, text: str) -> None:
        """Requests that `poll_requests` gives `text` to all processes, once."""
        if text not in self._requested:
            self._requested.add(text)
            self._connection.send(request=text)

    def poll_requests(self) -> list[str]:
        """Returns what was requested, at the same call on every process.

        Without a request it sends no message. With one, all processes report
        how often they have called (on their threads, so also one that waits
        for a device), make no further call meanwhile, and the request is
        delivered at the first call that none has made yet: as JAX's
        preemption service does it, which knows SIGTERM only.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._open_rounds)
            self._calls += 1
            texts = self._deliveries.pop(self._calls, [])
        self._requested -= set(texts)
        return texts

    def wait_for_end(self, seconds: float) -> None:
        """Waits for the message that another process has ended the run: a
        collective fails before the coordinator reports the dead process."""
        self._over.wait(seconds)

    def abort(self, reason: str, code: int) -> NoReturn:
        """Ends this process, which has printed the reason, and all others."""
        self._aborting = True
        self._connection.send(end=reason, code=code)
        self._over.wait(2 * _RELAY_SECONDS)
        self._exit(code)
        raise SystemExit(code)

    def close(self) -> None:
        """Leaves while the others may go on; process 0 goes last."""
        self._closed = True
        self._connection.send(leave=1)
        if self._coordinator is not None:
            self._coordinator.join(_SHUTDOWN_SECONDS)
        self._thread.join(_RELAY_SECONDS)
        self._connection.close()

    def _listen(self) -> None:
        interval, last = self._heartbeat / 4, time.monotonic()
        while not self._closed:
            messages: list[dict[str, Any]] | None = []
            if select.select([self._connection], [], [], min(interval, 0.5))[0]:
                messages = self._connection.receive()
            now = time.monotonic()
            if now - last > interval:
                last = now
                self._connection.send(heartbeat=1)
            silent = now - self._connection.last_received > self._heartbeat
            if messages is None or silent:
                if self._closed:
                    return
                state = f"has been silent for {self._heartbeat:g} s"
                state = state if silent else "is gone"
                self._end(lost_process(0, self.hosts[0], state), LOST)
                return
            for message in messages:
                if "end" in message:
                    self._end(message["end"], message["code"])
                    return
                self._receive(message)

    def _receive(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "gathered" in message:
                self._answers[message["gathered"]] = message
            elif "report_calls" in message:
                self._open_rounds += 1
                self._connection.send(
                    calls=self._calls, round=message["report_calls"]
                )
            elif "deliver" in message:
                self._open_rounds -= 1
                texts = self._deliveries.setdefault(message["at_call"], [])
                texts.append(message["deliver"])
            self._changed.notify_all()

    def _end(self, reason: str, code: int) -> None:
        self._over.set()
        if self._aborting:  # the main thread exits, and has said why
            return
        print(f"error: {reason}", file=sys.stderr)
        self._exit(code)

    def _exit(self, code: int) -> None:
        # Not by an exception: the main thread may wait for a dead process
        # inside a collective, and JAX's own shutdown would do so, too.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self._connection.close()  # process 0 waits for it
        os._exit(code)


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
