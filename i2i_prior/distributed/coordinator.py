"""Coordinator of a run: the thread of process 0 that tracks all processes.

`jax.distributed` aborts every process without naming the one that is missing,
and notices a dead one only after its heartbeat time-out. So process 0 keeps
one connection to each other process (the operating system closes that of a
dead one at once) and sends what it learns to all. `connection` lists the
messages.
"""

import itertools
import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from i2i_prior.distributed.connection import Connection

LOST = 75  # exit code after a lost process: run the same command again
_SHUTDOWN_SECONDS = 5.0  # for the others to end before process 0 does


@dataclass
class _Gather:
    """Texts of an allgather under way, by process."""

    name: str
    deadline: float
    texts: dict[int, str] = field(default_factory=dict)


@dataclass
class _Round:
    """Request to be delivered, and the calls that each process has made."""

    text: str
    calls: dict[int, int] = field(default_factory=dict)


class Coordinator:
    """Server side of the protocol, on a thread of process 0.

    `listener` listens on the coordinator's port; `local` is the connection and
    the host name of process 0 itself; `hosts` are the expected names, empty if
    unknown; `startup` and `heartbeat` are those of `client.join`.
    """

    def __init__(
        self,
        listener: socket.socket,
        local: tuple[Connection, str],
        processes: int,
        hosts: Sequence[str],
        startup: float,
        heartbeat: float,
    ):
        self._listener, self._processes = listener, processes
        self._connections = {0: local[0]}
        self._hosts = {0: local[1]}
        self._expected_hosts = hosts
        self._startup, self._heartbeat = startup, heartbeat
        self._left: set[int] = set()
        self._gathers: dict[int, _Gather] = {}
        self._rounds: dict[int, _Round] = {}
        self._round_numbers = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        self._ended = False

    def run(self) -> None:
        """Serves until all processes have left or one is lost."""
        try:
            if self._accept_all():
                self._serve()
        finally:
            self._listener.close()
            for connection in self._connections.values():
                connection.close()
            self._selector.close()

    def _accept_all(self) -> bool:
        """Waits for all processes to join; False if the run cannot start."""
        last_report = time.monotonic()
        deadline = last_report + self._startup
        self._selector.register(self._listener, selectors.EVENT_READ)
        while len(self._connections) < self._processes:
            now = time.monotonic()
            if now > deadline:
                self._end(startup_timeout(self._missing(), self._startup), 1)
                return False
            if now - last_report > 0.5:
                last_report = now
                self._broadcast(waiting_for=self._missing())
            for key, _ in self._selector.select(0.5):
                if key.fileobj is self._listener:
                    connection = Connection(self._listener.accept()[0])
                    self._selector.register(connection, selectors.EVENT_READ)
                elif not self._handshake(key.fileobj):  # type: ignore[arg-type]
                    return False
        self._selector.unregister(self._listener)
        # JAX's coordinator takes this port next.
        self._listener.close()
        return True

    def _handshake(self, connection: Connection) -> bool:
        """Reads the join of a new process; False if it ends the run."""
        messages = connection.receive()
        joined = {id(other): i for i, other in self._connections.items()}
        if messages is None or connection.line_too_long():
            self._selector.unregister(connection)
            connection.close()
            number = joined.get(id(connection))
            if number is not None:  # it may be started anew
                del self._connections[number], self._hosts[number]
            return True
        for message in messages:
            number, host = message.get("join"), str(message.get("host"))
            known = id(connection) in joined
            if known or not isinstance(number, int) or number < 1:
                continue
            problem = ""
            if message.get("processes") != self._processes:
                problem = (
                    f"process {number} on {host} counts "
                    f"{message.get('processes')} processes, process 0 on "
                    f"{self._hosts[0]} counts {self._processes}; start all "
                    "with the same number"
                )
            elif number in self._connections:
                problem = (
                    f"{host} and {self._hosts[number]} both say that they are "
                    f"process {number}; give each process its own id"
                )
            if problem:
                connection.send(end=problem, code=1)
                self._end(problem, 1)
                return False
            self._connections[number] = connection
            self._hosts[number] = host
        return True

    def _missing(self) -> list[str]:
        """Returns the processes that have not joined, with known hosts."""
        names = dict(enumerate(self._expected_hosts))
        return [
            f"{i} ({names[i]})" if i in names else str(i)
            for i in range(self._processes)
            if i not in self._connections
        ]

    def _serve(self) -> None:
        self._broadcast(hosts=[self._hosts[i] for i in range(self._processes)])
        self._selector.register(self._connections[0], selectors.EVENT_READ)
        number = {id(conn): i for i, conn in self._connections.items()}
        interval = self._heartbeat / 4
        now = last = time.monotonic()
        for connection in self._connections.values():
            connection.last_received = now
        while len(self._left) < self._processes and not self._ended:
            for key, _ in self._selector.select(min(interval, 0.5)):
                if not self._ended:
                    self._receive(number[id(key.fileobj)])
            now = time.monotonic()
            if now - last > interval and not self._ended:
                last = now
                self._broadcast(heartbeat=1)
                self._check_heartbeats(now)
            self._expire_gathers(now)

    def _receive(self, process: int) -> None:
        """Handles the messages of one process."""
        messages = self._connections[process].receive()
        if messages is None:
            self._selector.unregister(self._connections[process])
            if process not in self._left:
                self._lose(process, "is gone")
            return
        for message in messages:
            if "gather" in message:
                self._gather(process, message)
            elif "request" in message:
                self._start_round(str(message["request"]))
            elif "calls" in message:
                self._count(process, message["round"], message["calls"])
            elif "end" in message:
                sender = f"process {process} on {self._hosts[process]}"
                reason = f"{sender} ended: {message['end']}"
                self._end(reason, message["code"], process)
            elif "leave" in message:
                self._left.add(process)

    def _gather(self, process: int, message: dict[str, Any]) -> None:
        """Adds a text to its allgather; answers all once it is complete."""
        number, name = message["gather"], message["name"]
        deadline = time.monotonic() + message["seconds"]
        gather = self._gathers.setdefault(number, _Gather(name, deadline))
        if gather.name != name:
            self._end(
                f"process {process} is at {name!r} where another is at "
                f"{gather.name!r}: they do not run the same program",
                1,
            )
            return
        gather.texts[process] = message["text"]
        if len(gather.texts) == self._processes:
            del self._gathers[number]
            texts = [gather.texts[i] for i in range(self._processes)]
            self._broadcast(gathered=number, texts=texts)

    def _expire_gathers(self, now: float) -> None:
        """Answers allgathers past their deadline with who is missing."""
        for number, gather in list(self._gathers.items()):
            if now > gather.deadline:
                del self._gathers[number]
                missing = set(range(self._processes)) - set(gather.texts)
                self._broadcast(gathered=number, missing=sorted(missing))

    def _start_round(self, text: str) -> None:
        """Starts to collect the calls of all processes for a request."""
        if any(pending.text == text for pending in self._rounds.values()):
            return  # several processes got the same signal
        number = next(self._round_numbers)
        self._rounds[number] = _Round(text)
        self._broadcast(report_calls=number)

    def _count(self, process: int, number: int, calls: int) -> None:
        """Delivers a request at the first call that no process has made."""
        pending = self._rounds[number]
        pending.calls[process] = calls
        if len(pending.calls) == self._processes:
            del self._rounds[number]
            first = max(pending.calls.values()) + 1
            self._broadcast(deliver=pending.text, at_call=first)

    def _check_heartbeats(self, now: float) -> None:
        state = f"has been silent for {self._heartbeat:g} s"
        for process, connection in self._connections.items():
            silent = now - connection.last_received > self._heartbeat
            if silent and process not in self._left:
                self._lose(process, state)
                return

    def _lose(self, process: int, state: str) -> None:
        reason = lost_process(process, self._hosts[process], state)
        self._end(reason, LOST, process)

    def _end(self, reason: str, code: int, cause: int | None = None) -> None:
        """Ends all processes; last 0, since JAX's coordinator goes with it."""
        if self._ended:
            return
        self._ended = True
        others = {i: conn for i, conn in self._connections.items() if i != 0}
        for connection in others.values():
            connection.send(end=reason, code=code)
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        with selectors.DefaultSelector() as selector:
            for process, connection in others.items():
                if process != cause and process not in self._left:
                    selector.register(connection, selectors.EVENT_READ)
            while selector.get_map() and time.monotonic() < deadline:
                for key, _ in selector.select(0.1):
                    if key.fileobj.receive() is None:  # type: ignore[union-attr]
                        selector.unregister(key.fileobj)
        self._connections[0].send(end=reason, code=code)

    def _broadcast(self, **message: Any) -> None:
        for process, connection in self._connections.items():
            if process not in self._left:
                connection.send(**message)


def startup_timeout(missing: Iterable[str], seconds: float) -> str:
    """Message about processes that did not start in time."""
    return (
        f"processes missing after {seconds:g} s: {', '.join(missing)}; look at "
        "their logs, or raise --startup-timeout"
    )


def lost_process(process: int, host: str, state: str) -> str:
    """Message about a process that died during the run."""
    return (
        f"process {process} on {host} {state}, so this run ends here; run the "
        "same command again to go on from its newest checkpoint"
    )
