"""Line protocol between the processes of a run: a JSON object per line.

client to coordinator                  coordinator to client
{"join": id, "processes", "host"}      {"waiting_for": [ids]}, {"hosts": [...]}
{"gather": number, "name", "text",     {"gathered": number, "texts": [...]} or
 "seconds"}                            {"gathered": number, "missing": [ids]}
{"request": text}                      {"report_calls": round}
{"calls": count, "round"}              {"deliver": text, "at_call": count}
{"end": reason, "code"}                {"end": reason, "code"}
{"leave"} and {"heartbeat"}            {"heartbeat"}
"""

import contextlib
import json
import socket
import threading
import time
from typing import Any

_MAX_LINE = 4096  # bytes of an unfinished line before a handshake


class Connection:
    """Connected stream socket that carries JSON objects.

    Attributes:
      last_received: monotonic time of the last bytes, in seconds.
    """

    def __init__(self, connected: socket.socket):
        connected.settimeout(30.0)  # of sends; a full buffer is no answer
        self._socket, self._partial = connected, b""
        self._send_lock = threading.Lock()
        self.last_received = time.monotonic()

    def fileno(self) -> int:
        """File descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends one object; a broken connection shows when receiving."""
        line = json.dumps(message).encode() + b"\n"
        with self._send_lock, contextlib.suppress(OSError):
            try:
                self._socket.sendall(line)
            except OSError:
                # After half a line nothing that follows can be read.
                self._socket.shutdown(socket.SHUT_RDWR)

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns the complete objects received, None at the end of stream."""
        try:
            data = self._socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            return None
        self.last_received = time.monotonic()
        *lines, self._partial = (self._partial + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None  # another protocol on this port
        valid = all(isinstance(message, dict) for message in messages)
        return messages if valid else None

    def line_too_long(self) -> bool:
        """Returns True if an unfinished line exceeds the protocol's limit."""
        return len(self._partial) > _MAX_LINE

    def close(self) -> None:
        """Closes the socket; the other side sees the end of the stream."""
        self._socket.close()
