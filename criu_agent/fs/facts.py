"""What a file is, besides its name: enough to say whether two are the same, and to make another one like it."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from criu_agent.fs import beneath
from criu_agent.fs.scan import is_carried

_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file of a tree: `path` is relative to `root`, and no link on the way is ever followed."""

    root: Path
    path: str

    def below(self, name: str) -> "Place":
        return Place(root=self.root, path=beneath.joined(self.path, name))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """status as of lstat; xattrs without those of overlayfs; target of a symbolic link."""

    status: os.stat_result
    xattrs: Mapping[str, bytes]
    target: str

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_whiteout(self) -> bool:
        """Whether it only says that a file of the lower layer is gone (Documentation/filesystems/overlayfs.rst)."""
        return stat.S_ISCHR(self.status.st_mode) and self.status.st_rdev == 0


def look(place: Place) -> Facts | None:
    """None where there is nothing; also where something on the way is no directory."""
    parent, name = beneath.split(place.path)
    try:
        with beneath.directory(place.root, parent) as at:
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
            is_link = stat.S_ISLNK(status.st_mode)
            target = os.readlink(name, dir_fd=at) if is_link else ""
            return Facts(status=status, xattrs=_xattrs(beneath.by_proc(at, name)), target=target)
    except (FileNotFoundError, NotADirectoryError):
        return None


def overlay_xattr(place: Place, name: str) -> bytes:
    """An attribute that overlayfs has set on an entry of an upper layer; b"" without."""
    parent, last = beneath.split(place.path)
    try:
        with beneath.directory(place.root, parent) as at:
            return os.getxattr(beneath.by_proc(at, last), f"trusted.overlay.{name}", follow_symlinks=False)
    except OSError:
        return b""


def names(place: Place) -> list[str]:
    """Of what is in a directory; empty for one that has gone meanwhile, in a run that lives."""
    try:
        with beneath.directory(place.root, place.path) as at:
            return sorted(os.listdir(at))
    except (FileNotFoundError, NotADirectoryError):
        return []


def same(one: Place, facts: Facts, other: Place, others: Facts) -> bool:
    """Whether two files are the same in everything that a program can see but names, inodes and times of access."""
    if not same_dress(facts, others):
        return False
    kind = stat.S_IFMT(facts.status.st_mode)
    if kind == stat.S_IFLNK:
        return facts.target == others.target
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        return facts.status.st_rdev == others.status.st_rdev
    if kind != stat.S_IFREG:
        return True
    here, there = facts.status, others.status
    return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns) and _same_content(one, other)


def same_dress(one: Facts, other: Facts) -> bool:
    """Whether kind, mode, owner and attributes are the same."""
    here, there = one.status, other.status
    return (here.st_mode, here.st_uid, here.st_gid) == (there.st_mode, there.st_uid, there.st_gid) and (
        one.xattrs == other.xattrs
    )


def _same_content(one: Place, other: Place) -> bool:
    with beneath.file(one.root, one.path) as here, beneath.file(other.root, other.path) as there:
        while (piece := os.read(here, _PIECE)) == os.read(there, _PIECE):
            if not piece:
                return True
    return False


def _xattrs(path: str) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if is_carried(name) and not name.startswith("trusted.overlay.")
    }
