"""The images of terminals are mended so that CRIU gives every session its controlling terminal back."""

import os
import pty
import struct
from pathlib import Path

import pytest

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.terminals import give_back_controlling_terminals, name_sessions
from criu_agent.errors import Corrupt
from criu_agent.linux import process
from tests.conftest import await_true

MAGIC = struct.pack("<II", 0x54564319, 0x56303138)
TTY, REGULAR = 11, 1
SLAVE, MASTER = 136 << 8, 128 << 8  # device numbers of pts/0 and its master, as the kernel encodes them
# A field that we do not know, as CRIU's termios: number 5, bytes.
UNKNOWN = b"\x2a\x07termios"


def info(number: int, *, sid: int = 1, rdev: int = SLAVE, index: int | None = 0) -> pb.TtyInfo:
    made = pb.TtyInfo(id=number, sid=sid, pgrp=sid, rdev=rdev)
    if index is not None:
        made.pty.index = index
    return made


def tty(number: int, info_id: int) -> pb.File:
    return pb.File(type=TTY, id=number, tty=pb.TtyFile(id=number, tty_info_id=info_id))


def write(path: Path, *messages: bytes) -> None:
    path.write_bytes(MAGIC + b"".join(struct.pack("<I", len(message)) + message for message in messages))


def read(path: Path) -> list[bytes]:
    data = path.read_bytes()
    assert data.startswith(MAGIC)
    found, at = [], len(MAGIC)
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        assert len(found[-1]) == length
        at += 4 + length
    return found


def images(directory: Path, infos: list[pb.TtyInfo], files: list[pb.File]) -> Path:
    write(directory / "tty-info.img", *(one.SerializeToString() + UNKNOWN for one in infos))
    write(directory / "files.img", *(one.SerializeToString() + UNKNOWN for one in files))
    return directory


def files_of(directory: Path) -> list[pb.File]:
    return [pb.File.FromString(message) for message in read(directory / "files.img")]


@pytest.mark.parametrize("count", [2, 4, 6])
def test_an_even_number_of_open_files_is_made_odd(tmp_path: Path, count: int) -> None:
    images(tmp_path, [info(1)], [pb.File(type=REGULAR, id=90), *(tty(number, 1) for number in range(1, count + 1))])
    before = (tmp_path / "files.img").read_bytes()
    assert give_back_controlling_terminals(tmp_path) == 1
    assert (tmp_path / "files.img").read_bytes().startswith(before), "nothing that was there is changed"
    *_, extra = files_of(tmp_path)
    assert (extra.type, extra.id, extra.tty.id, extra.tty.tty_info_id) == (TTY, 91, 91, 1)
    assert give_back_controlling_terminals(tmp_path) == 0, "once is enough"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_odd_number_is_left_alone(tmp_path: Path, count: int) -> None:
    images(tmp_path, [info(1)], [tty(number, 1) for number in range(1, count + 1)])
    before = (tmp_path / "files.img").read_bytes()
    assert give_back_controlling_terminals(tmp_path) == 0
    assert (tmp_path / "files.img").read_bytes() == before


def test_a_terminal_whose_master_is_in_the_tree_is_left_alone(tmp_path: Path) -> None:
    """tmux, script: there CRIU links the right two."""
    infos = [info(1, index=3, rdev=SLAVE + 3), info(2, index=3, rdev=MASTER + 3)]
    images(tmp_path, infos, [tty(1, 1), tty(2, 1), tty(3, 2)])
    assert give_back_controlling_terminals(tmp_path) == 0


def test_a_terminal_that_controls_no_session_is_left_alone(tmp_path: Path) -> None:
    images(tmp_path, [info(1, sid=0)], [tty(1, 1), tty(2, 1)])
    assert give_back_controlling_terminals(tmp_path) == 0


def test_what_is_no_pty_is_left_alone(tmp_path: Path) -> None:
    images(tmp_path, [info(1, index=None, rdev=4 << 8)], [tty(1, 1), tty(2, 1)])
    assert give_back_controlling_terminals(tmp_path) == 0


def test_several_terminals_get_entries_with_ids_of_their_own(tmp_path: Path) -> None:
    infos = [info(1, index=0), info(2, index=1, rdev=SLAVE + 1), info(3, index=2, rdev=SLAVE + 2)]
    images(tmp_path, infos, [tty(number, 1 + number // 2) for number in range(2, 6)] + [tty(6, 1)])
    assert give_back_controlling_terminals(tmp_path) == 2
    found = files_of(tmp_path)
    assert len({one.id for one in found}) == len(found)
    assert [one.tty.tty_info_id for one in found[-2:]] == [2, 3]


def test_a_tree_without_terminals_needs_nothing(tmp_path: Path) -> None:
    assert give_back_controlling_terminals(tmp_path) == 0
    write(tmp_path / "files.img", pb.File(type=REGULAR, id=1).SerializeToString())
    assert give_back_controlling_terminals(tmp_path) == 0


def test_a_session_that_criu_left_out_is_filled_in_and_all_else_is_kept(tmp_path: Path) -> None:
    pid, master = pty.fork()
    if pid == 0:
        os.execvp("cat", ["cat"])  # a session leader with that terminal
    try:
        await_true(lambda: Path(f"/proc/{pid}/comm").read_text() == "cat\n", "it is in its session")
        device = os.stat(f"/proc/{pid}/fd/0").st_rdev
        other = info(9, sid=5, rdev=SLAVE + 200, index=200)
        images(tmp_path, [info(1, sid=0, rdev=device), other], [])
        assert name_sessions(tmp_path, pid) == 1
        named, kept = read(tmp_path / "tty-info.img")
        assert pb.TtyInfo.FromString(named).sid == pb.TtyInfo.FromString(named).pgrp == pid
        assert pb.TtyInfo.FromString(kept).sid == 5
        assert named.endswith(UNKNOWN)
        assert kept.endswith(UNKNOWN)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(master)


def test_a_terminal_that_nobody_in_the_tree_controls_stays_without_a_session(tmp_path: Path) -> None:
    child = process.spawn(["sleep", "100"])
    try:
        images(tmp_path, [info(1, sid=0, rdev=SLAVE + 250, index=250)], [])
        assert name_sessions(tmp_path, child.pid) == 0
        (kept,) = read(tmp_path / "tty-info.img")
        assert pb.TtyInfo.FromString(kept).sid == 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    "files",
    [
        MAGIC + struct.pack("<I", 5) + b"abc",
        MAGIC + b"\1",
        MAGIC + bytes(4),
        MAGIC + bytes(20 << 20),
        MAGIC[:3],
        MAGIC + struct.pack("<I", 2) + b"\xff\xff",
        *(MAGIC + struct.pack("<I", len(one)) + one for one in [tty(1, 9).SerializeToString()]),
    ],
)
def test_an_image_that_criu_has_not_written_is_corrupt(tmp_path: Path, files: bytes) -> None:
    directory = images(tmp_path, [info(1)], [tty(1, 1)])
    (directory / "files.img").write_bytes(files)
    with pytest.raises(Corrupt, match=r"the image files\.img"):
        give_back_controlling_terminals(directory)


def test_a_file_with_the_highest_number_leaves_none_for_another_one(tmp_path: Path) -> None:
    directory = images(tmp_path, [info(1)], [tty(1, 1), tty((1 << 32) - 1, 1)])
    with pytest.raises(Corrupt, match="number 4294967295"):
        give_back_controlling_terminals(directory)
