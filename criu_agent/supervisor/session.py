"""A console and the clients that are attached to it: the run's own, and one for each `exec`."""

import base64
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from criu_agent.control import Kind
from criu_agent.supervisor.clients import HIGH_WATER, TOO_SLOW, Client
from criu_agent.term import modes
from criu_agent.term.console import Console, Pty, Stream

_KINDS: dict[Stream, Kind] = {"stdout": Kind.OUTPUT, "stderr": Kind.ERROR_OUTPUT}
_REDRAW_AFTER = 0.3  # seconds between the two sizes that make a full-screen program draw again; OpenCode waits 0.1
_DRAINED = 64 << 20  # bytes: no pipe or terminal holds that many, so who still writes then is not stopped
_INPUT_LIMIT = 1 << 20  # bytes of input that may wait for a program that does not read


class Session:
    """Relays between one console and its clients. on_output sees every piece before the clients do."""

    def __init__(self, console: Console, on_output: Callable[[Stream, bytes], None] | None = None) -> None:
        self.console = console
        self.clients: list[Client] = []
        self._on_output = on_output
        self._relayed = 0  # bytes of output so far
        self._closed = False
        self._input = bytearray()
        self._input_ends = False
        self._resize_at: tuple[float, tuple[int, int]] | None = None

    @property
    def is_terminal(self) -> bool:
        return isinstance(self.console, Pty)

    def attach(self, client: Client) -> None:
        client.attached = True
        client.session = self
        self.clients.append(client)

    def detach(self, client: Client) -> None:
        client.attached = False
        client.session = None
        if client in self.clients:
            self.clients.remove(client)

    # -- output

    def readable(self) -> list[int]:
        """The descriptors to read now. A pipe's slow reader holds the program back, as a pipe does."""
        if not self.is_terminal and any(client.backlog > HIGH_WATER for client in self.clients):
            return []
        return list(self.console.outputs())

    def relay_output(self, fd: int) -> bool:
        """Read one piece and pass it on; whether there was one."""
        stream = self.console.outputs()[fd]
        data = self.console.read(fd)
        if not data:
            return False
        self._relayed += len(data)
        if self._on_output is not None:
            self._on_output(stream, data)
        if self.is_terminal and not self.clients:
            self.give(modes.answers(data))
        for client in list(self.clients):
            client.output(_KINDS[stream], data)
            if self.is_terminal and client.backlog > TOO_SLOW:
                self.detach(client)
                client.tell("detached", reason="this terminal is too slow for the run's output")
                client.closing = True
        return True

    def drain(self) -> None:
        """Read everything that the programs have written; a process that was left behind may go on for ever."""
        for fd in list(self.console.outputs()):
            end = self._relayed + _DRAINED
            while fd in self.console.outputs() and self._relayed < end and self.relay_output(fd):
                pass

    def serve(self, fd: int) -> None:
        """A descriptor of the console is ready: do what can be done without waiting."""
        if self._closed:  # by what was done first in this turn of the loop; the number may be another's by now
            return
        if fd in self.console.outputs():
            self.relay_output(fd)
        self.push()

    # -- input

    @property
    def input_is_full(self) -> bool:
        """Whether the writer of a pipe has to wait, as for any pipe."""
        return not self.is_terminal and len(self._input) > _INPUT_LIMIT

    def give(self, data: bytes) -> None:
        """Pass input on, or keep it until the program reads. A terminal drops what is too much, as a tty does."""
        if not self.is_terminal or len(self._input) + len(data) <= _INPUT_LIMIT:
            self._input += data
        self.push()

    def end_input(self) -> None:
        self._input_ends = True
        self.push()

    def wants_to_write(self) -> int | None:
        return self.console.input_fd() if self._input else None

    def push(self) -> None:
        while self._input:
            taken = self.console.write(bytes(self._input[: 1 << 16]))
            if taken == 0:
                return
            del self._input[:taken]
        if self._input_ends:
            self._input_ends = False
            self.console.close_input()

    def save_input(self) -> dict[str, object]:
        """The input that was taken from clients and not yet by the program, for the manifest."""
        return {"pending": base64.b64encode(self._input).decode(), "pending_end": self._input_ends}

    def restore_input(self, saved: Mapping[str, Any]) -> None:
        if saved.get("pending"):
            self.give(base64.b64decode(saved["pending"]))
        if saved.get("pending_end"):
            self.end_input()

    # -- window

    def resize(self, rows: int, columns: int) -> None:
        self._resize_at = None
        self.console.resize(rows, columns)

    def redraw(self, rows: int, columns: int) -> None:
        """Have a full-screen program draw again: many do only when the size really changes."""
        self.console.resize(max(rows - 1, 1), columns)
        self._resize_at = (time.monotonic() + _REDRAW_AFTER, (rows, columns))

    def tick(self) -> float | None:
        """Do what is due; seconds until the next thing is, None when there is none."""
        if self._resize_at is None:
            return None
        due, size = self._resize_at
        left = due - time.monotonic()
        if left > 0:
            return left
        self.resize(*size)
        return None

    def close(self) -> None:
        self._closed = True
        self.console.close()


class Guest:
    """An `exec` session: a process that was entered into the box, its console, and the client that asked for it."""

    def __init__(self, session: Session, client: Client, pid: int, wait: Callable[[], int]) -> None:
        self.session = session
        self.client = client
        self.pidfd = os.pidfd_open(pid)
        self._wait = wait

    def ended(self) -> int:
        """Reap it: its exit status."""
        self.session.drain()
        os.close(self.pidfd)
        self.session.close()
        return self._wait()
