"""A session relays between a console and its clients: nobody slow or gone harms the others, and no input is lost."""

import json
import os
import socket
import struct
import tty
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from criu_agent import control
from criu_agent.control import Decoder, Kind
from criu_agent.errors import Refused
from criu_agent.linux import process
from criu_agent.supervisor.clients import HIGH_WATER, TOO_SLOW, Client
from criu_agent.supervisor.session import Guest, Session
from criu_agent.term.console import Console, Pipes, Pty, Stream
from tests.conftest import await_true


class Peer:
    """A client of the supervisor, and the far end of its connection."""

    def __init__(self, undo: ExitStack) -> None:
        ours, self.far = socket.socketpair()
        self.client = Client(ours)
        self.far.setblocking(False)
        self._decoder = Decoder()
        self.frames: list[tuple[Kind, bytes]] = []
        undo.callback(self.client.close)
        undo.callback(self.far.close)

    def receive(self) -> None:
        """Read all that the supervisor can send now."""
        while True:
            self.client.flush()
            try:
                data = self.far.recv(1 << 20)
            except BlockingIOError:
                return
            if not data:
                return
            self.frames += self._decoder.feed(data)

    def output(self, kind: Kind = Kind.OUTPUT) -> bytes:
        self.receive()
        return b"".join(payload for found, payload in self.frames if found is kind)

    def messages(self) -> list[dict[str, Any]]:
        self.receive()
        return [json.loads(payload) for kind, payload in self.frames if kind is Kind.JSON]


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def pipes(undo: ExitStack) -> Pipes:
    console = Pipes(with_input=True)
    undo.callback(console.close)
    undo.callback(console.ends.close)
    for fd in console.ends.stdio():
        os.set_blocking(fd, False)
    return console


@pytest.fixture
def pty(undo: ExitStack) -> tuple[Pty, int]:
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(slave, False)
    console = Pty(master)
    undo.callback(console.close)
    undo.callback(os.close, slave)
    return console, slave


def serve(session: Session) -> None:
    """One turn of the supervisor's loop for this session."""
    for fd in session.readable():
        session.serve(fd)


def test_output_and_error_output_reach_every_client_and_the_log(pipes: Pipes, undo: ExitStack) -> None:
    logged: list[tuple[Stream, bytes]] = []
    session = Session(pipes, lambda stream, data: logged.append((stream, data)))
    peers = [Peer(undo), Peer(undo)]
    for peer in peers:
        session.attach(peer.client)
    os.write(pipes.ends.output, b"out")
    os.write(pipes.ends.error, b"err")
    serve(session)
    for peer in peers:
        assert (peer.output(), peer.output(Kind.ERROR_OUTPUT)) == (b"out", b"err")
    assert sorted(logged) == [("stderr", b"err"), ("stdout", b"out")]


def test_a_slow_reader_of_a_pipe_holds_the_program_back_and_gets_every_byte(pipes: Pipes, undo: ExitStack) -> None:
    session, slow = Session(pipes), Peer(undo)
    session.attach(slow.client)
    written = bytearray()
    while session.readable():
        piece = os.urandom(65536)
        written += piece[: os.write(pipes.ends.output, piece)]
        serve(session)
        assert len(written) < 10 * HIGH_WATER, "it was never held back"
    assert slow.client.backlog > HIGH_WATER
    assert slow.output() == written
    assert session.readable(), "it goes on when the reader has caught up"


def test_a_terminal_that_is_too_slow_is_sent_away_and_the_others_miss_nothing(
    pty: tuple[Pty, int], undo: ExitStack
) -> None:
    console, slave = pty
    session, slow, quick = Session(console), Peer(undo), Peer(undo)
    session.attach(slow.client)
    session.attach(quick.client)
    written = 0
    while slow.client.attached:
        assert session.readable(), "a terminal's program is never held back"
        written += os.write(slave, b"x" * 2048)
        session.drain()
        quick.receive()
        quick.far.setblocking(False)
        assert written < 3 * TOO_SLOW, "it was never sent away"
    session.drain()
    assert len(quick.output()) == written
    assert [one["message_type"] for one in slow.messages()] == ["detached"]
    assert slow.client.closing
    assert session.clients == [quick.client]


def test_a_client_that_has_gone_harms_nobody(pipes: Pipes, undo: ExitStack) -> None:
    session, gone, stays = Session(pipes), Peer(undo), Peer(undo)
    for peer in (gone, stays):
        session.attach(peer.client)
    gone.far.close()
    for _ in range(3):
        os.write(pipes.ends.output, b"on")
        serve(session)
    assert stays.output() == b"ononon"
    assert gone.client.frames() is None
    gone.client.close()
    gone.client.fail(Refused("told to a closed one"))


def test_a_client_that_sends_no_frames_is_sent_away(undo: ExitStack) -> None:
    peer = Peer(undo)
    peer.far.sendall(struct.pack(">BI", 99, 5))
    assert peer.client.frames() is None


def test_a_client_s_frames_may_come_in_pieces(undo: ExitStack) -> None:
    peer = Peer(undo)
    wire = control.message(verb="ping")
    peer.far.sendall(wire[:4])
    assert peer.client.frames() == []
    assert peer.client.frames() == []
    peer.far.sendall(wire[4:])
    assert [kind for kind, _ in peer.client.frames() or []] == [Kind.JSON]


