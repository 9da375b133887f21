"""A captured tree comes back with everything that a file has, also the upper layer of a real overlay."""

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from criu_agent.errors import Failure
from criu_agent.fs.entry import LINK
from criu_agent.fs.rebuild import rebuild
from criu_agent.fs.scan import scan
from criu_agent.fs.tree import capture, save
from criu_agent.linux import syscalls
from criu_agent.model import Tree
from criu_agent.repo.writer import writing
from criu_agent.store.file import FileStore
from tests.fakes.repositories import US, lives, opened
from tests.fakes.shelf import Shelf

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes, trusted xattrs and mounts need root")

LONG = 1_000_000_000
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # VFS_CAP_REVISION_2, effective: net_bind
ACL = struct.pack("<I", 2) + b"".join(  # u::rw- u:1234:r-- g::r-- m::r-- o::---
    struct.pack("<HHI", *entry)
    for entry in [(1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
)


@contextmanager
def mounted(source: str, target: Path, fstype: str, data: str) -> Iterator[Path]:
    target.mkdir(exist_ok=True)
    syscalls.mount(source, str(target), fstype, 0, data)
    try:
        yield target
    finally:
        syscalls.umount2(str(target))


def everything(root: Path) -> dict[str, object]:
    """What lstat, the xattrs and the content say of every path below root, with hard links by their partners."""
    partners: dict[int, list[str]] = {}
    found: dict[str, object] = {}
    for path in sorted([root, *root.rglob("*")], key=os.fsencode):
        status, name = path.lstat(), str(path.relative_to(root))
        partners.setdefault(status.st_ino, []).append(name)
        regular = stat.S_ISREG(status.st_mode)
        found[name] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_rdev,
            status.st_size if regular else 0,
            {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)},
            path.readlink() if path.is_symlink() else None,
            path.read_bytes() if regular else None,
        )
    return found | {"hard links": sorted(names for names in partners.values() if len(names) > 1)}


def take(root: Path, shelf: Shelf, spool: Path | None = None) -> Tree:
    with capture(root, spool=spool) as captured:
        return save(captured, shelf.save, name="upper")


