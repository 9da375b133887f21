"""One suite over all stores: each promise of store.base.Store."""

import errno
import os
import threading
from pathlib import Path

import pytest

from criu_agent.errors import Corrupt, Failure, NotFound, Usage
from criu_agent.store.base import Store
from criu_agent.store.file import FileStore
from criu_agent.store.memory import MemoryStore
from criu_agent.store.url import open_store


@pytest.fixture(params=["memory", "directory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "some" / "repository")


def test_what_was_put_is_got_back_whole(store: Store) -> None:
    data = os.urandom(3_000_000)
    assert store.put("chunks/ab/abcd", data) is True
    assert store.get("chunks/ab/abcd", 1 << 30) == data
    assert store.size("chunks/ab/abcd") == len(data)


def test_an_empty_object_is_an_object(store: Store) -> None:
    assert store.put("empty", b"") is True
    assert (store.get("empty", 10), store.size("empty"), store.list("")) == (b"", 0, ["empty"])


def test_get_takes_in_no_more_than_its_limit(store: Store) -> None:
    store.put("a", b"0123456789")
    assert store.get("a", 4) == b"0123"


def test_a_put_on_a_taken_name_changes_nothing_and_says_so(store: Store) -> None:
    store.put("a", b"first")
    assert store.put("a", b"second") is False
    assert store.get("a", 100) == b"first"


def test_one_of_many_racing_puts_makes_the_object(store: Store) -> None:
    made: list[bytes] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        data = bytes([number]) * 100_000
        if store.put("d/a", data):
            made.append(data)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [store.get("d/a", 1 << 20)]


def test_a_missing_object_is_not_found_and_has_no_size(store: Store) -> None:
    store.put("d/a", b"x")
    for name in ("b", "d/b", "e/f/g"):
        assert store.size(name) is None
        with pytest.raises(NotFound, match=name):
            store.get(name, 1)


def test_list_gives_the_names_with_a_prefix_in_order(store: Store) -> None:
    for name in ("config", "s/ab2", "s/ab1", "s/b", "sab", "s/c/d"):
        store.put(name, b"x")
    assert store.list("") == ["config", "s/ab1", "s/ab2", "s/b", "s/c/d", "sab"]
    assert store.list("s/") == ["s/ab1", "s/ab2", "s/b", "s/c/d"]
    assert store.list("s/ab") == ["s/ab1", "s/ab2"]
    assert store.list("nothing/") == []


def test_a_deleted_object_is_gone_and_can_be_made_again(store: Store) -> None:
    store.put("d/a", b"1")
    store.delete("d/a")
    store.delete("d/a")
    store.delete("never/was")
    assert store.list("") == []
    assert store.put("d/a", b"2") is True


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "../a", "a/..", ".", ".tmp/a", "a b", "ä", "a\n", "x" * 129]
)
def test_what_is_not_a_name_is_refused(store: Store, name: str) -> None:
    for call in (lambda: store.put(name, b""), lambda: store.get(name, 1), lambda: store.size(name)):
        with pytest.raises(Usage):
            call()
    with pytest.raises(Usage):
        store.delete(name)


# --- a directory only


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

    for name in ("fsync", "link", "unlink"):
        recorded(name)
    store.put("d/a", b"x")
    assert calls == ["fsync file", "link", "unlink", "fsync directory"]


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
    assert store.list("") == ["d/a"]


def test_what_a_killed_writer_left_is_never_listed_and_is_removed_later(tmp_path: Path) -> None:
    FileStore(tmp_path).put("a", b"x")
    (tmp_path / ".tmp/left").write_bytes(b"half")
    assert FileStore(tmp_path).list("") == ["a"]
    assert files_below(tmp_path) == {"a"}


def test_the_temporary_file_of_a_living_writer_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    real = os.link

    def others_open_the_store_now(*args: object, **options: object) -> None:
        FileStore(tmp_path)
        real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", others_open_the_store_now)
    assert store.put("a", b"x") is True


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


def test_a_directory_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"")
    with pytest.raises(Failure, match="Not a directory"):
        FileStore(tmp_path / "r")


# --- what the user calls it


def test_a_path_a_file_url_and_memory_open_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roots = [open_store(url) for url in (str(tmp_path / "r"), f"file://{tmp_path}/a%20b", "r:1", "rel/ative")]
    assert [store.root for store in roots if isinstance(store, FileStore)] == [
        tmp_path / "r",
        tmp_path / "a b",
        tmp_path / "r:1",
        tmp_path / "rel/ative",
    ]
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize("url", ["", "s3://bucket/prefix", "ftp://host/x", "file://host/x", "file://", "file:///a?b"])
def test_another_url_is_a_usage_error_with_a_hint(url: str) -> None:
    with pytest.raises(Usage) as caught:
        open_store(url)
    assert "file:///path" in caught.value.hint


def test_s3_says_that_this_version_does_not_have_it() -> None:
    with pytest.raises(Usage, match="S3 yet"):
        open_store("s3://bucket/prefix")
