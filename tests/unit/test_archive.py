"""An archive: one file that is a store. Whatever is wrong with it is noticed, in bounded memory."""

import os
import resource
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from criu_agent.errors import Corrupt, Failure, HostCannot, NoSpace, NotFound, Usage
from criu_agent.store import archive_index as layout
from criu_agent.store.archive import ArchiveStore, write, write_to
from criu_agent.store.memory import MemoryStore
from tests.contract import test_store as contract

OBJECTS = {
    "config": b"criu-agent repository 2\n...",
    "packs/run/00ff": b"\x00\x01\x02" * 7,
    "snapshots/run/ab": b"",
    "heads/run": b"head",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def read_all(path: Path) -> dict[str, bytes]:
    with ArchiveStore(path) as store:
        return {name: store.get(name, size) for name, size in store.list("").items()}


def archive(objects: dict[str, bytes], path: Path) -> bytes:
    write(path, objects.items(), overwrite=True)
    return path.read_bytes()


def entry(name: bytes, offset: int, data: bytes, length: int | None = None) -> bytes:
    place = (offset, len(data) if length is None else length)
    return bytes([len(name)]) + name + b"".join(n.to_bytes(8, "little") for n in place) + blake3(data).digest()


def forged(body: bytes, index: bytes, number: int, index_at: int | None = None) -> bytes:
    """A file with a right checksum, whatever its index says."""
    numbers = (21 + len(body) if index_at is None else index_at).to_bytes(8, "little") + number.to_bytes(8, "little")
    return layout.LINE + body + index + numbers + blake3(index + numbers).digest() + layout.LINE


def failing_after(objects: dict[str, bytes], error: BaseException) -> Iterator[tuple[str, bytes]]:
    yield from objects.items()
    raise error


# --- the store's promises, where they are about reading


class Archived(MemoryStore):
    """A store whose every get and list goes through an archive of what it holds."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        write(self._path, self.objects.items(), overwrite=True)
        with ArchiveStore(self._path) as store:
            return store.get(name, limit, offset=offset)

    def list(self, prefix: str) -> dict[str, int]:
        write(self._path, self.objects.items(), overwrite=True)
        with ArchiveStore(self._path) as store:
            return store.list(prefix)


@pytest.fixture
def store(path: Path) -> Archived:
    return Archived(path)


test_what_was_put_is_got_back_whole = contract.test_what_was_put_is_got_back_whole
test_an_empty_object_is_an_object = contract.test_an_empty_object_is_an_object
test_get_takes_in_no_more_than_its_limit = contract.test_get_takes_in_no_more_than_its_limit
test_get_gives_any_range = contract.test_get_gives_any_range
test_a_missing_object_is_not_found = contract.test_a_missing_object_is_not_found
test_list_gives_the_names_with_a_prefix = contract.test_list_gives_the_names_with_a_prefix_in_order
test_what_is_not_a_name_is_refused = contract.test_what_is_not_a_name_is_refused


def test_ranges_are_right_once_an_object_was_checked(path: Path) -> None:
    data = os.urandom(3 << 20)
    archive({"before": b"x", "a": data, "behind": b"y"}, path)
    with ArchiveStore(path) as store:
        for _ in range(2):
            for offset, limit in ((0, 5), ((1 << 20) - 1, 2), (3 << 20, 1), (7 << 20, 9), (5, 1 << 40), (0, 0)):
                assert store.get("a", limit, offset=offset) == data[offset : offset + limit]


def test_nothing_can_be_changed_in_it(path: Path) -> None:
    before = archive(OBJECTS, path)
    with ArchiveStore(path) as store:
        calls: list[Callable[[str], object]] = [
            lambda name: store.put(name, b""),
            lambda name: store.swap(name, None, b""),
            store.delete,
        ]
        for call in calls:
            with pytest.raises(Failure, match="read-only") as caught:
                call("config")
            assert "import -i" in caught.value.hint
            with pytest.raises(Usage):
                call("../config")
    assert path.read_bytes() == before


def test_threads_read_at_the_same_time(path: Path) -> None:
    objects = {f"packs/r/{number}": os.urandom(200_000) for number in range(8)}
    archive(objects, path)
    wrong: list[str] = []
    with ArchiveStore(path) as store:

        def read() -> None:
            wrong.extend(name for name in objects if store.get(name, 1 << 20) != objects[name])

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


# --- the bytes, and what is wrong with them


def test_the_bytes_are_those_of_the_format(path: Path) -> None:
    index = entry(b"b", 21, b"xyz") + entry(b"a/c", 24, b"")
    assert archive({"b": b"xyz", "a/c": b""}, path) == forged(b"xyz", index, 2)
    assert read_all(path) == {"a/c": b"", "b": b"xyz"}
    assert archive({}, path) == forged(b"", b"", 0)
    assert read_all(path) == {}


def test_every_flipped_bit_is_corrupt(path: Path) -> None:
    whole = archive(OBJECTS, path)
    assert read_all(path) == OBJECTS
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(Corrupt, match="archive"):
                read_all(path)


def test_every_truncation_is_corrupt(path: Path) -> None:
    for objects in (OBJECTS, {}):
        whole = archive(objects, path)
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(Corrupt, match="archive"):
                read_all(path)


def test_what_is_added_or_missing_anywhere_is_corrupt(path: Path) -> None:
    whole = archive(OBJECTS, path)
    for at in range(len(whole) + 1):
        for changed in (whole[:at] + b"\n" + whole[at:], whole[: at - 1] + whole[at:], whole[at:]):
            if changed != whole:
                path.write_bytes(changed)
                with pytest.raises(Corrupt):
                    read_all(path)


def test_a_truncation_is_noticed_before_anything_but_both_ends_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = archive({"a": os.urandom(100_000)}, path)
    path.write_bytes(whole[:-1])
    reads: list[tuple[int, int]] = []
    real = os.pread

    def recorded(fd: int, length: int, offset: int) -> bytes:
        reads.append((offset, length))
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", recorded)
    with pytest.raises(Corrupt, match="truncated"):
        ArchiveStore(path)
    assert reads == [(0, layout.MAX_LINE), (len(whole) - 1 - len(layout.LINE), len(layout.LINE))]


def test_another_version_is_said_before_anything_of_it_is_understood(path: Path) -> None:
    path.write_bytes(b"criu-agent archive 2\n" + b"?" * 100 + b"criu-agent archive 2\n")
    with pytest.raises(HostCannot, match="format 2"):
        ArchiveStore(path)


def test_a_first_line_alone_is_truncated_in_every_version(path: Path) -> None:
    for version in (1, 2):
        path.write_bytes(b"criu-agent archive %d\n" % version)
        with pytest.raises(Corrupt, match="truncated"):
            ArchiveStore(path)


def test_between_its_lines_there_must_be_a_whole_trailer(path: Path) -> None:
    for length in range(layout.TRAILER_SIZE):
        path.write_bytes(layout.LINE + bytes(length) + layout.LINE)
        with pytest.raises(Corrupt, match="trailer is missing"):
            ArchiveStore(path)


def test_a_file_of_another_kind_says_so(path: Path) -> None:
    for data in (b"", b"PK\x03\x04" + b"?" * 1000, b"criu-agent repository 2\n" * 9):
        path.write_bytes(data)
        with pytest.raises(Corrupt, match="not an archive of criu-agent"):
            ArchiveStore(path)


def test_a_file_that_shrinks_while_it_is_read_is_corrupt(path: Path) -> None:
    archive({"a": b"x" * 100_000}, path)
    with ArchiveStore(path) as store:
        os.truncate(path, 50_000)
        with pytest.raises(Corrupt, match="shorter"):
            store.get("a", 100_000)


def test_an_object_is_checked_whole_even_if_only_a_part_is_asked_for(path: Path) -> None:
    whole = bytearray(archive({"a": bytes(3 << 20)}, path))
    whole[len(layout.LINE) + (2 << 20)] = 1
    path.write_bytes(whole)
    with ArchiveStore(path) as store, pytest.raises(Corrupt, match="object a is not what was written"):
        store.get("a", 10)


# --- indexes that somebody made on purpose; the checksum is right

HUGE = 1 << 63
HOSTILE: dict[str, bytes] = {
    "overlap": forged(b"abc", entry(b"a", 21, b"abc") + entry(b"b", 22, b"bc"), 2),
    "the same bytes twice": forged(b"abc", entry(b"a", 21, b"abc") + entry(b"b", 21, b"abc"), 2),
    "a gap": forged(b"abc", entry(b"a", 21, b"a") + entry(b"b", 23, b"c"), 2),
    "bytes before the first": forged(b"abc", entry(b"a", 22, b"bc"), 1),
    "bytes behind the last": forged(b"abc", entry(b"a", 21, b"ab"), 1),
    "bytes of no object": forged(b"abc", b"", 0),
    "into the index": forged(b"abc", entry(b"a", 21, b"abc", 60), 1),
    "beyond the end": forged(b"abc", entry(b"a", 21, b"abc", 1 << 20), 1),
    "length 2^63": forged(b"abc", entry(b"a", 21, b"abc", HUGE), 1),
    "offset 2^63": forged(b"abc", entry(b"a", HUGE, b"abc"), 1),
    "a sum beyond 2^64": forged(b"abc", entry(b"a", 21, b"", HUGE) + entry(b"b", 21 + HUGE, b"", HUGE - 1), 2),
    "duplicate": forged(b"", entry(b"a", 21, b"") * 2, 2),
    "duplicate that counts once": forged(b"", entry(b"a", 21, b"") * 2, 1),
    "duplicate and another": forged(b"", entry(b"a", 21, b"") * 2 + entry(b"b", 21, b""), 2),
    "more than counted": forged(b"", entry(b"a", 21, b"") + entry(b"b", 21, b""), 1),
    "fewer than counted": forged(b"", entry(b"a", 21, b""), 2),
    "half an entry": forged(b"", entry(b"a", 21, b"") + entry(b"b", 21, b"")[:-1], 2),
    "only the length of a name": forged(b"", b"\xff", 1),
    "index at 2^63": forged(b"abc", entry(b"a", 21, b"abc"), 1, HUGE),
    "index in the first line": forged(b"", entry(b"a", 21, b""), 1, 20),
    "index in the trailer": forged(b"", b"", 0, 22),
    "2^63 objects": forged(b"abc", entry(b"a", 21, b"abc"), HUGE),
    "a million objects claimed": forged(b"abc", entry(b"a", 21, b"abc"), 1_000_000),
} | {
    f"name {name!r}": forged(b"", entry(name, 21, b""), 1)
    for name in (b"", b"/", b"/etc/passwd", b"../a", b"a/../b", b"a/", b"a//b", b".tmp/a", b"a\0", b"\xff", b"a b")
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_index_is_refused(path: Path, case: str) -> None:
    path.write_bytes(HOSTILE[case])
    with pytest.raises(Corrupt, match="is changed"):
        ArchiveStore(path)


@contextmanager
def bounded(mib: int) -> Iterator[None]:
    """No more memory than that, and so no more that was read at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mib << 20


def many(names: Iterable[bytes]) -> bytes:
    """Entries of empty objects."""
    place = entry(b"", 21, b"")[1:]
    return b"".join(bytes([len(name)]) + name + place for name in names)


def test_what_claims_to_be_large_is_refused_unread(path: Path) -> None:
    """A sparse file of 1 TiB, all of it index."""
    end = forged(b"", b"", 1, 21)[21:]
    with path.open("wb") as file:
        file.write(layout.LINE)
        file.seek(1 << 40)
        file.write(end)
    with bounded(1), pytest.raises(Corrupt, match="larger than any"):
        ArchiveStore(path)


def test_an_object_larger_than_any_is_refused_unread(path: Path) -> None:
    size = layout.MAX_OBJECT + 1
    with path.open("wb") as file:
        file.write(layout.LINE)
        file.seek(21 + size)
        file.write(forged(b"", entry(b"a", 21, b"", size), 1, 21 + size)[21:])
    with bounded(1), pytest.raises(Corrupt, match="too large"):
        ArchiveStore(path)


def test_a_million_entries_are_refused_in_bounded_memory_and_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If they are counted rightly, none is looked at; else none behind those that were counted."""
    index, names = many(b"%07x" % number for number in range(1_000_000)), list[str]()
    monkeypatch.setattr(layout, "components", names.append)
    for number, mib, looked_at in ((1_000_000, 1, 0), (1000, 80, 1001)):
        path.write_bytes(forged(b"", index, number))
        with bounded(mib), pytest.raises(Corrupt, match="is changed"):
            ArchiveStore(path)
        assert len(names) == looked_at


def test_the_largest_index_is_read_in_bounded_memory(path: Path) -> None:
    prefix, count = b"a" * 120 + b"/" + b"b" * 86, layout.MAX_INDEX // 263
    index = many(prefix + b"%07x" % number for number in range(count))
    assert layout.MAX_INDEX - 263 < len(index) <= layout.MAX_INDEX
    path.write_bytes(forged(b"", index, count))
    del index
    with bounded(200), ArchiveStore(path) as store:
        assert len(store.list("")) == count


def test_a_fifo_does_not_hold_the_reader(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(Failure, match="not a regular file") as caught:
        ArchiveStore(path)
    assert "pipe" in caught.value.hint


def test_no_file_is_not_found_and_a_refused_one_is_closed(path: Path) -> None:
    with pytest.raises(NotFound):
        ArchiveStore(path)
    path.write_bytes(b"")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Corrupt):
        ArchiveStore(path)
    assert os.listdir("/proc/self/fd") == before


# --- writing


def test_only_the_owner_can_read_it(path: Path) -> None:
    previous = os.umask(0)
    try:
        archive(OBJECTS, path)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o7777 == 0o600


def test_it_has_its_name_only_after_its_bytes_are_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, link = os.fsync, os.link

    def synced(fd: int) -> None:
        calls.append("fsync directory" if Path(f"/proc/self/fd/{fd}").is_dir() else "fsync file")
        sync(fd)

    def linked(*args: str) -> None:
        calls.append("link")
        link(*args)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    write(path, OBJECTS.items())
    assert calls == ["fsync file", "link", "fsync directory"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), Failure("the store is gone"), OSError(5, "not of the archive")]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_write_leaves_what_was_there(path: Path, error: BaseException, overwrite: bool) -> None:
    if overwrite:
        path.write_bytes(b"as before")
    with pytest.raises(type(error)) as caught:
        write(path, failing_after(OBJECTS, error), overwrite=overwrite)
    assert caught.value is error
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == (
        {"file": b"as before"} if overwrite else {}
    )


def test_a_killed_writer_leaves_nothing_under_the_name(path: Path) -> None:
    program = """if True:
        import sys, time, pathlib
        from criu_agent.store.archive import write
        def objects():
            yield "a", bytes(1 << 20)
            print("half", flush=True)
            time.sleep(600)
        write(pathlib.Path(sys.argv[1]), objects())
    """
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
    (left,) = path.parent.iterdir()
    assert left.name.startswith(".criu-agent-")
    with pytest.raises(Corrupt, match="truncated"):
        ArchiveStore(left)


def test_a_taken_name_is_refused_before_an_object_is_asked_for(path: Path) -> None:
    def objects() -> Iterable[tuple[str, bytes]]:
        pytest.fail("asked for an object")
        yield "a", b""

    path.symlink_to("nowhere")
    with pytest.raises(Failure, match="there already"):
        write(path, objects())
    with pytest.raises(Failure, match="not a regular file"):
        write(path, objects(), overwrite=True)
    path.unlink()
    path.mkdir()
    with pytest.raises(Failure, match="not a regular file"):
        write(path, objects(), overwrite=True)


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken_meanwhile_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)

    def objects() -> Iterator[tuple[str, bytes]]:
        path.write_bytes(b"of somebody else")
        yield "a", b""

    with pytest.raises(Failure, match="there already"):
        write(path, objects())
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"of somebody else"]


def no_links(*_args: object, **_options: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_file_system_without_links_will_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    write(path, OBJECTS.items())
    assert read_all(path) == OBJECTS
    assert os.listdir(path.parent) == ["file"]


def test_overwriting_is_done_when_told(path: Path) -> None:
    archive({"old": b"1" * 1000}, path)
    write(path, OBJECTS.items(), overwrite=True)
    assert read_all(path) == OBJECTS
    assert os.listdir(path.parent) == ["file"]


def test_a_file_too_large_for_its_file_system_leaves_none_and_a_hint(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Failure, match="File too large") as caught:
            write(path, {"a": bytes(200_000)}.items())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "another file system" in caught.value.hint
    assert os.listdir(path.parent) == []


def test_a_missing_directory_is_named(path: Path) -> None:
    with pytest.raises(Failure, match="No such file") as caught:
        write(path / "b", OBJECTS.items())
    assert "directory" in caught.value.hint


def test_a_pipe_gets_the_same_bytes(path: Path) -> None:
    objects = OBJECTS | {"large": os.urandom(300_000)}
    whole = archive(objects, path)
    receiver, sender = os.pipe()
    got: list[bytes] = []

    def receive() -> None:
        with open(receiver, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=receive)
    thread.start()
    with open(sender, "wb") as out:
        write_to(out, objects.items())
    thread.join()
    assert got == [whole]


def test_a_reader_that_goes_away_and_a_full_disk_are_failures() -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    with open(sender, "wb", buffering=0) as out, pytest.raises(Failure, match="standard output: Broken pipe"):
        write_to(out, OBJECTS.items())
    with (
        open("/dev/full", "wb", buffering=0) as out,
        pytest.raises(NoSpace, match="no space left for standard output"),
    ):
        write_to(out, OBJECTS.items())


def test_what_no_reader_would_take_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match="twice"):
        write(path, [("a", b"1"), ("a", b"2")])
    with pytest.raises(Usage):
        write(path, [("../a", b"1")])
    with pytest.raises(Failure, match="too large"):
        write(path, [("/".join(["a" * 100] * 3), b"")])
    monkeypatch.setattr(layout, "MAX_OBJECT", 10)
    with pytest.raises(Failure, match="too large"):
        write(path, [("a", bytes(11))])
    for limit, value in (("MAX_OBJECTS", 1), ("MAX_INDEX", 60)):
        with monkeypatch.context() as patched:
            patched.setattr(layout, limit, value)
            with pytest.raises(Failure, match="more objects than") as caught:
                write(path, [("a", b""), ("b", b"")])
        assert "fewer" in caught.value.hint
    assert os.listdir(path.parent) == []
