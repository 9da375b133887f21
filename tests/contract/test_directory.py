"""What a store in a directory promises beside the contract."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from criu_agent.errors import Corrupt, Failure, NoSpace
from criu_agent.store.file import FileStore


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_only_the_owner_can_read_the_directory(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        FileStore(tmp_path / "r").put("a/b", b"x")
    finally:
        os.umask(previous)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "r", *(tmp_path / "r").rglob("*")]}
    assert modes == {"r": 0o700, ".tmp": 0o700, "a": 0o700, "b": 0o600}


def test_an_object_has_its_name_only_after_its_bytes_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    store.put("d/first", b"")
    calls: list[str] = []

    def recorded(name: str) -> None:
        real = getattr(os, name)

        def call(first: object, *args: object, **options: object) -> object:
            kind = ""
            if name == "fsync":
                kind = " directory" if Path(f"/proc/self/fd/{first}").is_dir() else " file"
            calls.append(name + kind)
            return real(first, *args, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "link", "unlink", "rename"):
        recorded(name)
    store.put("d/a", b"x")
    assert calls == ["fsync file", "link", "unlink", "fsync directory"]
    calls.clear()
    store.swap("d/a", b"x", b"y")
    assert [call for call in calls if call != "unlink"] == ["fsync file", "rename", "fsync directory"]


def test_no_link_is_followed_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s")
    store = FileStore(tmp_path / "r")
    store.put("d/a", b"x")
    (tmp_path / "r/d/link").symlink_to(secret)
    (tmp_path / "r/e").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "r/d/fifo")
    for name in ("d/link", "e/secret"):
        with pytest.raises(Failure):
            store.get(name, 1)
    with pytest.raises(Corrupt, match="not a regular file"):
        store.get("d/fifo", 1)
    assert list(store.list("")) == ["d/a"]


def test_what_a_killed_writer_left_is_never_listed_and_is_removed_later(tmp_path: Path) -> None:
    FileStore(tmp_path).put("a", b"x")
    (tmp_path / ".tmp/left").write_bytes(b"half")
    assert list(FileStore(tmp_path).list("")) == ["a"]
    assert files_below(tmp_path) == {"a"}


def test_the_temporary_file_of_a_living_writer_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    real = os.link

    def others_open_the_store_now(*args: object, **options: object) -> None:
        FileStore(tmp_path)
        real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", others_open_the_store_now)
    assert store.put("a", b"x") is True


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_swap_that_fails_leaves_the_register_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = FileStore(tmp_path)
    store.put("heads/r", b"old")

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(NoSpace):
            store.swap("heads/r", b"old", b"new")
    assert store.get("heads/r", 10) == b"old"
    assert files_below(tmp_path) == {"heads/r", ".swap"}


def test_swaps_of_several_processes_exclude_each_other(tmp_path: Path) -> None:
    FileStore(tmp_path).swap("r", None, b"0 -")
    code = """
import sys
from pathlib import Path
from criu_agent.store.file import FileStore
store, won = FileStore(Path(sys.argv[1])), 0
for turn in range(50):
    old = store.get("r", 100)
    won += store.swap("r", old, b"%d %s.%d" % (int(old.split()[0]) + 1, sys.argv[2].encode(), turn))
print(won)
"""
    argv = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen([*argv, str(number)], stdout=subprocess.PIPE, text=True) for number in range(3)]
    won = [int(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert FileStore(tmp_path).get("r", 100).split()[0] == b"%d" % sum(won)


def test_a_register_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"old")
    store = FileStore(tmp_path / "r")
    store.put("heads/other", b"")
    (tmp_path / "r/heads/r").symlink_to(tmp_path / "secret")
    with pytest.raises(Failure):
        store.swap("heads/r", b"old", b"new")
    assert (tmp_path / "secret").read_bytes() == b"old"


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_leaves_no_object_and_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = FileStore(tmp_path)
    store.put("d/before", b"x")

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(Failure, match="no space left") as caught:
            store.put("d/a", b"x")
    assert "free some space" in caught.value.hint
    assert files_below(tmp_path) == {"d/before"}
    assert store.put("d/a", b"x") is True


@pytest.mark.parametrize("refused", ["flag", "write"])
def test_a_file_system_without_direct_writes_gets_large_objects_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    store, data = FileStore(tmp_path), os.urandom(3_000_000)
    set_flags, write, calls = fcntl.fcntl, os.write, []

    def setting(fd: int, command: int, *argument: int) -> int:
        if refused == "flag" and argument and argument[0] & os.O_DIRECT:
            calls.append("refused")
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return set_flags(fd, command, *argument)

    def writing(fd: int, view: memoryview) -> int:
        if refused == "write" and set_flags(fd, fcntl.F_GETFL) & os.O_DIRECT:
            calls.append("refused")
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(fd, view)

    monkeypatch.setattr(fcntl, "fcntl", setting)
    monkeypatch.setattr(os, "write", writing)
    assert store.put("d/a", data) is True
    assert calls == ["refused"]
    assert store.get("d/a", len(data) + 1) == data


def test_a_directory_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"")
    with pytest.raises(Failure, match="Not a directory"):
        FileStore(tmp_path / "r")
