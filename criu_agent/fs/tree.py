"""Capture a directory tree, such as the upper layer of the box, or a single file (docs/format.md section 7).

`prepare` looks at everything while the tree's owner still runs, and copies what is new. `capture` is quick and runs
while he is frozen: it lists the tree again and reads what has changed since. `save` compresses and stores, when he
may run again. What the snapshot before has of a file that is as it was then is taken over and not read at all.
"""

import io
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from criu_agent import log
from criu_agent.errors import Failure, NoSpace
from criu_agent.fs import beneath, listing
from criu_agent.fs.entry import LINE_LIMIT, PAGE, Entry, to_line
from criu_agent.fs.excluded import matcher
from criu_agent.fs.listing import Left, Listing
from criu_agent.fs.scan import Found, Looking, linked, order
from criu_agent.fs.spool import Spool
from criu_agent.model import Blob, PageRun, Part, Source, Tree
from criu_agent.store.document import version_line

VERSIONS = (1, 2)  # that are read; the last one is written
_OWN_BLOB = 1 << 20  # a file with that much data does not share its blob
_GROUP = 256  # of smaller files so many share a blob, on average
_GROUP_MOST = 1024  # whatever they are called
_INDEX_PAGES = 12  # 2 to this power: more than a group has in the index
# A file that was changed so shortly before it was looked at may be changed again without another time: those of files
# are as coarse as a tick of the kernel, or two seconds on FAT.
_RACY = 2_000_000_000  # ns


# Stores sources, each read to its end before the next one is asked for; their blobs in the same order.
Save = Callable[[Iterable[Source]], Sequence[Blob]]
Known = Callable[[bytes], Found | None]
Inodes = Callable[[], frozenset[int]]
NOTHING = Left()


def nothing_known(_line: bytes) -> None:
    """Known for a tree that was never saved."""


def nothing_mapped() -> frozenset[int]:
    """Inodes for a tree of which nobody has a file mapped."""
    return frozenset()


class Capture:
    """The files of a tree, and where their contents are: in the snapshot before, copied to a spool, or in place.

    The spool is one file without a name, so nothing is left of it whoever dies.
    """

    def __init__(self, root: Path, spool: Path | None, *, known: Known, left: Left, mapped: Inodes) -> None:
        self.root = root
        self.left = left
        self._known = known
        self._mapped = mapped
        self._spool = Spool(root, spool) if spool else None
        self._listing = Listing(outputs=())
        self._late: list[bytes] = []  # lines of what had to wait for `freeze`
        self._more: list[bytes] = []  # lines of what is taken though excluded
        self._found: dict[bytes, Found] = {}
        self._linked: dict[bytes, Found] = {}  # by what the lines of all names of a file have in common
        self._settled = 0  # a file that was changed before this time, and is not mapped, is what its line says
        self._written = frozenset[int]()  # inodes of files that are mapped, and change without a trace in their times

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spool:
            self._spool.close()

    def look_ahead(self, check: Callable[[], object]) -> None:
        """List the tree, and take in what need not wait for `freeze`.

        Twice: the first time may take long enough for a change. The second listing is made by several processes, as
        that of the freeze, which is compared with it.
        """
        for _ in range(2):
            self._list(listing.shared(self._listing))
            with Looking(self.root) as looking:
                for line in (lines := sorted(self._listing.lines(), key=order)):
                    check()
                    self._take_early(looking, line)
        self._late = [line for line in lines if line not in self._found]

    def freeze(self, needed: Iterable[str]) -> None:
        before = self._listing
        self._list(before)
        with Looking(self.root) as looking, _read_from(self.root):
            self._more = list(_though_excluded(looking, self.left.globs, needed))
            new = [*self._listing.new_lines(before), *self._more]
            changed = set(map(listing.path_of, new))
            late = (line for line in self._late if listing.path_of(line) not in changed)
            for line in sorted((*late, *new), key=order):
                if line not in self._found:
                    self._take(looking, line)

    def pick(self, paths: Iterable[str]) -> None:
        """Take in these files alone, and the directories that lead to them. FileNotFoundError if one is not there."""
        wanted = {""}
        for path in paths:
            while path not in wanted:
                wanted.add(path)
                path = beneath.split(path)[0]
        with Looking(self.root) as looking:
            for path in wanted:
                at, name = looking.at(path)
                line = listing.line_of(os.stat(name, dir_fd=at, follow_symlinks=False), path)
                self._more.append(line)
                self._take(looking, line)

    @property
    def found(self) -> Iterator[Found]:
        """All files of the tree in the order of the index, their data placed in blobs."""
        return (one for _, group in self.groups for one in group)

    @cached_property
    def groups(self) -> list[tuple[str, list[Found]]]:
        """The same by the blobs that they share, and what these are called."""
        lines = sorted({*self._listing.lines(), *self._more}, key=order)
        # what is not in `_found` has vanished between its listing and its reading
        here = (self._found[line] for line in lines if line in self._found)
        return list(_placed(linked(here, self.left.mounts)))

    @property
    def unread(self) -> int:
        """Bytes that `save` reads."""
        pages = (one.entry.pages for one in self.found if not isinstance(one.place, Part))
        return sum(pages) * PAGE

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(one.entry for one in self.found)

    def is_settled(self, line: bytes) -> bool:
        """Whether a file that has the same line later is the same file."""
        return listing.ctime_of(line) < self._settled and listing.inode_of(line) not in self._written

    def pieces(self, files: Iterable[Found]) -> Iterator[tuple[int, int, int]]:
        """(fd, offset, length) of all data of these files, zeros behind each up to the end of a page: fd is -1.

        A descriptor is good until the next is asked for.
        """
        for one in files:
            if isinstance(one.place, int) and self._spool:
                yield self._spool.fd, one.place, one.entry.length
            else:
                with beneath.file(self.root, one.entry.path) as fd:
                    for offset, length in one.entry.extents:
                        yield fd, offset, length
            if padding := -one.entry.length % PAGE:
                yield -1, 0, padding

    def _list(self, like: Listing) -> None:
        """What was changed before, and what is mapped, is found out before anything is looked at."""
        self._settled, self._written = time.time_ns() - _RACY, self._mapped()
        self._listing = listing.read(self.root, self.left, like=like)

    def _take_early(self, looking: Looking, line: bytes) -> None:
        if line in self._found:
            return
        if known := self._known(line):
            self._found[line] = known
        elif self.is_settled(line):
            try:
                self._take(looking, line)
            except NoSpace:
                raise
            except (Failure, OSError) as error:  # it is being changed: `freeze` looks at it again
                log.debug("%s is not read ahead: %s", self.root, error)

    def _take(self, looking: Looking, line: bytes) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            entry, names = looking.entry(line), line.partition(b"/")[0]
            first = self._linked.get(names)
            if first and (first.entry.size, first.entry.extents) == (entry.size, entry.extents):
                self._found[line] = Found(line, entry, first.place)
                return
            place = self._spool.copy(looking, entry) if self._spool and entry.extents else None
            self._found[line] = Found(line, entry, place)
            if listing.links_of(line) > 1:
                self._linked[names] = self._found[line]


