"""What is in CRIU's images is told as it is, little of them is read, and no damage gives a traceback."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from criu_agent.criu import imagefile
from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.describe import describe
from criu_agent.criu.description import Description, Endpoints, Program, Region
from criu_agent.criu.imagefile import in_directory
from criu_agent.criu.memory import Memory, changed_pages
from criu_agent.errors import Corrupt
from tests.fakes.images import CODE, FILES, INET, LOG, PAGE, PIPE, ROOT, STACK, UNIX, Made, regular, tree


def described(made: Made) -> Description:
    return describe(made.images, PAGE)


def open_files(made: Made, *entries: pb.OpenFile, fds: int = 1) -> list[object]:
    """What descriptors 0 to fds of the shell are, when they are the first of the entries."""
    made.write("files.img", *FILES, *entries)
    made.write("fdinfo-2.img", *(pb.FdEntry(id=one.id, fd=fd) for fd, one in enumerate(entries[:fds])))
    return [one.file for one in described(made).processes[2].descriptors]


def test_a_process_is_told_with_its_program_its_descriptors_and_its_memory() -> None:
    processes = described(tree()).processes
    assert list(processes) == [1, 2, 3]
    shell = processes[2]
    assert (shell.ppid, shell.pgid, shell.sid, shell.comm, shell.state) == (1, 2, 2, "sh", "running")
    assert (shell.threads, shell.uid, shell.gid, shell.cwd, shell.root) == (2, 1000, 1000, "/", "/")
    assert shell.program == Program(
        exe="/bin/sh",
        argv=("sh", "-c", "\udcff"),
        environment=("TOKEN=s3cr3t", "PATH=/bin"),
        identity=(CODE, STACK + 14 * PAGE),
    )
    assert [(one.fd, one.close_on_exec, one.file.name, one.file.offset) for one in shell.descriptors] == [
        (3, True, "/root/log", 7)
    ]
    assert shell.regions == (
        Region(start=CODE, end=CODE + 4 * PAGE, prot=5, flags=2, name="/bin/sh", offset=PAGE, stored=2 * PAGE),
        Region(start=STACK, end=STACK + 16 * PAGE, prot=3, flags=0x122, name="[stack]", offset=0, stored=2 * PAGE),
    )


def test_a_zombie_has_nothing_but_its_place() -> None:
    zombie = described(tree()).processes[3]
    assert (zombie.ppid, zombie.comm, zombie.state, zombie.program) == (2, "true", "zombie", None)
    assert (zombie.threads, zombie.descriptors, zombie.regions) == (1, (), ())


def test_a_process_without_descriptors_has_no_image_of_them() -> None:
    made = tree()
    del made.data["fdinfo-2.img"]
    assert described(made).processes[2].descriptors == ()


def test_secrets_are_not_in_what_is_logged_of_a_process() -> None:
    assert "s3cr3t" not in repr(described(tree()))


def test_of_memory_only_arguments_and_environment_are_read() -> None:
    made = tree()
    # The pages of an 8 TiB process, of which the last two are those of the stack.
    size = 8 << 40
    made.write(
        "pagemap-2.img",
        pb.PagemapHead(pages_id=2),
        pb.PagemapEntry(vaddr=1 << 41, flags=4, nr_pages=size // PAGE - 2),
        pb.PagemapEntry(vaddr=STACK + 14 * PAGE, flags=4, nr_pages=2),
    )
    page = made.data["pages-2.img"][-PAGE:]
    made.sizes["pages-2.img"] = size

    def read(name: str, offset: int, length: int) -> bytes:
        made.reads.append((name, offset, length))
        start = offset - (size - PAGE)
        return page[start : start + length] if name == "pages-2.img" else made.data[name][offset : offset + length]

    description = describe(replace(made.images, read=read), PAGE)
    assert description.processes[2].program == described(tree()).processes[2].program
    assert sum(length for name, _, length in made.reads if name == "pages-2.img") == len(
        b"sh -c . TOKEN=s3cr3t PATH=/bin "
    )


def test_a_title_written_over_the_arguments_is_told_without_the_zeros_behind_it() -> None:
    made = tree()
    made.data["pages-2.img"] = bytes(3 * PAGE) + b"nginx: worker".ljust(PAGE, b"\0")
    program = described(made).processes[2].program
    assert program is not None
    assert (program.argv, program.environment) == (("nginx: w",), ("orker",))


def test_sockets_are_told_with_their_addresses() -> None:
    loopback, mapped = 16777343, [0, 0, 0xFFFF0000, 16777343]
    made = tree()
    told = open_files(
        made,
        pb.OpenFile(type=INET, id=11, inet=pb.InetSocket(inode=1, protocol=6, state=10, local_port=80, local=[0])),
        pb.OpenFile(
            type=INET,
            id=12,
            inet=pb.InetSocket(
                inode=2, protocol=6, state=1, local_port=81, remote_port=5000, local=mapped, remote=[loopback]
            ),
        ),
        pb.OpenFile(
            type=INET,
            id=13,
            inet=pb.InetSocket(inode=3, protocol=17, state=7, local_port=53, local=[0, 0, 0, 16777216]),
        ),
        pb.OpenFile(type=UNIX, id=14, unix=pb.UnixSocket(inode=4, type=1, state=10, name=b"\0a\0b")),
        pb.OpenFile(type=UNIX, id=15, unix=pb.UnixSocket(inode=5, type=2, state=1, peer=6)),
        pb.OpenFile(type=UNIX, id=16, unix=pb.UnixSocket(inode=6, type=2, state=1, peer=5, name=b"/run/\xff\0")),
        pb.OpenFile(type=13, id=17, netlink=pb.NetlinkSocket(inode=7, protocol=0, state=7, port=2)),
        pb.OpenFile(type=9, id=18, packet=pb.PacketSocket(protocol=3)),
        fds=8,
    )
    endpoints = [getattr(one, "endpoints", None) for one in told]
    assert endpoints == [
        Endpoints(protocol="tcp", state="listen", local="0.0.0.0:80", remote=""),
        Endpoints(protocol="tcp", state="established", local="127.0.0.1:81", remote="127.0.0.1:5000"),
        Endpoints(protocol="udp", state="close", local="[::1]:53", remote=""),
        Endpoints(protocol="unix stream", state="listen", local="@a\0b", remote=""),
        Endpoints(protocol="unix dgram", state="established", local="", remote="/run/\udcff", peer=6),
        Endpoints(protocol="unix dgram", state="established", local="/run/\udcff", remote="", peer=5),
        Endpoints(protocol="netlink 0", state="close", local="2", remote=""),
        Endpoints(protocol="packet 0x3", state="", local="", remote=""),
    ]


def test_everything_else_that_can_be_open_is_told() -> None:
    made = tree()
    made.write(
        "tty-info.img",
        pb.TtyInfo(id=1, sid=1, pgrp=1, rdev=136 << 8 | 5, pty=pb.Pty(index=5)),
        pb.TtyInfo(id=2, sid=0, pgrp=0, rdev=128 << 8 | 5, pty=pb.Pty(index=5)),
        pb.TtyInfo(id=3, sid=0, pgrp=0, rdev=4 << 8 | 1),
    )
    made.write("memfd.img", pb.MemoryInode(name=b"hello", inode_id=1), pb.MemoryInode(name=b"/dev/zero", inode_id=2))
    made.write("remap-fpath.img", pb.Remap(file_id=29))
    entries = (
        pb.OpenFile(type=PIPE, id=20, pipe=pb.PipeFile(pipe_id=77, flags=1)),
        pb.OpenFile(type=3, id=21, fifo=pb.FifoFile(pipe_id=5, file_id=40)),
        pb.OpenFile(type=6, id=22, eventfd=pb.AnonymousFile(flags=2)),
        pb.OpenFile(type=11, id=23, terminal=pb.TerminalFile(info_id=1)),
        pb.OpenFile(type=11, id=24, terminal=pb.TerminalFile(info_id=2)),
        pb.OpenFile(type=11, id=25, terminal=pb.TerminalFile(info_id=3)),
        pb.OpenFile(type=18, id=26, memory=pb.MemoryFile(inode_id=1, position=3)),
        pb.OpenFile(type=18, id=27, memory=pb.MemoryFile(inode_id=2)),
        pb.OpenFile(type=20, id=28, pidfd=pb.PidFile(pid=2)),
        regular(29, b"/tmp/gone"),
        pb.OpenFile(type=14, id=30, namespace=pb.NamespaceFile(clone_flag=0x40000000)),
        pb.OpenFile(type=16, id=31),
        pb.OpenFile(type=99, id=32),
        regular(33, b"/dev/null", mode=0o20666),
    )
    told = open_files(made, *entries, regular(40, b"/tmp/f\xff", mode=0o10644), fds=len(entries))
    assert [(one.kind, one.name, one.offset) for one in told] == [  # type: ignore[attr-defined]
        ("pipe", "", None),
        ("fifo", "/tmp/f\udcff", None),
        ("eventfd", "", None),
        ("terminal", "/dev/pts/5", None),
        ("terminal", "/dev/ptmx of 5", None),
        ("terminal", "4:1", None),
        ("memfd", "/memfd:hello", 3),
        ("memfd", "/dev/zero", 0),
        ("pidfd", "process 2", None),
        ("file", "/tmp/gone (deleted)", 0),
        ("namespace", "net", None),
        ("external", "", None),
        ("type 99", "", None),
        ("character", "/dev/null", None),
    ]


def test_images_in_a_directory_are_the_same(tmp_path: Path) -> None:
    made = tree()
    for name, data in made.data.items():
        (tmp_path / name).write_bytes(data)
    assert describe(in_directory(tmp_path), PAGE) == described(made)


def test_pages_that_changed_are_counted_wherever_they_lie_in_the_images() -> None:
    before, after = tree(), tree()
    start, end = STACK, STACK + 16 * PAGE
    assert changed(before, after, start, end) == 0
    # A page less, one of zeros more, and one that is new; the one with the strings has moved and is the same.
    after.write(
        "pagemap-2.img",
        pb.PagemapHead(pages_id=2),
        pb.PagemapEntry(vaddr=STACK, nr_pages=2, flags=4),
        pb.PagemapEntry(vaddr=STACK + 15 * PAGE, nr_pages=1, flags=4),
    )
    strings = before.data["pages-2.img"][-PAGE:]
    after.data["pages-2.img"] = bytes(PAGE) + b"new".ljust(PAGE) + strings
    before.data["pages-2.img"] = bytes(2 * PAGE) + b"gone".ljust(PAGE) + strings
    assert changed(before, after, start, end) == changed(after, before, start, end) == 2
    assert changed(before, after, STACK + PAGE, end) == 2
    assert changed(before, after, STACK + 15 * PAGE, end) == 0
    after.data["pages-2.img"] = after.data["pages-2.img"][:-PAGE] + strings[:-1] + b"!"
    assert changed(before, after, start, end) == 3


def changed(before: Made, after: Made, start: int, end: int) -> int:
    old, new = (Memory(one.images, 2, PAGE) for one in (before, after))
    return changed_pages(old, new, start, end, PAGE)


# --- damage: every byte was verified before, so these are what a broken writer would leave


@pytest.mark.parametrize("name", sorted(set(tree().data) - {"fdinfo-2.img"}))
def test_a_missing_image_is_named(name: str) -> None:
    made = tree()
    del made.data[name]
    with pytest.raises(Corrupt, match=f"the image {name} "):
        described(made)


@pytest.mark.parametrize("name", sorted(set(tree().data)))
def test_an_image_cut_in_the_middle_is_named(name: str) -> None:
    made = tree()
    # The page with the strings, or the last bytes of the last message.
    made.data[name] = made.data[name][: -PAGE if name.startswith("pages-") else -3]
    with pytest.raises(Corrupt, match=f"the image {name} "):
        described(made)


def test_an_image_that_is_too_large_is_not_read() -> None:
    made = tree()
    made.sizes["pstree.img"] = imagefile.SIZE_LIMIT + 1
    with pytest.raises(Corrupt, match=r"the image pstree\.img has \d+ bytes, which is more than"):
        described(made)
    assert "pstree.img" not in {name for name, _, _ in made.reads}


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        (
            [pb.PagemapEntry(vaddr=2 * PAGE, nr_pages=2, flags=4), pb.PagemapEntry(vaddr=0, nr_pages=1)],
            "out of order",
        ),
        ([pb.PagemapEntry(vaddr=0, nr_pages=1 << 60, flags=4)], "out of order"),
        ([pb.PagemapEntry(vaddr=0, nr_pages=1, in_parent=True)], "in another image"),
        ([pb.PagemapEntry(vaddr=0, nr_pages=1, flags=1)], "in another image"),
        ([pb.PagemapEntry(vaddr=STACK + 15 * PAGE, nr_pages=1 << 20, flags=4)], None),
        ([pb.PagemapEntry(vaddr=0, nr_pages=1 << 30, flags=4), pb.PagemapEntry(vaddr=STACK, nr_pages=16)], "has no"),
    ],
)
def test_a_pagemap_that_cannot_be_is_refused(entries: list[pb.PagemapEntry], what: str | None) -> None:
    made = tree()
    made.write("pagemap-2.img", pb.PagemapHead(pages_id=2), *entries)
    if what is None:
        assert described(made).processes[2].regions[1].stored == PAGE
        return
    with pytest.raises(Corrupt, match=what):
        described(made)


@pytest.mark.parametrize(
    ("name", "message", "what"),
    [
        ("fs-2.img", pb.FsEntry(cwd_id=99, root_id=ROOT), "refers to the open file 99"),
        ("fdinfo-2.img", pb.FdEntry(id=99, fd=1), "refers to the open file 99"),
        ("mm-2.img", pb.Memory(exe_id=99), "refers to the open file 99"),
        ("mm-2.img", pb.Memory(exe_id=LOG, arg_start=2, arg_end=1), "end before they begin"),
        ("mm-2.img", pb.Memory(exe_id=LOG, vmas=[pb.Vma(start=2, end=1)]), "before it begins"),
        ("mm-2.img", pb.Memory(exe_id=LOG, vmas=[pb.Vma(start=1, end=2, status=0x40)]), "refers to the open file 0"),
    ],
)
def test_a_reference_to_nothing_is_refused(name: str, message: pb.Memory, what: str) -> None:
    made = tree()
    made.write(name, message)
    with pytest.raises(Corrupt, match=what):
        described(made)


@pytest.mark.parametrize(
    "entry",
    [
        pb.OpenFile(type=3, id=20, fifo=pb.FifoFile(file_id=99)),
        pb.OpenFile(type=11, id=20, terminal=pb.TerminalFile(info_id=9)),
        pb.OpenFile(type=18, id=20, memory=pb.MemoryFile(inode_id=9)),
        pb.OpenFile(type=INET, id=20, inet=pb.InetSocket(local_port=1, local=[1, 2])),
    ],
)
def test_an_open_file_that_refers_to_nothing_is_refused(entry: pb.OpenFile) -> None:
    with pytest.raises(Corrupt, match=r"the image files\.img has"):
        open_files(tree(), entry)


def test_more_strings_than_a_program_can_be_started_with_are_not_read() -> None:
    made = tree()
    made.write("mm-2.img", pb.Memory(exe_id=LOG, env_start=1 << 40, env_end=1 << 60))
    program = described(made).processes[2].program
    assert program is not None
    assert program.environment == ()


def test_whatever_is_changed_gives_an_answer_or_corrupt() -> None:
    chance = random.Random(3)
    whole = tree()
    names = sorted(whole.data)
    refused = 0
    for _ in range(3000):
        made = Made(data=dict(whole.data))
        name = chance.choice(names)
        data = bytearray(made.data[name])
        for _ in range(chance.choice((1, 1, 4))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        made.data[name] = bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)
        try:
            described(made)
        except Corrupt as error:
            refused += 1
            assert "the image" in error.message  # noqa: PT017 - the loop goes on
    assert refused > 500
