"""The differences between two snapshots: each is told once, and what is the same is not told at all."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from criu_agent.criu.description import Description, Descriptor, Endpoints, OpenFile, Process, Program, Region
from criu_agent.fs.entry import LINK, Entry
from criu_agent.ops.compare import Side, compare
from criu_agent.ops.rows import SECTIONS, Row

HEAP = Region(start=0x1000, end=0x3000, prot=3, flags=0x22, name="[heap]", offset=0, stored=0)
CODE = Region(start=0x400000, end=0x402000, prot=5, flags=2, name="/bin/sh", offset=4096, stored=0)
SHELL = Program(exe="/bin/sh", argv=("sh", "-c", "a b"), environment=("A=1", "TOKEN=s3cr3t"), identity=(1, 2))
PLAIN = OpenFile(kind="file", name="/root/log", flags=0o2001, offset=7)


def process(pid: int = 2, **changes: object) -> Process:
    made = Process(
        pid=pid,
        ppid=1,
        pgid=2,
        sid=2,
        comm="sh",
        state="running",
        threads=1,
        cwd="/",
        root="/",
        program=SHELL,
        descriptors=(Descriptor(fd=3, close_on_exec=True, file=PLAIN),),
        regions=(HEAP, CODE),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def side(*processes: Process, files: tuple[Entry, ...] = ()) -> Side:
    return Side(
        description=Description(processes={one.pid: one for one in processes}),
        entries={one.path: one for one in files},
    )


def differences(
    before: Side, after: Side, *, same: Callable[[Entry, Entry], bool] | None = None, values: bool = False
) -> list[tuple[str, str, str]]:
    """(section and change, what, detail) of each."""
    rows = list(compare(before, after, same or (lambda _old, _new: True), values=values))
    assert [row.section for row in rows] == sorted((row.section for row in rows), key=SECTIONS.index)
    return [(f"{row.section} {row.change}", row.what, row.detail) for row in rows]


def of_process(**changes: object) -> list[tuple[str, str, str]]:
    return differences(side(process()), side(process(**changes)))


def fds(*files: OpenFile) -> tuple[Descriptor, ...]:
    return tuple(Descriptor(fd=number, close_on_exec=False, file=file) for number, file in enumerate(files))


def test_what_is_the_same_has_no_differences() -> None:
    everything = side(process(), process(pid=3), files=(Entry(path="", kind="directory"),))
    assert differences(everything, everything) == []


def test_a_process_that_came_or_went_is_one_row() -> None:
    one, two = side(process()), side(process(), process(pid=3, ppid=2, comm="x"))
    row = ("pid 3 (x)", "child of 2: sh -c 'a b'")
    assert differences(one, two) == [("processes +", *row)]
    assert differences(two, one) == [("processes -", *row)]


def test_a_long_command_is_cut() -> None:
    program = replace(SHELL, argv=("sh", "x" * 5000))
    (row,) = differences(side(), side(process(program=program)))
    assert len(row[2]) < 150
    assert row[2].endswith("…")


def test_what_changed_of_a_process_is_told() -> None:
    assert of_process(cwd="/root", threads=3, uid=5) == [
        ("processes ~", "pid 2 (sh)", "threads 1 -> 3, user 0:0 -> 5:0, directory / -> /root")
    ]
    assert of_process(state="stopped") == [("processes ~", "pid 2 (sh)", "state running -> stopped")]


def test_a_process_that_ended_and_is_not_reaped_is_one_row() -> None:
    zombie = process(program=None, state="zombie", descriptors=(), regions=(), cwd="", root="")
    assert differences(side(process()), side(zombie)) == [("processes ~", "pid 2 (sh)", "state running -> zombie")]


def test_another_program_in_the_same_process_has_one_row_for_its_memory() -> None:
    other = replace(SHELL, exe="/bin/ls", argv=("ls",), environment=("A=2",), identity=(1, 9))
    assert of_process(program=other, comm="ls", regions=(replace(CODE, start=0x500000, end=0x501000),)) == [
        ("processes ~", "pid 2 (ls)", "name sh -> ls, program /bin/sh -> /bin/ls, command sh -c 'a b' -> ls"),
        ("environment ~", "pid 2 (ls) A", "another value"),
        ("environment -", "pid 2 (ls) TOKEN", ""),
        ("memory ~", "pid 2 (ls)", "executed anew, 2 regions of 16384 bytes -> 1 regions of 4096 bytes"),
    ]


def test_values_of_the_environment_are_told_only_when_asked_for() -> None:
    before = side(process())
    after = side(process(program=replace(SHELL, environment=("TOKEN=n3w", "B", "C=1", "C=2"))))
    told = differences(before, after)
    assert told == [
        ("environment -", "pid 2 (sh) A", ""),
        ("environment +", "pid 2 (sh) B", ""),
        ("environment +", "pid 2 (sh) C", ""),
        ("environment ~", "pid 2 (sh) TOKEN", "another value"),
    ]
    assert [row[2] for row in differences(before, after, values=True)] == ["1", "", "1 2", "s3cr3t -> n3w"]


# --- descriptors and connections


def test_descriptors_that_were_opened_closed_or_moved_are_told() -> None:
    before = side(process(descriptors=fds(PLAIN, PLAIN, PLAIN)))
    after = side(
        process(
            descriptors=(
                Descriptor(fd=1, close_on_exec=True, file=replace(PLAIN, offset=9, flags=0o2)),
                Descriptor(fd=2, close_on_exec=False, file=OpenFile(kind="eventfd", name="", flags=0o4002)),
                Descriptor(fd=9, close_on_exec=True, file=PLAIN),
            )
        )
    )
    assert differences(before, after) == [
        ("descriptors -", "pid 2 (sh) fd 0", "file /root/log at 7, O_WRONLY|O_APPEND"),
        (
            "descriptors ~",
            "pid 2 (sh) fd 1",
            "offset 7 -> 9, flags O_WRONLY|O_APPEND -> O_RDWR, close-on-exec False -> True",
        ),
        ("descriptors ~", "pid 2 (sh) fd 2", "file /root/log -> eventfd"),
        ("descriptors +", "pid 2 (sh) fd 9", "file /root/log at 7, O_WRONLY|O_APPEND|O_CLOEXEC"),
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (0o20200000 | 2, "O_RDWR|O_TMPFILE"),
        (0o200000, "O_RDONLY|O_DIRECTORY"),
        (0o4010001, "O_WRONLY|O_SYNC"),
        (0o10000, "O_RDONLY|O_DSYNC"),
        (0o144000, "O_RDONLY|O_NONBLOCK|O_DIRECT"),
    ],
)
def test_flags_are_said_as_in_open_2(flags: int, said: str) -> None:
    file = OpenFile(kind="directory", name="/x", flags=flags)
    (row,) = differences(side(process(descriptors=())), side(process(descriptors=fds(file))))
    assert row[2] == f"directory /x, {said}"


def pipes(*inodes: int) -> tuple[Descriptor, ...]:
    return fds(*(OpenFile(kind="pipe", name="", flags=number % 2, inode=one) for number, one in enumerate(inodes)))


def test_pipes_are_the_same_after_a_restore_which_gave_them_other_inodes() -> None:
    before = side(process(descriptors=pipes(10, 10, 20)), process(pid=3, descriptors=pipes(20, 30)))
    assert (
        differences(before, side(process(descriptors=pipes(5, 5, 6)), process(pid=3, descriptors=pipes(6, 7)))) == []
    )
    swapped = side(process(descriptors=pipes(5, 5, 6)), process(pid=3, descriptors=pipes(7, 7)))
    assert differences(before, swapped) == [("descriptors ~", "pid 3 (sh) fd 0", "another pipe")]


def test_a_pipe_that_was_made_anew_without_a_restore_is_another() -> None:
    before, after = side(process(descriptors=pipes(10, 10, 20))), side(process(descriptors=pipes(10, 10, 21)))
    assert differences(before, after) == [("descriptors ~", "pid 2 (sh) fd 2", "another pipe")]


def sockets(*endpoints: Endpoints, inode: int = 100) -> tuple[Descriptor, ...]:
    return fds(*(OpenFile(kind="socket", name="", inode=inode + n, endpoints=one) for n, one in enumerate(endpoints)))


LISTENER = Endpoints(protocol="tcp", state="listen", local="127.0.0.1:80", remote="")
CLIENT = Endpoints(protocol="tcp", state="established", local="127.0.0.1:5000", remote="127.0.0.1:80")
PAIR = Endpoints(protocol="unix stream", state="established", local="", remote="", peer=7)
ACCEPTED = Endpoints(protocol="unix stream", state="established", local="/s", remote="")


def test_a_connection_is_known_by_its_addresses_whoever_has_it() -> None:
    before = side(process(descriptors=sockets(LISTENER)))
    heir = side(process(descriptors=()), process(pid=3, descriptors=sockets(LISTENER, inode=900)))
    assert [row for row in differences(before, heir) if row[0].startswith("connections")] == []
    after = side(process(descriptors=sockets(LISTENER, CLIENT)))
    assert differences(before, after) == [
        ("descriptors +", "pid 2 (sh) fd 1", "socket tcp 127.0.0.1:5000 -> 127.0.0.1:80, O_RDONLY"),
        ("connections +", "tcp 127.0.0.1:5000 -> 127.0.0.1:80", "established, pid 2 (sh) fd 1"),
    ]


def test_a_connection_that_is_closing_is_told_with_its_states() -> None:
    closing = replace(CLIENT, state="close-wait")
    before, after = side(process(descriptors=sockets(CLIENT))), side(process(descriptors=sockets(closing)))
    what = "tcp 127.0.0.1:5000 -> 127.0.0.1:80"
    assert differences(before, after) == [("connections ~", what, "state established -> close-wait, pid 2 (sh) fd 0")]


def test_sockets_with_one_address_are_counted_and_shared_ones_are_told_once() -> None:
    before = side(process(descriptors=sockets(ACCEPTED, PAIR)))
    shared = sockets(ACCEPTED, PAIR, ACCEPTED)
    after = side(process(descriptors=shared), process(pid=3, descriptors=shared))
    assert [row for row in differences(before, after) if row[0].startswith("connections")] == [
        ("connections +", "unix stream /s", "established, pid 2 (sh) fd 2")
    ]


# --- memory


def memory(*regions: Region) -> list[tuple[str, str, str]]:
    return of_process(regions=regions)


def test_regions_that_were_mapped_unmapped_or_changed_are_told() -> None:
    new = Region(start=0x9000, end=0xA000, prot=3, flags=1, name="/root/map", offset=4096, stored=0)
    assert memory(HEAP, CODE, new) == [("memory +", "pid 2 (sh) 9000-a000", "rw-s /root/map at 4096, 4096 bytes")]
    assert memory(CODE) == [("memory -", "pid 2 (sh) 1000-3000", "rw-p [heap], 8192 bytes")]
    assert memory(replace(HEAP, end=0x4000, prot=1), CODE) == [
        ("memory ~", "pid 2 (sh) 1000-4000", "size 8192 -> 12288, protection rw-p -> r--p")
    ]


def test_a_region_that_grew_at_its_front_is_the_same() -> None:
    assert memory(replace(HEAP, start=0), CODE) == [
        ("memory ~", "pid 2 (sh) 0-3000", "from 1000 -> 0, size 8192 -> 12288")
    ]


def test_a_region_that_was_split_is_one_change_and_one_more() -> None:
    assert memory(replace(HEAP, end=0x2000), replace(HEAP, start=0x2000, prot=0), CODE) == [
        ("memory ~", "pid 2 (sh) 1000-2000", "size 8192 -> 4096"),
        ("memory +", "pid 2 (sh) 2000-3000", "---p [heap], 4096 bytes"),
    ]


def test_pages_with_another_content_are_counted_when_asked_for() -> None:
    asked: list[tuple[int, int, int]] = []

    def changed_pages(*question: int) -> int:
        asked.append((question[0], question[1], question[2]))
        return 2 if question[1] == HEAP.start else 0

    before, after = side(process()), side(process(regions=(replace(HEAP, end=0x2000), CODE)))
    rows = compare(before, after, lambda _old, _new: True, changed_pages=changed_pages)
    assert [row.detail for row in rows] == ["size 8192 -> 4096, content of 2 pages of [heap]"]
    assert asked == [(2, 0x1000, 0x2000), (2, CODE.start, CODE.end)]


# --- files


FILE = Entry(path="root/f", kind="file", mode=0o644, mtime=5, size=10, extents=((0, 10),))


def of_files(before: list[Entry], after: list[Entry], *, same: bool = True) -> list[tuple[str, str, str]]:
    one, two = side(files=tuple(before)), side(files=tuple(after))
    return differences(one, two, same=lambda _old, _new: same)


@pytest.mark.parametrize(
    ("after", "same", "detail"),
    [
        (replace(FILE, mtime=6), True, "time of change"),
        (replace(FILE, mtime=6), False, "content"),
        (FILE, False, "content"),
        (replace(FILE, size=12, extents=((0, 12),), mtime=6), True, "size 10 -> 12"),
        (replace(FILE, extents=((0, 5),)), True, "content"),
        (replace(FILE, mode=0o4755, uid=1), True, "mode 0644 -> 4755, owner 0:0 -> 1:0"),
        (replace(FILE, xattrs={"user.a": b""}), True, "extended attributes"),
        (Entry(path="root/f", kind="symlink", target="x"), True, "file -> symlink"),
    ],
)
def test_what_changed_of_a_file_is_told(after: Entry, same: bool, detail: str) -> None:
    assert of_files([FILE], [after], same=same) == [("files ~", "/root/f", detail)]


def test_files_that_came_and_went_are_told_in_the_order_of_their_paths() -> None:
    others = [
        Entry(path="root", kind="directory", mode=0o700),
        FILE,
        Entry(path="root/f.d", kind="directory", mode=0o755),
        Entry(path="root/f.d/link", kind=LINK, target="root/f"),
        Entry(path="root/f.d/s", kind="symlink", target="\udcff"),
        Entry(path="root/f.d/null", kind="character", device=(1, 3), mode=0o666),
    ]
    told = [
        ("/root", "directory, mode 0700"),
        ("/root/f", "file, 10 bytes, mode 0644"),
        ("/root/f.d", "directory, mode 0755"),
        ("/root/f.d/link", "hard link to /root/f"),
        ("/root/f.d/null", "character, mode 0666"),
        ("/root/f.d/s", "symlink to \udcff"),
    ]
    assert of_files([], others) == [("files +", *row) for row in told]
    assert of_files(others, []) == [("files -", *row) for row in told]


def test_a_file_of_the_host_that_was_removed_went() -> None:
    gone = Entry(path="etc/hosts", kind="character")
    linked = [replace(gone, path="a"), Entry(path="etc/hosts", kind=LINK, target="a")]
    made = Entry(path="etc/hosts", kind="file", mode=0o644)
    assert of_files([], [gone]) == [("files -", "/etc/hosts", "the host's")]
    assert of_files([gone], []) == [("files +", "/etc/hosts", "the host's")]
    assert of_files([gone], [made]) == [("files +", "/etc/hosts", "file, 0 bytes, mode 0644")]
    assert of_files([made], [gone]) == [("files -", "/etc/hosts", "file, 0 bytes, mode 0644")]
    assert of_files([gone], [gone]) == of_files([replace(gone, path="a"), gone], linked) == []


def test_the_time_of_a_directory_is_not_told_and_that_another_name_comes_first_neither() -> None:
    before = [Entry(path="d", kind="directory", mtime=1), replace(FILE, path="d/a"), replace(FILE, path="d/b")]
    after = [Entry(path="d", kind="directory", mtime=2), before[1], Entry(path="d/b", kind=LINK, target="d/a")]
    assert of_files(before, after) == []


def test_a_row_is_json() -> None:
    row = Row(section="files", change="+", what="/x", detail="file")
    assert row.to_json() == {"section": "files", "change": "+", "what": "/x", "detail": "file"}