def prepare(
    root: Path,
    *,
    spool: Path | None,
    known: Known = nothing_known,
    left: Left = NOTHING,
    mapped: Inodes = nothing_mapped,
    check: Callable[[], object] = tuple,
) -> Capture:
    """Take in as much as is possible of the tree at `root` while its owner still runs; `capture` does the rest.

    known: what the snapshot before has of the file with that line. mapped: which inodes others have mapped shared at
    the moment. check is called before each file, and may raise. With a spool (a directory with room for the contents
    of what is not known) the owner may run again after the capture. Failure, with nothing left, if the tree cannot be
    listed or the spool is full.
    """
    made = Capture(root, spool, known=known, left=left, mapped=mapped)
    try:
        made.look_ahead(check)
    except BaseException:
        made.__exit__(None, None, None)
        raise
    return made


def capture(root: Path, *, spool: Path | None, before: Capture | None = None, needed: Iterable[str] = ()) -> Capture:
    """Take in the tree at `root`, whose owner is frozen or dead. before: what `prepare` made of it.

    With a spool (a directory with room for the contents) the owner may run again after this; without one the
    contents are read in place by `save`, until when the tree must not change. needed: paths in the tree that are
    taken though they are excluded. Failure, with nothing left, if it cannot be read or the spool is full.
    """
    taken = before or Capture(root, spool, known=nothing_known, left=NOTHING, mapped=nothing_mapped)
    try:
        taken.freeze(needed)
    except BaseException:
        taken.__exit__(None, None, None)
        raise
    return taken


def pick(root: Path, paths: Iterable[str]) -> Capture:
    """Take in these files of the tree at `root` alone, and the directories that lead to them.

    paths are relative, and none leads through a symlink. The contents are read in place by `save`. FileNotFoundError
    if one is not there.
    """
    taken = Capture(root, None, known=nothing_known, left=NOTHING, mapped=nothing_mapped)
    taken.pick(paths)
    return taken


def save(captured: Capture, store: Save, name: str) -> Tree:
    """Store the contents of a capture, then its index. `name` is what the tree is called in every snapshot."""
    *blobs, index = store(_sources(captured, name))
    return Tree(index=index, blobs=tuple(blobs))


