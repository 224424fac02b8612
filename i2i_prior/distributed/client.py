"""A process of a run of several, and what it can ask of all of them."""

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
from i2i_prior.distributed.coordinator import LOST, gone, listed
from i2i_prior.errors import UserError

_SHUTDOWN_SECONDS = (
    60.0  # seconds that the others have to finish after process 0
)
_PATIENCE = 5.0  # seconds that the hub has to pass news on


class Client:
    """One process among the others; made by `join`.

    Its thread listens for bad news, at which this process ends at once with
    a sentence: what it waits for would never come.

    Args:
      wire: to the hub.
      process: the number of this one.
      hosts: host name of each process.
      heartbeat: seconds of silence that mean that process 0 is gone.
      first: messages that came together with the hosts.
      hub: the thread of the hub, in process 0.
    """

    def __init__(
        self,
        wire: Connection,
        process: int,
        hosts: list[str],
        heartbeat: float,
        first: Sequence[dict[str, Any]] = (),
        hub: threading.Thread | None = None,
    ):
        self.process, self.hosts = process, hosts
        self._wire, self._heartbeat, self._hub = wire, heartbeat, hub
        self._changed = threading.Condition()
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._count, self._held = 0, 0
        self._points: dict[int, list[str]] = {}
        self._asked: set[str] = set()
        self._leaving = self._closed = False
        self._over = threading.Event()
        for message in first:
            self._receive(message)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def gather(
        self, name: str, text: str = "", seconds: float = 600.0
    ) -> list[str]:
        """The texts of all processes in their order, once all have come.

        Every process calls it at the same place of the program.

        Args:
          name: of the place, for the message when one is missing.
          text: of this process.
          seconds: to wait for the others, from the first on.

        Raises:
          UserError: names the processes that did not come in time.
        """
        with self._changed:
            self._number += 1
            number = self._number
        self._wire.send(put=[number, name], text=text, seconds=seconds)
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers)
            answer = self._answers.pop(number)
        if "missing" not in answer:
            return answer["texts"]
        names = [f"{i} ({self.hosts[i]})" for i in answer["missing"]]
        plural = "es" if len(names) > 1 else ""
        raise UserError(
            f"process{plural} {listed(names)} did not come to {name!r} within "
            f"{seconds:g} s; look at the logs there"
        )

    def request(self, text: str) -> None:
        """Asks that all processes get `text` from the same call `reached`.

        Until they have got it, to ask again changes nothing.
        """
        if text not in self._asked:
            self._asked.add(text)
            self._wire.send(request=text)

    def reached(self) -> list[str]:
        """What any process requested, at the same call on every process.

        Costs no message as long as nobody asks. When somebody does, all tell
        how often they have called (on their threads, so also one that waits
        for a device), none calls on meanwhile, and the first call that none
        has made yet is the one: as JAX's preemption service does it, which
        knows SIGTERM only.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._held)
            self._count += 1
            found = self._points.pop(self._count, [])
        self._asked -= set(found)
        return found

    def await_news(self, seconds: float) -> None:
        """Waits for the end that the news of a dead process brings.

        Its death may be the reason of what went wrong here: a collective
        fails before the news comes.
        """
        self._over.wait(seconds)

    def leave(self, sentence: str, code: int) -> NoReturn:
        """Ends this process and all others, without waiting for them.

        Args:
          sentence: why, for the others; this one has said it already.
          code: the exit code of all.
        """
        self._leaving = True
        self._wire.send(end=sentence, code=code)
        self._over.wait(2 * _PATIENCE)
        self._quit(code)
        raise SystemExit(code)

    def close(self) -> None:
        """Leaves while the others may go on; process 0 goes last."""
        self._closed = True
        self._wire.send(bye=1)
        if self._hub is not None:
            self._hub.join(_SHUTDOWN_SECONDS)
        self._thread.join(_PATIENCE)
        self._wire.close()

    def _listen(self) -> None:
        beat = self._heartbeat / 4
        last = time.monotonic()
        while not self._closed:
            messages: list[dict[str, Any]] | None = []
            if select.select([self._wire], [], [], min(beat, 0.5))[0]:
                messages = self._wire.receive()
            now = time.monotonic()
            if now - last > beat:
                last = now
                self._wire.send(beat=1)
            silent = now - self._wire.heard > self._heartbeat
            if messages is None or silent:
                if self._closed:
                    return
                how = f"has been silent for {self._heartbeat:g} s"
                how = how if silent else "is gone"
                self._fail(gone(0, self.hosts[0], how), LOST)
                return
            for message in messages:
                if "end" in message:
                    self._fail(message["end"], message["code"])
                    return
                self._receive(message)

    def _receive(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "all" in message:
                self._answers[message["all"]] = message
            elif "late" in message:
                self._answers[message["late"]] = message
            elif "report" in message:
                self._held += 1
                self._wire.send(at=self._count, round=message["report"])
            elif "point" in message:
                self._held -= 1
                point = self._points.setdefault(message["point"], [])
                point.append(message["text"])
            self._changed.notify_all()

    def _fail(self, sentence: str, code: int) -> None:
        self._over.set()
        if self._leaving:  # it ends by itself, and has said why
            return
        print(f"error: {sentence}", file=sys.stderr)
        self._quit(code)

    def _quit(self, code: int) -> None:
        # Not by an exception: the main thread may wait for a dead process
        # inside a collective, and JAX's own shutdown would do so, too.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self._wire.close()  # process 0 waits for it
        os._exit(code)
