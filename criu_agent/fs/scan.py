"""Everything that a directory tree consists of, but the contents of its files."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from criu_agent.errors import Failure
from criu_agent.fs import beneath, listing
from criu_agent.fs.entry import KINDS, LINK, Entry
from criu_agent.fs.listing import Left
from criu_agent.model import Part

KIND = {number: kind for kind, number in KINDS.items()}
_KEPT = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
# They tie an upper layer to the file systems it was made on: overlayfs on another host would refuse or
# misread it. It makes them anew.
_DROPPED = tuple(f"trusted.overlay.{name}" for name in ("origin", "uuid", "nlink", "impure", "upper", "index"))


class Found(NamedTuple):
    """A file of a tree: its line, what the index says of it, and where its data are.

    place: where they begin in the spool, or which pages of the snapshot before; None if they are in the file alone.
    """

    line: bytes
    entry: Entry
    place: int | Part | None = None


def scan(root: Path) -> tuple[Entry, ...]:
    """Every entry of the tree at `root`, a directory before what is in it, in an order that only names decide.

    The tree must not change meanwhile: its owners are frozen or dead. Failure if it cannot be read.
    """
    lines = listing.read(root, Left()).lines()
    try:
        with Looking(root) as looking:
            found = [Found(line, looking.entry(line)) for line in sorted(lines, key=order)]
    except OSError as error:
        raise Failure(f"cannot read the files in {root}: {error}") from error
    return tuple(one.entry for one in linked(found, ()))


def is_carried(xattr: str) -> bool:
    """Whether an extended attribute belongs to the file, rather than to the host that it lies on."""
    if xattr.startswith("trusted."):
        return xattr not in _DROPPED
    return xattr.startswith("user.") or xattr in _KEPT


def order(line: bytes) -> bytes:
    """The key by which lines are sorted: what is in a directory follows it at once."""
    return listing.path_of(line).replace(b"/", b"\0")


def linked(found: Iterable[Found], mounts: Sequence[str]) -> Iterator[Found]:
    """The files of a tree, sorted already, with further names of a file as links to the first.

    Left out is what is mounted from elsewhere, unless a directory is, and what lies in no directory of the tree: it
    was listed while something else was there.
    """
    names: dict[tuple[int, int], str] = {}
    directories = {""}
    for one in found:
        path = one.entry.path
        if path and path.rpartition("/")[0] not in directories:
            continue
        if one.entry.kind == "directory":
            directories.add(path)
            yield one
            continue
        if path in mounts:
            continue
        if listing.links_of(one.line) == 1:
            yield one
            continue
        facts = listing.facts(one.line)
        first = names.setdefault((facts.device, facts.inode), path)
        yield one if first == path else one._replace(entry=Entry(path=path, kind=LINK, target=first), place=None)


class Looking:
    """Looks at files of a tree one after the other, quickly if neighbours follow each other. To be closed."""

    def __init__(self, root: Path) -> None:
        self._only = "" if root.is_dir() else root.name  # the tree is that file alone
        self._root = root.parent if self._only else root
        self._parent: str | None = None
        self._at = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._at >= 0:
            os.close(self._at)

    def at(self, path: str) -> tuple[int, str]:
        """A descriptor of the directory that it is in, which is ours, and its name there."""
        parent, name = ("", self._only) if self._only else beneath.split(path)
        if parent != self._parent:
            self._open(parent)
        return self._at, name

    def entry(self, line: bytes) -> Entry:
        """What is at the path of a line now."""
        path = os.fsdecode(listing.path_of(line))
        at, name = self.at(path)
        return _entry(at, name, path, os.stat(name, dir_fd=at, follow_symlinks=False))

    def _open(self, parent: str) -> None:
        with beneath.directory(self._root, parent) as at:
            new = os.dup(at)
        if self._at >= 0:
            os.close(self._at)
        self._at, self._parent = new, parent


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
            if start >= status.st_size:  # it has grown meanwhile
                break
            end = min(os.lseek(fd, start, os.SEEK_HOLE), status.st_size)
            extents.append((start, end - start))
    except OSError as error:
        if error.errno != errno.ENXIO:  # no more data behind `end`
            raise
    finally:
        os.close(fd)
    return tuple(extents)