def _sources(captured: Capture, name: str) -> Iterator[Source]:
    """The contents in groups, then the index. What a stream is called depends on no other file but the one before."""
    for stream, group in captured.groups:
        taken, pages = _taken(group)
        new = captured.pieces(one for one in group if one.entry.extents and not isinstance(one.place, Part))
        if pages:
            size = pages * PAGE
            yield Source(stream=f"{name}/{stream}", size=size, content=_Contents(new), taken=taken)
    index, runs = _index(captured)
    yield Source(stream=f"{name}/index", size=len(index), content=io.BytesIO(index), runs=runs)


def _index(captured: Capture) -> tuple[bytes, tuple[PageRun, ...]]:
    """The index, and numbers of its pages: each group begins at a page whose number depends on its name only.

    So a line that becomes longer, or is added, changes the pages of its group, and not all that follow.
    """
    parts: list[bytes] = []
    runs: list[PageRun] = []
    head = version_line("tree", VERSIONS[-1])
    for stream, group in captured.groups:
        lines = [to_line(one.entry) for one in group]
        if longest := [one for one, line in zip(group, lines, strict=True) if len(line) >= LINE_LIMIT - PAGE]:
            raise Failure(f"{captured.root / longest[0].entry.path} has too many holes to be captured")
        data = head + b"\n".join(lines)
        parts.append(data + b" " * (-(len(data) + 1) % PAGE) + b"\n")
        runs.append((zlib.crc32(os.fsencode(stream)) << _INDEX_PAGES, len(parts[-1]) // PAGE))
        head = b""
    return b"".join(parts), tuple(runs)


def _taken(group: Sequence[Found]) -> tuple[tuple[tuple[int, Part], ...], int]:
    """What the snapshot before has of the blob of a group, neighbours together; and how many pages the blob has."""
    taken: list[tuple[int, Part]] = []
    page = 0
    for one in group:
        if isinstance(one.place, Part):
            start, last = taken.pop() if taken else (page, one.place._replace(pages=0))
            if (page, last.blob, last.first + last.pages) == (start + last.pages, *one.place[:2]):
                taken.append((start, last._replace(pages=last.pages + one.place.pages)))
            else:
                taken += [(start, last), (page, one.place)]
        page += one.entry.pages
    return tuple(taken), page


def _placed(files: Iterable[Found]) -> Iterator[tuple[str, list[Found]]]:
    """All files, in groups that share a blob, and what that is called. Of those with data, blob and offset are set.

    A blob of its own for each of the 30,000 small files of a node_modules would make a long manifest. Where a group
    ends, and so what the next one is called, depends on names only: a file that changes moves no other group.
    """
    group: list[Found] = []
    blob = offset = count = 0
    before = ""  # the file that ended the group before
    for one in files:
        entry = one.entry
        if entry.length >= _OWN_BLOB:
            if group:
                yield f"after/{before}", group
            blob, before = blob + bool(count), entry.path
            yield f"file/{before}", [one._replace(entry=replace(entry, blob=blob, offset=0))]
            group, blob, offset, count = [], blob + 1, 0, 0
            continue
        group.append(one._replace(entry=replace(entry, blob=blob, offset=offset)) if entry.extents else one)
        offset, count = offset + entry.pages * PAGE, count + bool(entry.extents)
        if entry.extents and (zlib.crc32(os.fsencode(entry.path)) % _GROUP == 0 or count == _GROUP_MOST):
            yield f"after/{before}", group
            group, blob, offset, count, before = [], blob + 1, 0, 0, entry.path
    if group:
        yield f"after/{before}", group


def _though_excluded(looking: Looking, globs: Sequence[str], paths: Iterable[str]) -> Iterator[bytes]:
    """The lines of these paths and of what lies above them, where they are excluded."""
    excluded = matcher(globs)
    for path in paths:
        parts = path.split("/")
        above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        for one in above:
            if excluded(one):
                with suppress(FileNotFoundError, NotADirectoryError):
                    at, name = looking.at(one)
                    yield listing.line_of(os.stat(name, dir_fd=at, follow_symlinks=False), one)


@contextmanager
def _read_from(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"cannot read the files in {root}: {error}") from error


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
        buffer = buffer[: self._left]
        if self._fd < 0:
            buffer[:] = bytes(len(buffer))
        count = os.preadv(self._fd, [buffer], self._offset) if self._fd >= 0 else len(buffer)
        if not count:
            raise Failure("a file became shorter while it was captured")
        self._offset += count
        self._left -= count
        return count
