"""A connection between two processes of a run: one JSON object a line.

to the hub                            from the hub
{"hello": id, "of": n, "host": name}  {"waiting": [ids]}, {"hosts": [...]}
{"put": [number, name], "text",       {"all": number, "texts": [...]} or
 "seconds"}                           {"late": number, "missing": [ids]}
{"request": text}                     {"report": round}
{"at": count, "round"}                {"point": count, "text"}
{"end": sentence, "code"}             {"end": sentence, "code"}
{"bye"} and {"beat"}                  {"beat"}
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any

_LONGEST = 4096  # bytes of a first line


class Connection:
    """One connection: JSON objects, one a line.

    Args:
      connection: a connected stream socket.
    """

    def __init__(self, connection: socket.socket):
        connection.settimeout(30.0)  # of sends; a full buffer is no answer
        self._socket, self._rest = connection, b""
        self._sending = threading.Lock()
        self.heard = time.monotonic()

    def fileno(self) -> int:
        """So that selectors take a Connection."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends one object; a broken connection shows when receiving."""
        line = json.dumps(message).encode() + b"\n"
        with self._sending, contextlib.suppress(OSError):
            try:
                self._socket.sendall(line)
            except OSError:
                # After half a line nothing that follows can be read.
                self._socket.shutdown(socket.SHUT_RDWR)

    def receive(self) -> list[dict[str, Any]] | None:
        """The objects that have come, [] for half a one; None at its end."""
        try:
            data = self._socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            found = [json.loads(line) for line in lines]
        except ValueError:
            return None  # a stranger on our port
        return found if all(isinstance(one, dict) for one in found) else None

    def too_long(self) -> bool:
        """Whether a line has no end: a stranger's."""
        return len(self._rest) > _LONGEST

    def close(self) -> None:
        """The other side sees the end of it."""
        self._socket.close()
