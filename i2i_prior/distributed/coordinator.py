"""Where the processes of a run meet: process 0 knows who is there.

`jax.distributed` aborts every process without naming the one that did not
come, and takes its heartbeat time-out to notice one that died. So process 0
keeps one connection to each other process (the operating system closes that
of a dead one at once) and says what it knows to all of them. What they say to
each other is listed in `wire`.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from i2i_prior.distributed.connection import Connection

LOST = 75  # exit code: run the same command again
_ENDING = 5.0  # seconds the others have to leave before process 0 does


@dataclass
class _Gather:
    name: str
    due: float
    texts: dict[int, str] = field(default_factory=dict)


@dataclass
class _Round:
    text: str
    counts: dict[int, int] = field(default_factory=dict)


class Coordinator:
    """Runs on a thread of process 0, which is a member like the others.

    Args:
      listener: a listening socket on the coordinator's port.
      own: the hub's side of process 0's own wire, and its host name.
      processes: how many will come.
      hosts: where each is expected, if that is known.
      startup: seconds they have for that.
      heartbeat: seconds of silence that mean that a process is gone.
    """

    def __init__(
        self,
        listener: socket.socket,
        own: tuple[Connection, str],
        processes: int,
        hosts: Sequence[str],
        startup: float,
        heartbeat: float,
    ):
        self._listener, self._processes = listener, processes
        self._wires = {0: own[0]}
        self._hosts = {0: own[1]}
        self._expected = hosts
        self._startup, self._heartbeat = startup, heartbeat
        self._left: set[int] = set()
        self._gathers: dict[int, _Gather] = {}
        self._rounds: dict[int, _Round] = {}
        self._round = 0
        self._selector = selectors.DefaultSelector()
        self._ended = False

    def run(self) -> None:
        """Until all have left, or one is lost."""
        try:
            if self._meet():
                self._serve()
        finally:
            self._listener.close()
            for wire in self._wires.values():
                wire.close()
            self._selector.close()

    def _meet(self) -> bool:
        now = told = time.monotonic()
        due = now + self._startup
        self._selector.register(self._listener, selectors.EVENT_READ)
        while len(self._wires) < self._processes:
            now = time.monotonic()
            if now > due:
                self._end(not_come(self._absent(), self._startup), 1)
                return False
            if now - told > 0.5:
                told = now
                self._all(waiting=self._absent())
            for key, _ in self._selector.select(0.5):
                if key.fileobj is self._listener:
                    wire = Connection(self._listener.accept()[0])
                    self._selector.register(wire, selectors.EVENT_READ)
                elif not self._handshake(key.fileobj):  # type: ignore[arg-type]
                    return False
        self._selector.unregister(self._listener)
        # JAX's coordinator takes this port next.
        self._listener.close()
        return True

    def _handshake(self, wire: Connection) -> bool:
        """Hears a newcomer; False where it makes the run impossible."""
        messages = wire.receive()
        known = {id(other): i for i, other in self._wires.items()}
        if messages is None or wire.too_long():
            self._selector.unregister(wire)
            wire.close()
            number = known.get(id(wire))
            if number is not None:  # it may be started anew
                del self._wires[number], self._hosts[number]
            return True
        for message in messages:
            number, host = message.get("hello"), str(message.get("host"))
            if id(wire) in known or not isinstance(number, int) or number < 1:
                continue
            problem = ""
            if message.get("of") != self._processes:
                problem = (
                    f"process {number} on {host} counts {message.get('of')} "
                    f"processes, process 0 on {self._hosts[0]} counts "
                    f"{self._processes}; start all with the same number"
                )
            elif number in self._wires:
                problem = (
                    f"{host} and {self._hosts[number]} both say that they are "
                    f"process {number}; give each process its own id"
                )
            if problem:
                wire.send(end=problem, code=1)
                self._end(problem, 1)
                return False
            self._wires[number], self._hosts[number] = wire, host
        return True

    def _absent(self) -> list[str]:
        missing = sorted(set(range(self._processes)) - set(self._wires))
        return [
            f"{i} ({self._expected[i]})" if self._expected else str(i)
            for i in missing
        ]

    def _serve(self) -> None:
        self._all(hosts=[self._hosts[i] for i in range(self._processes)])
        self._selector.register(self._wires[0], selectors.EVENT_READ)
        number = {id(wire): i for i, wire in self._wires.items()}
        beat = self._heartbeat / 4
        now = last = time.monotonic()
        for wire in self._wires.values():
            wire.heard = now
        while len(self._left) < self._processes and not self._ended:
            for key, _ in self._selector.select(min(beat, 0.5)):
                if not self._ended:
                    self._receive(number[id(key.fileobj)])
            now = time.monotonic()
            if now - last > beat and not self._ended:
                last = now
                self._all(beat=1)
                self._silent(now)
            self._late(now)

    def _receive(self, process: int) -> None:
        wire = self._wires[process]
        messages = wire.receive()
        if messages is None:
            self._selector.unregister(wire)
            if process not in self._left:
                self._lose(process, "is gone")
            return
        for message in messages:
            if "put" in message:
                self._put(process, message)
            elif "request" in message:
                self._request(str(message["request"]))
            elif "at" in message:
                self._at(process, message["round"], message["at"])
            elif "end" in message:
                who = f"process {process} on {self._hosts[process]}"
                self._end(
                    f"{who} ended: {message['end']}", message["code"], process
                )
            elif "bye" in message:
                self._left.add(process)

    def _put(self, process: int, message: dict[str, Any]) -> None:
        number, name = message["put"]
        due = time.monotonic() + message["seconds"]
        gather = self._gathers.setdefault(number, _Gather(name, due))
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
            self._all(all=number, texts=texts)

    def _late(self, now: float) -> None:
        for number, gather in list(self._gathers.items()):
            if now > gather.due:
                del self._gathers[number]
                missing = set(range(self._processes)) - set(gather.texts)
                self._all(late=number, missing=sorted(missing))

    def _request(self, text: str) -> None:
        if any(one.text == text for one in self._rounds.values()):
            return  # several processes got the same signal
        self._round += 1
        self._rounds[self._round] = _Round(text)
        self._all(report=self._round)

    def _at(self, process: int, number: int, count: int) -> None:
        one = self._rounds[number]
        one.counts[process] = count
        if len(one.counts) == self._processes:
            del self._rounds[number]
            self._all(point=max(one.counts.values()) + 1, text=one.text)

    def _silent(self, now: float) -> None:
        for process, wire in self._wires.items():
            silent = now - wire.heard > self._heartbeat
            if silent and process not in self._left:
                self._lose(
                    process, f"has been silent for {self._heartbeat:g} s"
                )
                return

    def _lose(self, process: int, how: str) -> None:
        self._end(gone(process, self._hosts[process], how), LOST, process)

    def _end(self, sentence: str, code: int, cause: int | None = None) -> None:
        """Tells all; process 0 last, since with it goes JAX's coordinator."""
        if self._ended:
            return
        self._ended = True
        others = {i: wire for i, wire in self._wires.items() if i != 0}
        for wire in others.values():
            wire.send(end=sentence, code=code)
        due = time.monotonic() + _ENDING
        with selectors.DefaultSelector() as selector:
            for process, wire in others.items():
                if process != cause and process not in self._left:
                    selector.register(wire, selectors.EVENT_READ)
            while selector.get_map() and time.monotonic() < due:
                for key, _ in selector.select(0.1):
                    if key.fileobj.receive() is None:  # type: ignore[union-attr]
                        selector.unregister(key.fileobj)
        self._wires[0].send(end=sentence, code=code)

    def _all(self, **message: Any) -> None:
        for process, wire in self._wires.items():
            if process not in self._left:
                wire.send(**message)


def listed(names: Sequence[str]) -> str:
    """["2", "3", "5"] -> "2, 3 and 5"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def not_come(missing: Sequence[str], seconds: float) -> str:
    """The sentence for processes that did not start."""
    plural = "es" if len(missing) > 1 else ""
    return (
        f"process{plural} {listed(missing)} did not come within {seconds:g} s; "
        "look at the logs there, or raise --startup-timeout"
    )


def gone(process: int, host: str, how: str) -> str:
    """The sentence for a process that died while the run went on."""
    return (
        f"process {process} on {host} {how}, so this run ends here; run the "
        "same command again to go on from its newest checkpoint"
    )
