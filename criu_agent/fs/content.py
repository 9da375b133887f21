"""The content of one file of a captured tree: its data and its holes, and whether a file here begins with it."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from criu_agent.errors import Corrupt
from criu_agent.fs.entry import Entry

_PIECE = 1 << 20  # bytes that are read at once
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# The data of a file of a snapshot besides its holes: verified bytes, in pieces of any length.
Data = Callable[[Entry], Iterator[bytes]]


class Placed:
    """rebuild.Contents of a tree of which any file's data can be had."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def take(self, entry: Entry) -> Iterator[tuple[int, memoryview]]:
        """The data of a file: (offset in the file, bytes). Corrupt if there are less than its extents say."""
        pieces = self._data(entry) if entry.extents else iter(())
        rest = memoryview(b"")
        for offset, length in entry.extents:
            end = offset + length
            while offset < end:
                rest = rest or memoryview(next(pieces, b""))
                if not rest:
                    raise Corrupt(f"the index of a tree is changed: {entry.path!r} has more data than its blob")
                part, rest = rest[: end - offset], rest[end - offset :]
                yield offset, part
                offset += len(part)


@contextmanager
def opened(at: int, name: str) -> Iterator[int]:
    """A descriptor to read a regular file. OSError for what is none (any more), which is neither followed nor waited
    for."""
    fd = os.open(name, _READ, dir_fd=at)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ESTALE, "it changes while it is read", name)
        yield fd
    finally:
        os.close(fd)


def begins_with(fd: int, entry: Entry, data: Data) -> bool:
    """Whether the first bytes of an open file are those of the snapshot's.

    Data are compared with data, and of holes only what the file has in their place: a file that is all holes may have
    any size.
    """
    for offset, part in Placed(data).take(entry):
        if os.pread(fd, len(part), offset) != part:
            return False
    end = 0
    for offset, length in (*entry.extents, (entry.size, 0)):
        if not _is_zero(fd, end, offset):
            return False
        end = offset + length
    return True


def _is_zero(fd: int, start: int, end: int) -> bool:
    try:
        while start < end and (start := os.lseek(fd, start, os.SEEK_DATA)) < end:
            piece = os.pread(fd, min(_PIECE, end - start), start)
            if not piece or piece.count(0) != len(piece):
                return False
            start += len(piece)
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data from here on
            raise
    return True
