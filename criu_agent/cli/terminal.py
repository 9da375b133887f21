"""The terminal of a person, attached to a run: raw mode, window size, the detach key.

The terminal is put back as it was on every way out, also when the connection breaks.
"""

import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from criu_agent import control
from criu_agent.control import Client, Kind
from criu_agent.errors import Failure, ToolFailed, Usage

DETACH_KEYS = "ctrl-\\"
_PLAIN = re.compile("[ -~]")
_WITH_CTRL = re.compile(r"[A-Za-z@\[\\\]^_]")  # ctrl with others is no byte of its own
_PATIENCE = 1.0  # seconds that a program has to end when nobody reads its output


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attachment ended. exit_code is None when the user detached and the run goes on."""

    exit_code: int | None
    suspended: bool = False
    snapshot: str = ""
    reason: str = ""


def window() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdin."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    return rows or 24, columns or 80


def is_terminal() -> bool:
    return os.isatty(0) and os.isatty(1)


def parse_detach_keys(text: str) -> bytes:
    """docker's notation: single characters and ctrl-X, with commas between. "" for none."""
    keys = bytearray()
    for key in filter(None, text.split(",")):
        name = key.removeprefix("ctrl-")
        if not (_WITH_CTRL if key.startswith("ctrl-") else _PLAIN).fullmatch(name):
            raise Usage(f"{key!r} is no key for --detach-keys", hint="for example ctrl-\\ or ctrl-p,ctrl-q")
        keys.append(ord(name.upper()) & 0x1F if key.startswith("ctrl-") else ord(name))
    return bytes(keys)


def follow(client: Client, *, detach_keys: bytes, signal_run: Any = None) -> Ended:  # noqa: ANN401
    """Relay between the terminal (or the pipes) of this process and the run, until one side ends it.

    The request that attaches has been sent; its `attached` answer is read here. signal_run(number) passes
    a signal on where there is no terminal that would.
    """
    return _Follower(client, detach_keys, signal_run).run()


class _Follower:
    def __init__(self, client: Client, detach_keys: bytes, signal_run: Any) -> None:  # noqa: ANN401
        self._client = client
        self._detach_keys = detach_keys
        self._signal_run = signal_run
        self._typed = b""  # the first keys of a detach sequence that may go on
        self._terminal = False
        self._input_open = False
        self._ended: Ended | None = None
        self._out = bytearray()  # waits to be sent: blocking in a send could be for ever, while the run waits for us
        self._deaf_until: float | None = None  # nobody reads our output: when to leave the run alone
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> Ended:
        with ExitStack() as undo:
            undo.enter_context(self._watched_signals())
            self._undo = undo
            while self._ended is None:
                self._turn()
        return self._ended

    def _turn(self) -> None:
        connection = self._client.socket.fileno()
        sources = [connection, self._wake]
        if self._input_open and not self._out:
            sources.append(0)
        timeout = None if self._deaf_until is None else max(self._deaf_until - time.monotonic(), 0)
        ready, writable, _ = select.select(sources, [connection] if self._out else [], [], timeout)
        if self._wake in ready:
            self._on_signals()
        if 0 in ready:
            self._on_input()
        if writable:
            self._flush()
        if connection in ready:
            self._on_frames()
        if not ready and self._deaf_until is not None and self._ended is None:
            self._ended = Ended(exit_code=None, reason="nobody reads its output")

    def _on_frames(self) -> None:
        try:
            for kind, payload in self._client.received():
                if kind is Kind.JSON:
                    self._on_message(json.loads(payload))
                else:
                    self._print(1 if kind is Kind.OUTPUT else 2, payload)
        except ConnectionError as error:
            raise ToolFailed(
                "the supervisor ended without a word", hint="criu-agent ps shows the state of the run"
            ) from error

    def _on_message(self, message: dict[str, Any]) -> None:
        kind = message["message_type"]
        if kind == "error":
            raise control.from_message(message)
        if kind == "attached":
            self._terminal = bool(message["terminal"]) and os.isatty(0)
            self._input_open = bool(message["input"])
            if self._terminal:
                self._undo.enter_context(_raw_mode())
        elif kind in ("ended", "detached"):
            if self._terminal:
                self._print(1, message.get("leave", "").encode())
            self._ended = Ended(
                exit_code=message.get("exit_code"),
                suspended=message.get("suspended", False),
                snapshot=message.get("snapshot", ""),
                reason=message.get("reason", ""),
            )

    def _print(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                select.select([], [fd], [])
            except BrokenPipeError:
                if self._deaf_until is None:
                    self._deaf_until = time.monotonic() + _PATIENCE
                    self._pass_on(signal.SIGPIPE)  # as the program would have got it without us
                return
            except OSError as error:
                raise ToolFailed(f"cannot write the output: {error.strerror}", agent_state="running") from error

    def _on_input(self) -> None:
        try:
            data = os.read(0, 1 << 16)
        except OSError:  # a directory, or a terminal that has gone
            data = b""
        if not data:
            self._input_open = False
            self._queue(control.frame(Kind.INPUT_END, b""))
            return
        if self._terminal and self._detach_keys:
            data = self._typed + data
            before, found, _ = data.partition(self._detach_keys)
            if found:
                self._send(before)
                self._queue(control.message(verb="detach"))
                self._input_open = False
                return
            keep = _overlap(data, self._detach_keys)
            data, self._typed = data[: len(data) - keep], data[len(data) - keep :]
        self._send(data)

    def _send(self, data: bytes) -> None:
        if data:
            self._queue(control.frame(Kind.OUTPUT, data))

    def _queue(self, frame: bytes) -> None:
        self._out += frame
        self._flush()

    def _flush(self) -> None:
        """Send what can be sent now. A broken connection shows itself at the next read."""
        try:
            while self._out:
                del self._out[: self._client.socket.send(self._out, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()

    @contextmanager
    def _watched_signals(self) -> Iterator[None]:
        watched = (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
        old = {number: signal.signal(number, lambda *_: None) for number in watched}
        old_fd = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_signals(self) -> None:
        for number in os.read(self._wake, 64):
            if number == signal.SIGWINCH:
                if self._terminal:
                    rows, columns = window()
                    self._queue(control.message(verb="resize", rows=rows, columns=columns))
            elif number == signal.SIGHUP:
                self._ended = Ended(exit_code=None, reason="the terminal was closed")
            elif number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if self._signal_run is None:
            self._ended = Ended(exit_code=None, reason="interrupted")
            return
        with suppress(Failure):
            self._signal_run(number)


def _overlap(data: bytes, keys: bytes) -> int:
    """How many bytes at the end of data are the beginning of keys."""
    for length in range(min(len(data), len(keys) - 1), 0, -1):
        if keys.startswith(data[-length:]):
            return length
    return 0


@contextmanager
def _raw_mode() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # not TCSAFLUSH: what was typed ahead is for the run
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)
        sys.stdout.flush()
