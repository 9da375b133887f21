"""The control socket of a supervisor: frames, and the client's end.

A frame is a type byte, a u32 big-endian length and that many bytes. JSON frames carry requests and answers,
the others the bytes of standard streams. A client sends one request; an answer ends with a `summary` or an
`error` message, or, after `attach`, with `ended` or `detached`.
"""

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

from criu_agent.errors import Failure, by_code

_HEADER = struct.Struct(">BI")
MAX_PAYLOAD = 8 << 20
Message = dict[str, Any]


class Kind(IntEnum):
    JSON = 1
    OUTPUT = 2  # to the client: standard output; to the supervisor: input
    ERROR_OUTPUT = 3
    INPUT_END = 4


class ProtocolError(Failure):
    pass


class NoAnswer(Failure):
    """There is no supervisor at the other end (any more)."""


def frame(kind: Kind, payload: bytes) -> bytes:
    return _HEADER.pack(kind, len(payload)) + payload


def message(**fields: object) -> bytes:
    return frame(Kind.JSON, json.dumps(fields).encode())


def parse(payload: bytes) -> Message:
    """The JSON object of a frame."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise ProtocolError("the control socket got something that is not JSON") from error
    if not isinstance(value, dict):
        raise ProtocolError("the control socket got JSON that is not an object")
    return value


class Decoder:
    """Turns received bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if length > MAX_PAYLOAD or kind not in list(Kind):
                raise ProtocolError("the control socket got a frame that it does not know")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Kind(kind), payload


def listen(path: Path) -> socket.socket:
    """A listening socket, mode 0600 in a directory that only its owner can enter."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    with _short(path) as name:
        listener.bind(name)
    path.chmod(0o600)
    listener.listen(64)
    return listener


def peer_uid(connection: socket.socket) -> int:
    _, uid, _ = struct.unpack("iii", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


class _short:
    """A name of at most 107 bytes for a socket path of any length: through a descriptor of its directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class Client:
    """A connection to a supervisor."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._decoder = Decoder()
        self._frames: list[tuple[Kind, bytes]] = []
        try:
            with _short(path) as name:
                self.socket.connect(name)
        except OSError as error:
            self.socket.close()
            raise NoAnswer(
                f"the supervisor does not answer: {error.strerror}", hint="criu-agent ps shows its state"
            ) from error

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, **fields: object) -> None:
        self.socket.sendall(message(**fields))

    def received(self) -> Iterator[tuple[Kind, bytes]]:
        """The frames that one recv brings; at the end of the connection, ConnectionResetError."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the supervisor closed the connection")
        yield from self._decoder.feed(data)

    def call(self, *, on_status: Callable[[Message], None] | None = None, **request: object) -> Message:
        """Send a request and wait for its summary. An error message raises the error that it names."""
        try:
            self.send(**request)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise _ended() from error
        return self.answer(on_status=on_status)

    def answer(self, *, on_status: Callable[[Message], None] | None = None) -> Message:
        """Wait for the summary of the request that was sent."""
        try:
            while True:
                for _, payload in self.received():
                    reply = json.loads(payload)
                    if reply["message_type"] == "summary":
                        return dict(reply)
                    if reply["message_type"] == "error":
                        raise from_message(reply)
                    if on_status is not None:
                        on_status(reply)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise _ended() from error


def _ended() -> NoAnswer:
    return NoAnswer("the supervisor ended before it answered", hint="criu-agent ps shows its state")


def error_message(error: Failure) -> Message:
    return {**error.to_json(), "message_type": "error"}


def from_message(reply: Message) -> Failure:
    return by_code(reply["code"])(reply["message"], hint=reply["hint"], agent_state=reply["agent_state"])
