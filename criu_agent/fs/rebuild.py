"""Make a captured tree again, in an empty directory, and nothing outside of it (docs/format.md section 7)."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Protocol

from criu_agent.errors import Corrupt, Failure
from criu_agent.fs import beneath
from criu_agent.fs.entry import KINDS, LINE_LIMIT, LINK, PAGE, Entry, from_line
from criu_agent.fs.scan import is_carried
from criu_agent.fs.tree import VERSIONS
from criu_agent.model import Blob, Tree
from criu_agent.store.document import split_version_line

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOTS = {1: ("directory",), 2: ("directory", "file")}  # what the root of a tree may be
_INDEX = "the index of a tree"
# What the kernel says when a path leads through something that is no directory of ours, or is taken.
_FORGED = (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG)

Stream = Callable[[Blob], Iterator[bytes]]


def rebuild(tree: Tree, stream: Stream, into: Path) -> None:
    """Make the tree in the empty directory `into`; a single file as the file `into`, which is not there yet.

    `stream` gives the verified bytes of a blob in pieces. Corrupt for an index that breaks a rule of the format,
    Failure if this file system cannot hold the tree. On either, what was made so far is there: the caller owns `into`
    and removes it.
    """
    version, found = _read(stream(tree.index))
    contents = _Contents(tree.blobs, stream, page=1 if version == 1 else PAGE)
    root = next(found)
    _require_room(into, root)
    directories: list[Entry] = []
    for entry in chain([root], found):
        with _translated(into, entry):
            _make(into, entry, contents)
        if entry.kind == "directory":
            directories.append(entry)
    contents.close()
    # Last, and the innermost first: to make a file in a directory changes the directory's time, and a default
    # ACL on it would change the file's mode.
    for entry in reversed(directories):
        parent, name = beneath.split(entry.path)
        with _translated(into, entry), beneath.directory(into, parent) as at:
            dress(at, name, entry)


class Contents(Protocol):
    def take(self, entry: Entry) -> Iterator[tuple[int, memoryview]]:
        """The data of a file: (offset in the file, bytes)."""


def _require_room(into: Path, root: Entry) -> None:
    if root.kind == "file":
        if os.path.lexists(into):
            raise Failure(f"{into} is there already")
        return
    with os.scandir(into) as found:
        if any(found):
            raise Failure(f"{into} is not empty")


class _Contents:
    """The data of all blobs of a tree, each read once and to its end, in the order of the index."""

    def __init__(self, blobs: tuple[Blob, ...], stream: Stream, *, page: int) -> None:
        """page: the data of each file begin at a multiple of it."""
        self._page = page
        self._blobs = blobs
        self._stream = stream
        self._number = -1
        self._position = 0
        self._pieces: Iterator[bytes] = iter(())
        self._piece = memoryview(b"")

    def take(self, entry: Entry) -> Iterator[tuple[int, memoryview]]:
        """The data of a file: (offset in the file, bytes)."""
        self._skip_padding()
        if entry.blob == self._number + 1 and self._at_end() and entry.blob < len(self._blobs):
            self._number += 1
            self._position = 0
            self._pieces = self._stream(self._blobs[self._number])
        if (entry.blob, entry.offset) != (self._number, self._position):
            raise Corrupt(f"{_INDEX} is changed: the data of {entry.path!r} are out of order")
        if entry.length > self._blobs[self._number].size - self._position:
            raise Corrupt(f"{_INDEX} is changed: {entry.path!r} has more data than its blob")
        for offset, length in entry.extents:
            end = offset + length
            while offset < end:
                data = self._next(end - offset)
                yield offset, data
                offset += len(data)

    def close(self) -> None:
        self._skip_padding()
        if not self._at_end() or self._number + 1 != len(self._blobs):
            raise Corrupt(f"{_INDEX} is changed: data of the tree belong to no file")

    def _skip_padding(self) -> None:
        left = -self._position % self._page
        while left:
            left -= len(self._next(left))

    def _at_end(self) -> bool:
        return self._number < 0 or self._position == self._blobs[self._number].size

    def _next(self, most: int) -> memoryview:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        if not self._piece:
            raise Corrupt(f"{_INDEX} is changed: a file has more data than its blob")
        data, self._piece = self._piece[:most], self._piece[most:]
        self._position += len(data)
        return data


def entries(pieces: Iterator[bytes]) -> Iterator[Entry]:
    """The entries in the bytes of an index, the root first. Corrupt for whatever breaks a rule of the format."""
    return _read(pieces)[1]


def _read(pieces: Iterator[bytes]) -> tuple[int, Iterator[Entry]]:
    """The version of the index, and its entries."""
    lines = _lines(pieces)
    version, more = split_version_line(next(lines, b""), "tree", VERSIONS, _INDEX)
    if more:
        raise Corrupt(f"{_INDEX} is changed: there is more in its first line")
    return version, _entries(version, lines)


def _entries(version: int, lines: Iterator[bytes]) -> Iterator[Entry]:
    root = from_line(next(lines, b""))
    if root.path or root.kind not in _ROOTS[version]:
        raise Corrupt(f"{_INDEX} is changed: it does not begin with the root")
    yield root
    for line in lines:
        entry = from_line(line)
        if not entry.path or root.kind == "file":
            raise Corrupt(f"{_INDEX} is changed: it has two roots")
        yield entry


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their ends."""
    rest = bytearray()
    for piece in pieces:
        *whole, tail = piece.split(b"\n")
        for line in whole:
            yield bytes(rest) + line + b"\n"
            rest.clear()
        rest += tail
        if len(rest) > LINE_LIMIT:
            raise Corrupt(f"{_INDEX} is changed: a line is longer than {LINE_LIMIT} bytes")
    if rest:
        raise Corrupt(f"{_INDEX} is changed: its last line has no end")