def read_input(session: Session, fd: int, wanted: int) -> bytes:
    found = b""
    while len(found) < wanted:
        session.push()
        try:
            found += os.read(fd, 1 << 20)
        except BlockingIOError:
            break
    return found


def test_no_input_for_a_pipe_is_dropped_and_its_writer_is_told_to_wait(pipes: Pipes) -> None:
    session = Session(pipes)
    sent = os.urandom(5 << 20)
    assert not session.input_is_full
    for at in range(0, len(sent), 65536):
        session.give(sent[at : at + 65536])
    assert session.input_is_full
    assert read_input(session, pipes.ends.input, len(sent)) == sent
    assert not session.input_is_full


def test_the_end_of_the_input_comes_after_all_of_it(pipes: Pipes) -> None:
    session = Session(pipes)
    session.give(bytes(300_000))
    session.end_input()
    assert len(read_input(session, pipes.ends.input, 300_000)) == 300_000
    session.push()
    assert os.read(pipes.ends.input, 1) == b""


def test_a_terminal_drops_what_is_too_much_and_does_not_make_anybody_wait(pty: tuple[Pty, int]) -> None:
    session = Session(pty[0])
    for _ in range(200):
        session.give(b"k" * 65536)
    assert not session.input_is_full
    assert len(session.save_input()["pending"]) < 2 << 20  # type: ignore[arg-type]


@pytest.mark.parametrize("ends", [True, False])
def test_input_that_waits_in_the_supervisor_is_carried_in_the_snapshot(
    pipes: Pipes, ends: bool, undo: ExitStack
) -> None:
    session = Session(pipes)
    sent = os.urandom(500_000)
    session.give(sent)
    if ends:
        session.end_input()
    saved = json.loads(json.dumps({**pipes.save(), **session.save_input()}))
    again = Pipes.again(saved)
    undo.callback(again.close)
    undo.callback(again.ends.close)
    os.set_blocking(again.ends.input, False)
    restored = Session(again)
    restored.restore_input(saved)
    assert read_input(restored, again.ends.input, len(sent)) == sent
    restored.push()
    if ends:
        assert os.read(again.ends.input, 1) == b""
    else:
        with pytest.raises(BlockingIOError):
            os.read(again.ends.input, 1)


def test_a_terminal_answers_questions_while_nobody_is_attached(pty: tuple[Pty, int], undo: ExitStack) -> None:
    console, slave = pty
    session, peer = Session(console), Peer(undo)
    os.write(slave, b"\x1b[6n")
    serve(session)
    assert os.read(slave, 100) == b"\x1b[1;1R"
    session.attach(peer.client)
    os.write(slave, b"\x1b[6n")
    serve(session)
    assert peer.output() == b"\x1b[6n", "the real terminal answers"
    with pytest.raises(BlockingIOError):
        os.read(slave, 100)


def test_a_redraw_really_changes_the_size_and_ends_at_the_wanted_one(pty: tuple[Pty, int]) -> None:
    console, _ = pty
    session = Session(console)
    session.redraw(40, 120)
    assert console.size() == (39, 120)
    assert (session.tick() or 0) > 0
    await_true(lambda: session.tick() is None, "the second size is set")
    assert console.size() == (40, 120)


def test_the_size_that_the_user_chose_meanwhile_wins_over_a_redraw(pty: tuple[Pty, int]) -> None:
    console, _ = pty
    session = Session(console)
    session.redraw(40, 120)
    session.resize(10, 20)
    assert session.tick() is None
    assert console.size() == (10, 20)


class Endless(Console):
    """What is left behind of an `exec`, as `yes &`: there is always more to read."""

    def __init__(self) -> None:
        self.reads = 0

    def outputs(self) -> Mapping[int, Stream]:
        return {99: "stdout"}

    def read(self, fd: int) -> bytes:
        self.reads += 1
        return bytes(65536)


def test_a_writer_that_never_stops_does_not_keep_the_supervisor() -> None:
    console = Endless()
    Session(console).drain()
    assert console.reads >= (1 << 20) // 65536, "all that a pipe can hold was read"


def test_a_session_that_was_closed_does_not_read_what_has_its_number_now(pipes: Pipes, tmp_path: Path) -> None:
    console = Pipes(with_input=True)
    session = Session(console)
    os.write(console.ends.output, b"was ready in the same turn")
    (output, *_) = session.readable()
    console.ends.close()
    session.close()
    (tmp_path / "file").write_text("of another")
    other = os.open(tmp_path / "file", os.O_RDONLY)
    os.dup2(other, output)
    session.serve(output)
    assert os.lseek(output, 0, os.SEEK_CUR) == 0
    os.close(output)
    os.close(other)


def test_a_guest_s_last_words_are_relayed_before_its_status_is_told(undo: ExitStack) -> None:
    console = Pipes(with_input=True)
    child = process.spawn(["sh", "-c", "echo last; exit 5"], stdin=console.ends.input, stdout=console.ends.output)
    console.ends.close()
    peer = Peer(undo)
    session = Session(console)
    session.attach(peer.client)
    guest = Guest(session, peer.client, child.pid, lambda: process.exit_status(child))
    await_true(lambda: os.waitid(os.P_PIDFD, guest.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it ended")
    assert guest.ended() == 5
    assert peer.output() == b"last\n"
