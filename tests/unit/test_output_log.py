"""The log of a run's output: every record whole, whatever happens to the file."""

import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.supervisor.output import ROTATE_AT, OutputLog, Record, follow, older, pieces, records

HEADER = 13  # bytes of a record before its data
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "output.log"


def data_of(path: Path) -> list[bytes]:
    return [record.data for record in records(path)]


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A write beyond `size` is cut off there, and the next fails: as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_records_come_out_as_they_went_in(path: Path) -> None:
    log = OutputLog(path)
    log.write("stdout", b"one\n")
    log.write("stderr", b"\x00\xff")
    log.write("stdout", b"")
    log.close()
    found = list(records(path))
    assert [(record.stream, record.data) for record in found] == [
        ("stdout", b"one\n"),
        ("stderr", b"\x00\xff"),
        ("stdout", b""),
    ]
    assert found[0].time_ns <= found[1].time_ns
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_is_gone_on_with_by_the_next_supervisor(path: Path) -> None:
    for text in (b"one", b"two"):
        log = OutputLog(path)
        log.write("stdout", text)
        log.close()
    assert data_of(path) == [b"one", b"two"]


@given(st.integers(0, HEADER + 3))
def test_half_a_record_at_the_end_is_not_shown(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "output.log"
    log = OutputLog(path)
    log.write("stdout", b"whole")
    log.write("stdout", b"half")
    log.close()
    os.truncate(path, path.stat().st_size - 4 - HEADER + cut)
    assert data_of(path) == [b"whole"]


def test_a_full_log_is_rotated_and_one_older_file_is_kept(path: Path) -> None:
    log = OutputLog(path)
    pieces_in_one_file = -(-ROTATE_AT // (MIB + HEADER))
    for number in range(2 * pieces_in_one_file + 1):
        log.write("stdout", struct.pack(">I", number) + bytes(MIB - 4))
    log.close()
    numbers = [struct.unpack(">I", data[:4])[0] for file in (older(path), path) for data in data_of(file)]
    assert numbers == list(range(pieces_in_one_file, 2 * pieces_in_one_file + 1))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["output.log", "output.log.1"]


def test_what_a_full_disk_does_not_take_is_counted_and_what_comes_later_is_whole(path: Path) -> None:
    log = OutputLog(path)
    log.write("stdout", b"before")
    size = path.stat().st_size
    with files_end_at(size + HEADER + 2):
        log.write("stdout", b"too long for the rest")
        assert path.stat().st_size == size, "the half record was taken back"
        log.write("stdout", b"too long as well")
    log.write("stdout", b"after")
    log.close()
    assert data_of(path) == [b"before", b"after"]
    assert log.lost == len(b"too long for the rest") + len(b"too long as well")


def test_a_device_that_is_always_full_does_not_stop_the_run(path: Path) -> None:
    path.symlink_to("/dev/full")
    log = OutputLog(path)
    log.write("stderr", b"gone")
    log.close()
    assert log.lost == 4


def test_a_rotation_that_fails_is_made_up_for_later(path: Path) -> None:
    log = OutputLog(path)
    older(path).mkdir()  # nothing can be renamed to it
    (older(path) / "in the way").touch()
    for _ in range(ROTATE_AT // MIB + 2):
        log.write("stdout", bytes(MIB))
    assert path.stat().st_size > ROTATE_AT
    (older(path) / "in the way").unlink()
    older(path).rmdir()
    log.write("stdout", b"the one that rotates")
    log.write("stdout", b"first of the new file")
    log.close()
    assert data_of(path) == [b"first of the new file"]
    assert data_of(older(path))[-1] == b"the one that rotates"


def test_who_follows_sees_all_records_once_over_a_rotation(path: Path) -> None:
    log = OutputLog(path)
    log.write("stdout", b"0")
    following = follow(path)
    seen = [next(following)]
    count = 1
    for _ in range(3):
        for _ in range(ROTATE_AT // MIB // 2):
            log.write("stdout", b"%d" % count + bytes(MIB))
            count += 1
        while (record := next(following)) is not None:
            seen.append(record)
    log.close()
    numbers = [int(record.data.rstrip(b"\0")) for record in seen if record is not None]
    assert older(path).exists()
    assert numbers == list(range(count))


def record(data: bytes, stream: str = "stdout") -> Record:
    return Record(stream=stream, time_ns=0, data=data)


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(alphabet="ab\n", max_size=8)), max_size=8))
def test_cutting_into_lines_changes_no_byte(printed: list[tuple[str, str]]) -> None:
    found = [piece for piece in pieces(record(text.encode(), stream) for stream, text in printed) if piece]
    for stream in ("stdout", "stderr"):
        expected = "".join(text for of, text in printed if of == stream).encode()
        mine = [piece for piece in found if piece.stream == stream]
        assert b"".join(piece.data for piece in mine) == expected
        assert len({piece.line for piece in mine}) == len(expected.splitlines())


def test_a_line_that_comes_in_parts_is_one_line() -> None:
    found = list(pieces([record(b"a"), record(b"x\n", "stderr"), None, record(b"b\nc\n")]))
    assert [piece and (piece.line, piece.begins, piece.data) for piece in found] == [
        (1, True, b"a"),
        (2, True, b"x\n"),
        None,
        (1, False, b"b\n"),
        (3, True, b"c\n"),
    ]