def _make(into: Path, entry: Entry, contents: Contents) -> None:
    if not entry.path and entry.kind == "directory":
        return  # it is there
    if not entry.path:
        with beneath.directory(into.parent, "") as at:
            make_other(at, into.name, entry, contents)
            dress(at, into.name, entry)
        return
    parent, name = beneath.split(entry.path)
    with beneath.directory(into, parent) as at:
        if entry.kind == LINK:
            _link(into, entry.target, at, name)
        elif entry.kind == "directory":
            os.mkdir(name, 0o700, dir_fd=at)
        else:
            make_other(at, name, entry, contents)
            dress(at, name, entry)


def make_other(at: int, name: str, entry: Entry, contents: Contents) -> None:
    """A file of any kind but a directory or a hard link, which no one may see yet: it has no owner and mode."""
    if entry.kind == "file":
        _write(at, name, entry, contents)
    elif entry.kind == "symlink":
        os.symlink(entry.target, name, dir_fd=at)
    else:
        os.mknod(name, KINDS[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=at)


def _link(into: Path, target: str, at: int, name: str) -> None:
    parent, old = beneath.split(target)
    with beneath.directory(into, parent) as beside:
        if stat.S_ISDIR(os.stat(old, dir_fd=beside, follow_symlinks=False).st_mode):
            raise Corrupt(f"{_INDEX} is changed: a link to the directory {target!r}")
        os.link(old, name, src_dir_fd=beside, dst_dir_fd=at, follow_symlinks=False)


def _write(at: int, name: str, entry: Entry, contents: Contents) -> None:
    fd = os.open(name, _CREATE, 0o600, dir_fd=at)
    try:
        parts = contents.take(entry) if entry.extents else iter(())
        first = next(parts, (0, memoryview(b"")))  # what is wrong with the data is said before the size is believed
        os.ftruncate(fd, entry.size)
        for offset, data in chain([first], parts):
            while data:
                count = os.pwrite(fd, data, offset)
                data, offset = data[count:], offset + count
    finally:
        os.close(fd)


def dress(at: int, name: str, entry: Entry) -> None:
    """Owner, mode, attributes, time: in this order, since chown takes away setuid and capabilities, and chmod
    changes the mask of an ACL. By a descriptor: under the name may be a link to somewhere else by now."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) != KINDS[entry.kind]:
            raise OSError(errno.ESTALE, "somebody else has put something in its place", name)
        path = Path(f"/proc/self/fd/{fd}")
        os.chown(path, entry.uid, entry.gid)
        if entry.kind != "symlink":
            path.chmod(entry.mode)
        for xattr, value in entry.xattrs.items():
            if is_carried(xattr):
                os.setxattr(path, xattr, value)
        os.utime(path, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(fd)


@contextmanager
def _translated(into: Path, entry: Entry) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FORGED:
            raise Corrupt(f"{_INDEX} is changed: {entry.path!r}: {error.strerror}") from error
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"free some space in {into}"
        raise Failure(f"cannot make {into / entry.path}: {error.strerror}", hint=hint) from error
