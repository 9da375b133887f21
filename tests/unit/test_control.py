"""The control socket: frames survive any cut, and what is no frame is refused."""

import json
import os
import socket
import struct
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent import control
from criu_agent.control import MAX_PAYLOAD, Client, Decoder, Kind, NoAnswer, ProtocolError
from criu_agent.errors import Failure, NotFound, Refused

frames = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=300)), max_size=6)


@given(frames, st.lists(st.integers(0, 2000), max_size=8))
def test_frames_come_out_as_they_went_in_wherever_they_are_cut(
    sent: list[tuple[Kind, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(control.frame(kind, payload) for kind, payload in sent)
    decoder = Decoder()
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    got = [frame for start, end in pairwise(edges) for frame in decoder.feed(wire[start:end])]
    assert got == sent


def test_frames_that_come_byte_by_byte_are_complete() -> None:
    wire = control.message(verb="attach", rows=24) + control.frame(Kind.INPUT_END, b"")
    decoder = Decoder()
    got = [frame for byte in wire for frame in decoder.feed(bytes([byte]))]
    assert [kind for kind, _ in got] == [Kind.JSON, Kind.INPUT_END]
    assert control.parse(got[0][1]) == {"verb": "attach", "rows": 24}


def test_the_longest_payload_passes_and_one_byte_more_is_refused_by_its_header_alone() -> None:
    assert len(next(Decoder().feed(control.frame(Kind.OUTPUT, bytes(MAX_PAYLOAD))))[1]) == MAX_PAYLOAD
    with pytest.raises(ProtocolError):
        list(Decoder().feed(struct.pack(">BI", Kind.OUTPUT, MAX_PAYLOAD + 1)))


@given(st.integers(0, 255).filter(lambda number: number not in set(Kind)))
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(struct.pack(">BI", kind, 0)))


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[]", b"5", b'"verb"', b"null"])
def test_a_request_that_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        control.parse(payload)


def answering(path: Path, *answers: bytes) -> threading.Thread:
    """A supervisor that takes one connection and one request, sends these bytes and closes."""
    listener = control.listen(path)
    listener.setblocking(True)

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(1 << 16)
            for answer in answers:
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_call_reports_the_statuses_and_returns_the_summary(tmp_path: Path) -> None:
    status, summary = control.message(message_type="status", n=1), control.message(message_type="summary", run="r")
    server = answering(tmp_path / "s", status, summary[:7], summary[7:])
    seen: list[dict[str, object]] = []
    with Client(tmp_path / "s") as client:
        reply = client.call(verb="x", on_status=seen.append)
    server.join()
    assert reply["run"] == "r"
    assert [one["n"] for one in seen] == [1]


def test_an_error_keeps_its_class_hint_and_agent_state_on_the_way(tmp_path: Path) -> None:
    error = Refused("no", hint="do this", agent_state="running, unharmed")
    server = answering(tmp_path / "s", control.frame(Kind.JSON, json.dumps(control.error_message(error)).encode()))
    with Client(tmp_path / "s") as client, pytest.raises(Refused) as caught:
        client.call(verb="x")
    server.join()
    assert (caught.value.message, caught.value.hint) == ("no", "do this")
    assert caught.value.agent_state == "running, unharmed"


def test_a_supervisor_that_ends_without_an_answer_is_told_apart(tmp_path: Path) -> None:
    server = answering(tmp_path / "s")
    with Client(tmp_path / "s") as client, pytest.raises(NoAnswer):
        client.call(verb="x")
    server.join()


def test_where_nobody_listens_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(NoAnswer):
        Client(tmp_path / "s")
    control.listen(tmp_path / "s").close()
    with pytest.raises(NoAnswer):
        Client(tmp_path / "s")


def test_the_socket_is_for_its_owner_and_may_have_a_long_path(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    with control.listen(directory / "s") as listener:
        assert (directory / "s").stat().st_mode & 0o777 == 0o600
        with Client(directory / "s"):
            listener.setblocking(True)
            with listener.accept()[0] as connection:
                assert control.peer_uid(connection) == os.getuid()


def test_a_socket_file_that_a_killed_supervisor_left_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "s"))
    left.close()
    with control.listen(tmp_path / "s"), Client(tmp_path / "s"):
        pass


def test_an_error_code_of_a_newer_supervisor_is_a_plain_failure() -> None:
    newer = {"code": 199, "message": "new", "hint": "", "agent_state": ""}
    assert type(control.from_message(newer)) is Failure
    assert type(control.from_message({**newer, "code": 10})) is NotFound
