"""Capture a directory tree, such as the upper layer of the box, in two steps (docs/format.md section 7).

`capture` is quick and runs while the tree's owner is frozen; `save` compresses and stores, when it may run again.
"""

import errno
import io
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

from criu_agent.errors import Failure, NoSpace
from criu_agent.fs import beneath
from criu_agent.fs.entry import LINE_LIMIT, Entry, to_line
from criu_agent.fs.scan import scan
from criu_agent.model import Blob, Source, Tree
from criu_agent.store.document import version_line

VERSION = 1
_OWN_BLOB = 1 << 20  # a file with that much data does not share its blob
_GROUP = 256  # of smaller files so many share a blob, on average
_BLOCK = 4096
_NOT_BETWEEN = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


# Stores sources, each read to its end before the next one is asked for; their blobs in the same order.
Save = Callable[[Iterable[Source]], Sequence[Blob]]


class Capture:
    """The entries of a tree, and where their contents are: copied to a spool, or still in place.

    The spool is one file without a name, so nothing is left of it whoever dies.
    """

    def __init__(
        self,
        root: Path,
        entries: tuple[Entry, ...],
        spool: IO[bytes] | None = None,
        offsets: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.root = root
        self.entries = entries
        self._spool = spool
        self._offsets = offsets  # of each path's data in the spool

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spool:
            self._spool.close()

    def pieces(self, entries: Sequence[Entry]) -> Iterator[tuple[int, int, int]]:
        """(fd, offset, length) of all data of these files. A descriptor is good until the next is asked for."""
        for entry in entries:
            if self._spool:
                yield self._spool.fileno(), self._offsets[entry.path], entry.length
                continue
            with beneath.file(self.root, entry.path) as fd:
                for offset, length in entry.extents:
                    yield fd, offset, length


def capture(root: Path, *, spool: Path | None) -> Capture:
    """Take in the tree at `root`, whose owner is frozen or dead.

    With a spool (a directory with room for the contents) the owner may run again after this; without one the
    contents are read in place by `save`, until when the tree must not change. Failure, with nothing left, if
    it cannot be read or the spool is full.
    """
    entries = scan(root)
    if spool is None:
        return Capture(root, entries)
    try:
        with ExitStack() as undo:
            file = undo.enter_context(tempfile.TemporaryFile(dir=spool))
            offsets = _copy_contents(root, entries, file.fileno())
            undo.pop_all()  # from here on the capture owns the spool
            return Capture(root, entries, file, offsets)
    except OSError as error:
        message = f"cannot copy the files of {root} to {spool}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(message, hint=f"free some space in {spool}") from error
        raise Failure(message) from error


def save(captured: Capture, store: Save, name: str) -> Tree:
    """Store the contents of a capture, then its index. `name` is what the tree is called in every snapshot."""
    *blobs, index = store(_sources(captured, name))
    return Tree(index=index, blobs=tuple(blobs))


def _sources(captured: Capture, name: str) -> Iterator[Source]:
    """The contents in groups, then the index. What a stream is called depends on no other file but the one before."""
    placed: dict[str, Entry] = {}
    for number, (stream, group) in enumerate(_groups(captured.entries)):
        offset = 0
        for entry in group:
            placed[entry.path] = replace(entry, blob=number, offset=offset)
            offset += entry.length
        yield Source(stream=f"{name}/{stream}", size=offset, content=_Contents(captured.pieces(group)))
    lines = [version_line("tree", VERSION)]
    for entry in captured.entries:
        line = to_line(placed.get(entry.path, entry)) + b"\n"
        if len(line) > LINE_LIMIT:
            raise Failure(f"{captured.root / entry.path} has too many holes to be captured")
        lines.append(line)
    index = b"".join(lines)
    yield Source(stream=f"{name}/index", size=len(index), content=io.BytesIO(index))


def _groups(entries: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """The files that share a blob, in order, and what that is called.

    A blob of its own for each of the 30,000 small files of a node_modules would make a long manifest. Where a group
    ends, and so what the next one is called, depends on names only: a file that changes does not move the contents of
    the groups after it.
    """
    group: list[Entry] = []
    before = ""  # the file that ended the group before
    for entry in entries:
        if not entry.extents:
            continue
        if entry.length >= _OWN_BLOB:
            if group:
                yield f"after/{before}", group
            yield f"file/{entry.path}", [entry]
            group, before = [], entry.path
            continue
        group.append(entry)
        if zlib.crc32(os.fsencode(entry.path)) % _GROUP == 0:
            yield f"after/{before}", group
            group, before = [], entry.path
    if group:
        yield f"after/{before}", group


class _Contents:
    """The pieces one after the other, as a file object."""

    def __init__(self, pieces: Iterator[tuple[int, int, int]]) -> None:
        self._pieces = pieces
        self._fd, self._offset, self._left = -1, 0, 0

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return self._read(buffer)
        except OSError as error:
            raise Failure(f"cannot read a file that is captured: {error}") from error

    def _read(self, buffer: memoryview) -> int:
        if not self._left:
            self._fd, self._offset, self._left = next(self._pieces, (-1, 0, 0))
        if not self._left:
            return 0
        count = os.preadv(self._fd, [buffer[: self._left]], self._offset)
        if not count:
            raise Failure("a file became shorter while it was captured")
        self._offset += count
        self._left -= count
        return count


def _copy_contents(root: Path, entries: Sequence[Entry], spool: int) -> dict[str, int]:
    """Write the data of all files to the spool, and say where each begins."""
    offsets: dict[str, int] = {}
    end = 0
    for entry in entries:
        if not entry.extents:
            continue
        # at a block's start file systems with reflinks can share the data instead of copying it
        offsets[entry.path] = end = -(-end // _BLOCK) * _BLOCK
        with beneath.file(root, entry.path) as fd:
            for offset, length in entry.extents:
                _copy(fd, offset, spool, end, length)
                end += length
    return offsets


def _copy(source: int, offset: int, target: int, at: int, length: int) -> None:
    while length:
        try:
            count = os.copy_file_range(source, target, length, offset, at)
        except OSError as error:
            if error.errno not in _NOT_BETWEEN:
                raise
            os.lseek(target, at, os.SEEK_SET)
            count = os.sendfile(target, source, offset, length)
        if not count:
            raise Failure("a file became shorter while it was captured")
        offset, at, length = offset + count, at + count, length - count
