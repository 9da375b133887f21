"""Make a file like another one beside where it is to go."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from criu_agent.fs import beneath
from criu_agent.fs.facts import Facts, Place

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_Links = dict[tuple[str, int, int], Place]


class Copier:
    """Copies files of one merge: what had several names has them again."""

    def __init__(self) -> None:
        self._links: _Links = {}

    def copy(self, source: Place, facts: Facts, to: Place) -> None:
        """Make `to`, which is not there, as `facts` say. A directory is empty, and will need its time once more."""
        parent, name = beneath.split(to.path)
        key = (str(source.root), facts.status.st_dev, facts.status.st_ino)
        with beneath.directory(to.root, parent) as at:
            if key in self._links and _linked(self._links[key], at, name):
                return
            with _made(source, facts, at, name) as fd:
                dress(fd, facts)
        if facts.status.st_nlink > 1 and not facts.is_directory:
            self._links[key] = to


def dress(fd: int, facts: Facts) -> None:
    """Owner, mode, attributes, time of what the descriptor is of, which may be an O_PATH one.

    By the descriptor, since the directory may be of somebody who puts a link in its place. In this order: chown takes
    away setuid and capabilities, and chmod changes the mask of an ACL.
    """
    status, path = facts.status, f"/proc/self/fd/{fd}"
    os.chown(path, status.st_uid, status.st_gid)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))  # noqa: PTH101 - of a descriptor
    for xattr, value in facts.xattrs.items():
        os.setxattr(path, xattr, value)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _linked(first: Place, at: int, name: str) -> bool:
    """Give the copy that was made before another name; False where it lies on another file system."""
    parent, old = beneath.split(first.path)
    with beneath.directory(first.root, parent) as beside:
        if os.fstat(beside).st_dev != os.fstat(at).st_dev:
            return False
        os.link(old, name, src_dir_fd=beside, dst_dir_fd=at, follow_symlinks=False)
    return True


@contextmanager
def _made(source: Place, facts: Facts, at: int, name: str) -> Iterator[int]:
    """A descriptor of what was made: a file's with its content, of anything else an O_PATH one."""
    mode = facts.status.st_mode
    if stat.S_ISREG(mode):
        fd = os.open(name, _CREATE, 0o600, dir_fd=at)
    else:
        if facts.is_directory:
            os.mkdir(name, 0o700, dir_fd=at)
        elif stat.S_ISLNK(mode):
            os.symlink(facts.target, name, dir_fd=at)
        else:
            os.mknod(name, stat.S_IFMT(mode) | 0o600, facts.status.st_rdev, dir_fd=at)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        if stat.S_ISREG(mode):
            _copy_content(source, fd)
        yield fd
    finally:
        os.close(fd)


def _copy_content(source: Place, target: int) -> None:
    """Holes stay holes."""
    with beneath.file(source.root, source.path) as fd:
        os.ftruncate(target, os.fstat(fd).st_size)
        end = 0
        while (start := _data_after(fd, end)) is not None:
            end = os.lseek(fd, start, os.SEEK_HOLE)
            _copy_range(fd, target, start, end - start)


def _data_after(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:  # ENXIO: there is none
        return None


def _copy_range(fd: int, target: int, offset: int, length: int) -> None:
    os.lseek(target, offset, os.SEEK_SET)
    while length:
        count = os.sendfile(target, fd, offset, length)
        if not count:
            raise OSError(0, "it became shorter while it was copied")
        offset, length = offset + count, length - count
