"""The supervisor's end of a run's standard streams: the master of a pty, or three pipes.

Both are Resources: `save` says what of them goes into the manifest while the tree is frozen, and the restored
side is made from that. Neither loses a byte: what the tree wrote before the freeze is read from our side, what
it had not read of its input is copied from the pipe and written into the new one.
"""

import base64
import fcntl
import os
import struct
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from criu_agent.linux import syscalls

Stream = Literal["stdout", "stderr"]
DEFAULT_SIZE = (24, 80)
_CHUNK = 1 << 16


class Console(Protocol):
    """One end of a run's standard streams. All descriptors are non-blocking."""

    def outputs(self) -> Mapping[int, Stream]:
        """The descriptors to read output from; one that ended is not in it any more."""

    def read(self, fd: int) -> bytes:
        """Up to 64 KiB of output; b"" when there is none now or the stream has ended."""

    def write(self, data: bytes) -> int:
        """Give input to the run; how many bytes were taken (0 when it does not read now)."""

    def close_input(self) -> None:
        """Say to the run that there is no more input."""

    def input_fd(self) -> int | None:
        """The descriptor that becomes writable when `write` takes more."""

    def resize(self, rows: int, columns: int) -> None: ...

    def save(self) -> dict[str, Any]:
        """What the manifest keeps, as JSON. The tree is frozen."""

    def close(self) -> None: ...


class Pty:
    """A console on the master of a pty whose slave was opened in the box."""

    def __init__(self, master: int) -> None:
        self.master = master
        os.set_blocking(master, False)
        os.set_inheritable(master, False)
        self._open = True

    def outputs(self) -> Mapping[int, Stream]:
        return {self.master: "stdout"} if self._open else {}

    def read(self, fd: int) -> bytes:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # EIO: the last descriptor of the slave was closed
            data = b""
        if not data:
            self._open = False
        return data

    def write(self, data: bytes) -> int:
        try:
            return os.write(self.master, data)
        except BlockingIOError:
            return 0
        except OSError:  # EIO: nobody reads any more
            return len(data)

    def close_input(self) -> None:
        """A terminal stays open until its programs have ended."""

    def input_fd(self) -> int | None:
        return self.master if self._open else None

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def size(self) -> tuple[int, int]:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self.master, termios.TIOCGWINSZ, bytes(8)))
        return rows, columns

    def save(self) -> dict[str, Any]:
        rows, columns = self.size()
        return {"kind": "pty", "rows": rows, "columns": columns}

    def close(self) -> None:
        os.close(self.master)


@dataclass(frozen=True, kw_only=True)
class PipeEnds:
    """The box's ends of the pipes (input is -1 for /dev/null), closed here once the box has them."""

    input: int
    output: int
    error: int

    def stdio(self) -> tuple[int, int, int]:
        return self.input, self.output, self.error

    def close(self) -> None:
        for fd in self.stdio():
            if fd >= 0:
                os.close(fd)


class Pipes:
    """A console on pipes. `keys` are their names for CRIU, "pipe:[inode]", which readlink of the fd gives."""

    def __init__(self, *, with_input: bool) -> None:
        self._input_reader, self._input = _pipe() if with_input else (-1, -1)
        self._output, output = _pipe()
        self._error, error = _pipe()
        theirs = os.dup(self._input_reader) if with_input else -1
        self.ends = PipeEnds(input=theirs, output=output, error=error)
        self.keys = [_pipe_key(fd) for fd in self.ends.stdio() if fd >= 0]
        self._open: dict[int, Stream] = {self._output: "stdout", self._error: "stderr"}
        self._pending_close = False
        for fd in (self._input, self._output, self._error):
            if fd >= 0:
                os.set_blocking(fd, False)

    @classmethod
    def again(cls, saved: Mapping[str, Any]) -> "Pipes":
        """The pipes for a restore, with the input that had not been read."""
        pipes = cls(with_input=saved["input"] is not None)
        if saved["input"] is not None:
            unread = base64.b64decode(saved["input"])
            if len(unread) > fcntl.fcntl(pipes._input, fcntl.F_GETPIPE_SZ):  # the program had made its pipe larger
                fcntl.fcntl(pipes._input, fcntl.F_SETPIPE_SZ, len(unread))
            pipes.write(unread)
            if saved["input_closed"]:
                pipes.close_input()
        return pipes

    def inherit(self, saved: Mapping[str, Any]) -> list[tuple[str, int]]:
        """CRIU's keys of the dumped pipes, and the ends of ours that take their places."""
        ends = [fd for fd in self.ends.stdio() if fd >= 0]
        return list(zip(saved["keys"], ends, strict=True))

    def outputs(self) -> Mapping[int, Stream]:
        return dict(self._open)

    def read(self, fd: int) -> bytes:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            del self._open[fd]
        return data

    def write(self, data: bytes) -> int:
        if self._input < 0:
            return len(data)
        try:
            return os.write(self._input, data)
        except BlockingIOError:
            return 0

    def close_input(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def input_fd(self) -> int | None:
        return self._input if self._input >= 0 else None

    def resize(self, rows: int, columns: int) -> None:
        """Pipes have no window."""

    def save(self) -> dict[str, Any]:
        unread = None
        if self._input_reader >= 0:
            unread = base64.b64encode(_peek(self._input_reader)).decode()
        return {"kind": "pipes", "keys": self.keys, "input": unread, "input_closed": self._input < 0}

    def close(self) -> None:
        for fd in (self._input, self._input_reader, self._output, self._error):
            if fd >= 0:
                os.close(fd)


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC)


def _pipe_key(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _peek(fd: int) -> bytes:
    """What lies unread in a pipe, left where it is."""
    reader, writer = _pipe()
    try:
        size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
        try:
            count = syscalls.tee(fd, writer, size)
        except BlockingIOError:
            return b""
        return os.read(reader, count) if count else b""
    finally:
        os.close(reader)
        os.close(writer)
