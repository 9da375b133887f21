"""Everything that a directory tree consists of, but the contents of its files."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from criu_agent.errors import Failure
from criu_agent.fs import beneath
from criu_agent.fs.entry import KINDS, LINK, Entry

KIND = {number: kind for kind, number in KINDS.items()}
_KEPT = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
# They tie an upper layer to the file systems it was made on: overlayfs on another host would refuse or
# misread it. It makes them anew.
_DROPPED = tuple(f"trusted.overlay.{name}" for name in ("origin", "uuid", "nlink", "impure", "upper", "index"))


def scan(root: Path) -> tuple[Entry, ...]:
    """Every entry of the tree at `root`, a directory before what is in it, in an order that only names decide.

    The tree must not change meanwhile: its owners are frozen or dead. Failure if it cannot be read.
    """
    try:
        return tuple(_walk(root))
    except OSError as error:
        raise Failure(f"cannot read the files in {root}: {error}") from error


def pick(root: Path, paths: Iterable[str]) -> tuple[Entry, ...]:
    """Entries of these files and directories of the tree at `root`, and of the directories that lead to them.

    paths are relative, and none leads through a symlink. OSError if one is not there.
    """
    wanted = {""}
    for path in paths:
        while path not in wanted:
            wanted.add(path)
            path = beneath.split(path)[0]
    return tuple(_picked(root, path) for path in sorted(wanted, key=lambda path: path.split("/")))


def _picked(root: Path, path: str) -> Entry:
    parent, name = beneath.split(path)
    with beneath.directory(root, parent) as at:
        return _entry(at, name, path, os.stat(name, dir_fd=at, follow_symlinks=False))


def is_carried(xattr: str) -> bool:
    """Whether an extended attribute belongs to the file, rather than to the host that it lies on."""
    if xattr.startswith("trusted."):
        return xattr not in _DROPPED
    return xattr.startswith("user.") or xattr in _KEPT


def _walk(root: Path) -> Iterator[Entry]:
    links: dict[tuple[int, int], str] = {}
    with beneath.directory(root, "") as at:
        device = os.fstat(at).st_dev
        yield _entry(at, ".", "", os.fstat(at))
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        directories: list[str] = []
        with beneath.directory(root, parent) as at:
            with os.scandir(at) as found:
                names = sorted(entry.name for entry in found)
            for name in names:
                status = os.stat(name, dir_fd=at, follow_symlinks=False)
                path = beneath.joined(parent, name)
                if status.st_dev != device:
                    raise Failure(f"another file system is mounted in the tree, on {root / path}")
                inode = (status.st_dev, status.st_ino)
                if inode in links:
                    yield Entry(path=path, kind=LINK, target=links[inode])
                    continue
                if stat.S_ISDIR(status.st_mode):
                    directories.append(path)
                elif status.st_nlink > 1:
                    links[inode] = path
                yield _entry(at, name, path, status)
        waiting += reversed(directories)


def _entry(at: int, name: str, path: str, status: os.stat_result) -> Entry:
    kind = KIND[stat.S_IFMT(status.st_mode)]
    special = kind in ("character", "block")
    return Entry(
        path=path,
        kind=kind,
        target=os.readlink(name, dir_fd=at) if kind == "symlink" else "",
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        xattrs=xattrs(beneath.by_proc(at, name)),
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if special else (0, 0),
        size=status.st_size if kind == "file" else 0,
        extents=_extents(at, name, status) if kind == "file" else (),
    )


def xattrs(path: str) -> dict[str, bytes]:
    """The extended attributes of a file that are carried."""
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if is_carried(name)
    }


def _extents(at: int, name: str, status: os.stat_result) -> tuple[tuple[int, int], ...]:
    if status.st_blocks * 512 >= status.st_size:
        return ((0, status.st_size),) if status.st_size else ()
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    extents: list[tuple[int, int]] = []
    end = 0
    try:
        while end < status.st_size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            extents.append((start, end - start))
    except OSError as error:
        if error.errno != errno.ENXIO:  # no more data behind `end`
            raise
    finally:
        os.close(fd)
    return tuple(extents)