def all_kinds(root: Path) -> None:
    root.mkdir()
    (root / "empty").touch()
    (root / "text").write_bytes(b"text\n" * 1000)
    (root / "large").write_bytes(os.urandom(3_500_000))
    (root / os.fsdecode(b"not \xff utf-8 \x80\n")).write_bytes(b"\xff")
    (root / "ünï code").write_bytes(b"u")
    (root / "setuid").write_bytes(b"#!")
    os.chown(root / "setuid", 12, 34)
    (root / "setuid").chmod(0o6755)
    os.setxattr(root / "setuid", "security.capability", CAPABILITY)
    os.setxattr(root / "text", "user.note", b"\0\xff any bytes")
    os.setxattr(root / "text", "system.posix_acl_access", ACL)
    (root / "link").symlink_to("../../nowhere/\udcff")
    os.chown(root / "link", 5, 6, follow_symlinks=False)
    os.link(root / "text", root / "text-again")
    os.link(root / "link", root / "link-again", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    os.mknod(root / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    deep = root / "d" / "e"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    os.link(root / "text", deep / "text-too")
    os.setxattr(root / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(deep, "system.posix_acl_default", ACL)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "closed").mkdir()
    (root / "closed/file").write_bytes(b"c")
    (root / "closed").chmod(0)
    for number, path in enumerate([*root.rglob("*"), root]):
        os.utime(path, ns=(0, (number - 3) * LONG + 123_456_789), follow_symlinks=False)


@pytest.mark.parametrize("spooled", [False, True], ids=["read in place", "spooled"])
def test_every_kind_of_file_comes_back_as_it_was(tmp_path: Path, shelf: Shelf, into: Path, spooled: bool) -> None:
    all_kinds(tmp_path / "tree")
    expected = everything(tmp_path / "tree")
    (tmp_path / "spool").mkdir()
    tree = take(tmp_path / "tree", shelf, tmp_path / "spool" if spooled else None)
    rebuild(tree, shelf.stream, into)
    assert everything(into) == expected
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_rebuilt_tree_is_captured_as_the_same_tree(tmp_path: Path, shelf: Shelf, into: Path) -> None:
    all_kinds(tmp_path / "tree")
    tree = take(tmp_path / "tree", shelf)
    rebuild(tree, shelf.stream, into)
    assert take(into, shelf) == tree


def test_holes_stay_holes_wherever_they_are(tmp_path: Path, shelf: Shelf, into: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    layouts = {"all": (), "front": (50,), "middle": (0, 99), "end": (0,), "many": range(0, 100, 7)}
    for name, blocks in layouts.items():
        with (root / name).open("wb") as file:
            file.truncate(100 * 65536 - 5)
            for block in blocks:
                file.seek(block * 65536)
                file.write(os.urandom(100))
    (tmp_path / "spool").mkdir()
    for number, spool in enumerate([None, tmp_path / "spool"]):
        again = into / str(number)
        again.mkdir()
        rebuild(take(root, shelf, spool), shelf.stream, again)
        assert everything(again) == everything(root)
        used = {name: (again / name).stat().st_blocks for name in layouts}
        assert used == {name: (root / name).stat().st_blocks for name in layouts}


def test_what_changes_after_a_spooled_capture_is_not_in_it(tmp_path: Path, shelf: Shelf, into: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "log").write_bytes(b"before")
    (root / "gone").write_bytes(b"still there")
    expected = everything(root)
    with capture(root, spool=tmp_path) as captured:
        (root / "log").write_bytes(b"after, and longer")
        (root / "gone").unlink()
        tree = save(captured, shelf.save, name="upper")
    rebuild(tree, shelf.stream, into)
    assert everything(into) == expected


def test_a_tree_deeper_than_any_path_comes_back(tmp_path: Path, shelf: Shelf, into: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()

    def bottom(of: Path, make: bool) -> int:
        fd = os.open(of, os.O_DIRECTORY)
        for _ in range(60):
            if make:
                os.mkdir("n" * 200, dir_fd=fd)
            parent, fd = fd, os.open("n" * 200, os.O_DIRECTORY, dir_fd=fd)
            os.close(parent)
        return fd

    fd = bottom(root, make=True)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o640, dir_fd=fd))
    os.close(fd)
    rebuild(take(root, shelf), shelf.stream, into)
    fd = bottom(into, make=False)
    assert os.listdir(fd) == ["file"]
    os.close(fd)


# --- overlayfs


@contextmanager
def overlay(base: Path, upper: Path) -> Iterator[Path]:
    work = base / f"work-{upper.name}"
    work.mkdir()
    options = f"lowerdir={base / 'lower'},upperdir={upper},workdir={work},index=on,nfs_export=on"
    with mounted("overlay", base / f"merged-{upper.name}", "overlay", options) as merged:
        yield merged


def test_the_upper_layer_of_an_overlay_shows_the_same_files_when_it_is_rebuilt(
    tmp_path: Path, shelf: Shelf, into: Path
) -> None:
    lower = tmp_path / "lower"
    for name in ("removed", "replaced", "kept", "renamed"):
        (lower / name).mkdir(parents=True)
        (lower / name / "below").write_bytes(name.encode())
    (lower / "file").write_bytes(b"file")
    upper = tmp_path / "upper"
    upper.mkdir()
    with overlay(tmp_path, upper) as merged:
        (merged / "removed/below").unlink()
        (merged / "removed").rmdir()
        (merged / "file").unlink()
        (merged / "replaced/below").unlink()
        (merged / "replaced").rmdir()
        (merged / "replaced").mkdir()  # opaque: what the lower layer has in it must stay hidden
        (merged / "replaced/new").write_bytes(b"n")
        (merged / "kept/below").chmod(0o600)  # copied up
        (merged / "kept/made").write_bytes(b"m")
        os.link(merged / "kept/made", merged / "kept/made-again")
        os.mkfifo(merged / "kept/fifo")
        expected = everything(merged)
    assert any(stat.S_ISCHR(entry.lstat().st_mode) and entry.lstat().st_rdev == 0 for entry in upper.rglob("*")), (
        "overlayfs made no whiteout"
    )
    rebuild(take(upper, shelf), shelf.stream, into)
    assert os.getxattr(into / "replaced", "trusted.overlay.opaque") == b"y"
    with overlay(tmp_path, into) as again:
        assert everything(again) == expected
        assert not (again / "replaced/below").exists()
        (again / "removed").mkdir()
        assert list((again / "removed").iterdir()) == []


def test_a_changed_file_of_the_lower_layer_keeps_its_change_under_the_name_it_was_changed_by(
    tmp_path: Path, shelf: Shelf, into: Path
) -> None:
    """The limit of docs/format.md section 7: its other names in the lower layer are known to the index only."""
    lower = tmp_path / "lower"
    lower.mkdir()
    (lower / "one").write_bytes(b"old")
    os.link(lower / "one", lower / "two")
    (tmp_path / "upper").mkdir()
    with overlay(tmp_path, tmp_path / "upper") as merged:
        (merged / "one").write_bytes(b"new")
        assert (merged / "two").read_bytes() == b"new"
    rebuild(take(tmp_path / "upper", shelf), shelf.stream, into)
    with overlay(tmp_path, into) as again:
        assert ((again / "one").read_bytes(), (again / "two").read_bytes()) == (b"new", b"old")


def test_what_ties_a_layer_to_its_file_system_is_dropped(tmp_path: Path, shelf: Shelf, into: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("origin", "uuid", "nlink", "impure", "upper", "index", "opaque", "redirect", "metacopy"):
        os.setxattr(root, f"trusted.overlay.{name}", b"v")
    rebuild(take(root, shelf), shelf.stream, into)
    kept = {name.rpartition(".")[2] for name in os.listxattr(into) if name.startswith("trusted.overlay")}
    assert kept == {"opaque", "redirect", "metacopy"}


def test_what_is_mounted_in_the_tree_is_not_of_it(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    with mounted("tmpfs", root / "mnt", "tmpfs", "size=64k"):
        (root / "mnt/file").touch()
        assert [(entry.path, entry.kind) for entry in scan(root)] == [("", "directory"), ("mnt", "directory")]


# --- no space


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with mounted("tmpfs", tmp_path / "small", "tmpfs", "size=1m,mode=0700") as path:
        yield path


def fails_for_space(call: Callable[[], object]) -> None:
    with pytest.raises(Failure, match=r"[Nn]o space left") as caught:
        call()
    assert "free some space" in caught.value.hint


def test_a_full_spool_fails_with_a_hint_and_leaves_nothing(tmp_path: Path, small: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "large").write_bytes(os.urandom(3 << 20))
    free = os.statvfs(small).f_bfree
    fails_for_space(lambda: capture(root, spool=small))
    assert list(small.iterdir()) == []
    assert os.statvfs(small).f_bfree == free


def test_a_full_target_fails_with_a_hint(tmp_path: Path, small: Path, shelf: Shelf) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "large").write_bytes(os.urandom(3 << 20))
    tree = take(root, shelf)
    fails_for_space(lambda: rebuild(tree, shelf.stream, small))


def test_a_full_repository_keeps_whole_objects_only(tmp_path: Path, small: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "large").write_bytes(os.urandom(24 << 20))
    store = FileStore(small)
    repository = opened(store)

    def fill() -> None:
        with (
            capture(root, spool=None) as captured,
            writing(repository, "run-1", holder=US, lives=lives, parent="", hashes=None) as writer,
        ):
            save(captured, writer.save, name="upper")
            raise AssertionError("it cannot have had room")

    fails_for_space(fill)
    assert list((small / ".tmp").iterdir()) == []
    assert repository.snapshots().snapshots == ()


def test_hard_links_are_told_from_copies(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").write_bytes(b"same")
    (root / "b").write_bytes(b"same")
    os.link(root / "a", root / "c")
    kinds = {entry.path: (entry.kind, entry.target) for entry in scan(root)}
    assert kinds == {"": ("directory", ""), "a": ("file", ""), "b": ("file", ""), "c": (LINK, "a")}
