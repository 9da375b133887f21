"""The keys that detach, and the client that relays between a person's terminal and a run."""

import json
import os
import select
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent import control
from criu_agent.cli.terminal import parse_detach_keys
from criu_agent.control import Decoder, Kind
from criu_agent.errors import Usage
from tests.conftest import PATIENCE, await_true

FOLLOW = """
import json, sys
from pathlib import Path
from criu_agent.cli import terminal
from criu_agent.control import Client
with Client(Path(sys.argv[1])) as client:
    ended = terminal.follow(client, detach_keys=terminal.parse_detach_keys(sys.argv[2]))
Path(sys.argv[3]).write_text(json.dumps([ended.exit_code, ended.reason]))
"""


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("ctrl-\\", b"\x1c"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-P", b"\x10"),
        ("ctrl-@", b"\x00"),
        ("ctrl-]", b"\x1d"),
        ("ctrl-_", b"\x1f"),
        ("~,.", b"~."),
        ("", b""),
    ],
)
def test_keys_are_written_as_for_docker(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize(
    "text", ["ctrl-", "ctrl-pq", "alt-x", "ab", "é", "ctrl-é", "ctrl-1", "€", "\x1b", "ctrl-a,xy"]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="no key for --detach-keys"):
        parse_detach_keys(text)


@given(st.text(max_size=12))
def test_any_text_is_keys_or_refused(text: str) -> None:
    try:
        keys = parse_detach_keys(text)
    except Usage:
        return
    assert len(keys) == len([key for key in text.split(",") if key])


class Follower:
    """A `follow` in a process of its own; we are its supervisor, and the person at its terminal or pipes."""

    def __init__(self, connection: socket.socket, child: "subprocess.Popen[bytes]", result: Path) -> None:
        self.connection = connection
        self.child = child
        self._result = result
        self._decoder = Decoder()
        self.frames: list[tuple[Kind, bytes]] = []

    def tell(self, message_type: str, **fields: object) -> None:
        self.connection.sendall(control.message(message_type=message_type, **fields))

    def receive(self) -> None:
        while select.select([self.connection], [], [], 0)[0]:
            data = self.connection.recv(1 << 16)
            if not data:
                return
            self.frames += self._decoder.feed(data)

    @property
    def typed(self) -> bytes:
        self.receive()
        return b"".join(payload for kind, payload in self.frames if kind is Kind.OUTPUT)

    @property
    def verbs(self) -> list[str]:
        self.receive()
        return [json.loads(payload)["verb"] for kind, payload in self.frames if kind is Kind.JSON]

    def ended(self) -> Any:
        assert self.child.wait(timeout=PATIENCE) == 0
        return json.loads(self._result.read_text())


@contextmanager
def follower(tmp_path: Path, keys: str, *, stdin: int, stdout: int) -> Iterator[Follower]:
    with control.listen(tmp_path / "s") as listener:
        arguments = [str(tmp_path / "s"), keys, str(tmp_path / "result")]
        argv = [sys.executable, "-c", FOLLOW, *arguments]
        with subprocess.Popen(argv, stdin=stdin, stdout=stdout, start_new_session=True) as child:
            try:
                listener.settimeout(20)
                connection, _ = listener.accept()
                with connection:
                    yield Follower(connection, child, tmp_path / "result")
            finally:
                child.kill()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def local_modes(slave: int) -> int:
    return int(termios.tcgetattr(slave)[3])


def test_the_keys_detach_and_what_is_typed_behind_them_is_not_for_the_run(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    master, slave = terminal
    before = termios.tcgetattr(slave)
    with follower(tmp_path, "ctrl-p,ctrl-q", stdin=slave, stdout=slave) as one:
        one.tell("attached", terminal=True, input=True)
        await_true(lambda: not local_modes(slave) & termios.ICANON, "the terminal is raw")
        os.write(master, b"ls\x10\x11rm -rf")
        await_true(lambda: one.verbs == ["detach"], "it asks to be detached")
        assert one.typed == b"ls"
        one.tell("detached", reason="", leave="")
        assert one.ended() == [None, ""]
    assert termios.tcgetattr(slave) == before, "the terminal is as it was"


def test_keys_that_come_one_by_one_detach_too_and_a_beginning_alone_is_passed_on(
    tmp_path: Path, terminal: tuple[int, int]
) -> None:
    master, slave = terminal
    with follower(tmp_path, "ctrl-p,ctrl-q", stdin=slave, stdout=slave) as one:
        one.tell("attached", terminal=True, input=True)
        await_true(lambda: not local_modes(slave) & termios.ICANON, "the terminal is raw")
        os.write(master, b"a\x10")
        await_true(lambda: one.typed == b"a", "the first key waits for the second")
        os.write(master, b"b")
        await_true(lambda: one.typed == b"a\x10b", "it was not the second")
        os.write(master, b"\x10")
        os.write(master, b"\x10")
        await_true(lambda: one.typed == b"a\x10b\x10", "the newest may still be the first of two")
        os.write(master, b"\x11")
        await_true(lambda: one.verbs == ["detach"], "it asks to be detached")
        one.tell("detached", reason="", leave="")
        one.ended()


def test_without_keys_everything_is_for_the_run(tmp_path: Path, terminal: tuple[int, int]) -> None:
    master, slave = terminal
    with follower(tmp_path, "", stdin=slave, stdout=slave) as one:
        one.tell("attached", terminal=True, input=True)
        await_true(lambda: not local_modes(slave) & termios.ICANON, "the terminal is raw")
        os.write(master, b"\x1c\x03\x04\x10\x11")
        await_true(lambda: one.typed == b"\x1c\x03\x04\x10\x11", "all of it arrives")
        one.tell("ended", exit_code=7, leave="")
        assert one.ended() == [7, ""]


def test_through_pipes_no_key_detaches_and_the_end_is_passed_on(tmp_path: Path) -> None:
    with follower(tmp_path, "ctrl-\\", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        one.tell("attached", terminal=False, input=True)
        assert one.child.stdin is not None
        one.child.stdin.write(b"a\x1cb")
        one.child.stdin.close()
        await_true(lambda: (one.receive(), one.frames)[1][-1:] == [(Kind.INPUT_END, b"")], "the end arrives")
        assert one.typed == b"a\x1cb"
        assert one.verbs == []
        one.tell("ended", exit_code=0)
        assert one.ended() == [0, ""]


def test_a_run_that_does_not_read_can_still_print(tmp_path: Path) -> None:
    """`cat big | criu-agent run -- cat | slow`: a client that only waits to send would wait for ever."""
    source = (tmp_path / "big").open("w+b")
    source.truncate(64 << 20)
    with source, follower(tmp_path, "", stdin=source.fileno(), stdout=subprocess.PIPE) as one:
        one.tell("attached", terminal=False, input=True)
        assert one.child.stdout is not None
        for _ in range(40):  # more than all buffers hold; we take none of its input
            one.connection.sendall(control.frame(Kind.OUTPUT, b"o" * 65536))
            assert len(one.child.stdout.read(65536)) == 65536
        one.connection.sendall(control.message(message_type="ended", exit_code=0))
        one.ended()


def test_a_supervisor_that_dies_leaves_the_terminal_as_it_was(tmp_path: Path, terminal: tuple[int, int]) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with follower(tmp_path, "ctrl-\\", stdin=slave, stdout=slave) as one:
        one.tell("attached", terminal=True, input=True)
        await_true(lambda: not local_modes(slave) & termios.ICANON, "the terminal is raw")
        one.connection.close()
        assert one.child.wait(timeout=PATIENCE) != 0
    assert termios.tcgetattr(slave) == before
