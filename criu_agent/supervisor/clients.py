"""The clients of a supervisor: their sockets, what they sent, and what waits to be sent to them."""

import json
import socket
from contextlib import suppress
from typing import Any

from criu_agent import control, log
from criu_agent.control import Kind
from criu_agent.errors import Failure

TOO_SLOW = 8 << 20  # bytes that may wait for a terminal's client before it is sent away
HIGH_WATER = 1 << 20  # bytes that may wait for a pipe's client before the run's output is left in its pipe


class Client:
    """One connection. attached: gets the run's output. session: the exec session that it drives, if any."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.attached = False
        self.waits_for_end = False
        self.session: Any = None
        self.window: tuple[int, int] | None = None
        self.closing = False  # close it once everything was sent
        self._decoder = control.Decoder()
        self._out = bytearray()

    @property
    def backlog(self) -> int:
        return len(self._out)

    def fileno(self) -> int:
        return self.socket.fileno()

    def frames(self) -> list[tuple[Kind, bytes]] | None:
        """What has come; None at the end of the connection."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        try:
            return list(self._decoder.feed(data))
        except control.ProtocolError as error:
            log.warning("a client is sent away: %s", error.message)
            return None

    def tell(self, message_type: str, **fields: object) -> None:
        self._out += control.message(message_type=message_type, **fields)
        self.flush()

    def fail(self, error: Failure) -> None:
        self._out += control.frame(Kind.JSON, json.dumps(control.error_message(error)).encode())
        self.flush()

    def output(self, kind: Kind, data: bytes) -> None:
        self._out += control.frame(kind, data)
        self.flush()

    def flush(self) -> None:
        """Send what can be sent now. A broken connection shows itself at the next read."""
        while self._out:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return
            except OSError:
                self._out.clear()
                return
            del self._out[:sent]

    def close(self) -> None:
        with suppress(OSError):
            self.socket.close()
