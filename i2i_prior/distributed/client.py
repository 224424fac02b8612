"""Client side of the coordinator protocol: one process of a run."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from i2i_prior.distributed.connection import Connection
from i2i_prior.distributed.coordinator import LOST, lost_process
from i2i_prior.errors import UserError

_SHUTDOWN_SECONDS = 60.0  # for the others to finish after process 0
_RELAY_SECONDS = 5.0  # for the coordinator to pass a message on


class Client:
    """Client of the coordinator in one process; made by `join`.

    Its thread receives messages. When the run has to end, it ends this
    process at once with a message, since the main thread may wait for a dead
    process.

    Args:
      connection: to the coordinator.
      process: number of this process.
      hosts: host name of each process.
      heartbeat: seconds of silence after which process 0 is lost.
      first: messages that came together with the hosts.
      coordinator: thread of the coordinator, in process 0 only.
    """

    def __init__(
        self,
        connection: Connection,
        process: int,
        hosts: list[str],
        heartbeat: float,
        first: Sequence[dict[str, Any]],
        coordinator: threading.Thread | None,
    ):
        self.process, self.hosts = process, hosts
        self._connection, self._heartbeat = connection, heartbeat
        self._coordinator = coordinator
        self._changed = threading.Condition()
        self._gather_number = 0
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

    def allgather(self, name: str, text: str, seconds: float) -> list[str]:
        """Returns the texts of all processes in their order.

        Every process calls it at the same place of the program.

        Args:
          name: of the place, for the message when a process is missing.
          text: of this process.
          seconds: to wait for the others, from the first on.

        Raises:
          UserError: names the processes that are missing after that.
        """
        with self._changed:
            self._gather_number += 1
            number = self._gather_number
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
        """Requests that all processes get `text` at the same `poll_requests`,
        once; see there."""
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
