"""Save streams as blobs: only what the parent does not have (docs/format.md).

One thread reads batches of windows into buffers that are used again and again; the others hash, compare and compress
(repo.compare); packs are sealed and put meanwhile (repo.packs).
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue

from criu_agent.errors import Failure
from criu_agent.model import Blob, Extent, Pack, PageRun, Part, Piece, Readable, Source, Table, Tree
from criu_agent.repo import pages
from criu_agent.repo.compare import Keys, Known, Packed, Run, Slot, pack
from criu_agent.repo.packs import Writer
from criu_agent.repo.pages import Hashed, known_windows
from criu_agent.repo.table import ZEROS, part
from criu_agent.repo.windows import PAGE, Window, batches, page_count, runs_of, windows
from criu_agent.repo.workers import WORKERS, Advance, in_order, nothing

_SLOTS = WORKERS + 1  # one is filled while the others are worked on


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The snapshot before: its table and trees, and its page hashes if this host has them."""

    table: Table
    trees: Mapping[str, Tree] = field(default_factory=dict)
    hashed: dict[str, Hashed] | None = None


@dataclass(kw_only=True)
class _Stream:
    """What is known so far of a stream that is being saved."""

    source: Source
    runs: tuple[PageRun, ...]
    extents: list[Extent] = field(default_factory=list)
    windows: list[bytes] = field(default_factory=list)
    pages: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Task:
    stream: _Stream
    slot: Slot
    batch: list[Window]
    known: list[Known | None]


class Saving:
    """The streams of one snapshot. key is the run's key for names; without a parent everything is new.

    `save` may be called again and again; `finish` once, then the manifest is written, then `remember`.
    """

    def __init__(self, *, key: bytes, writer: Writer, parent: Parent | None = None) -> None:
        self._key = key
        self._keys = Keys.of(key)
        self._writer = writer
        self._parent = parent
        self._table = _Table(parent.table if parent else Table(packs=(), pieces=()))
        self._hashed: dict[str, Hashed] = {}
        self._slots = _Slots(_SLOTS)

    def save(self, sources: Iterable[Source], *, advance: Advance = nothing) -> list[Blob]:
        """A blob for each source, in their order; a source is read to its end before the next one is asked for.

        `advance` is told the plain bytes that are done since it was last called. Failure if a source ends early.
        Several threads are at work only during the call.
        """
        streams: list[_Stream] = []
        try:
            with closing(in_order(self._pack, self._tasks(sources, streams), ahead=WORKERS + 2)) as packing:
                for task, packed in packing:
                    self._place(task.stream, packed)
                    advance(packed.length)
            self._writer.wait()
        except BaseException:
            self._slots = _Slots(_SLOTS)  # what was not begun has not given its slot back
            raise
        finally:
            self._writer.stop()
        return [self._blob(stream) for stream in streams]

    def finish(self) -> Table:
        """Everything that was saved is durable; the table of its pieces, for the manifest."""
        self._writer.finish()
        return self._table.finished(self._writer.lengths)

    def remember(self, path: Path, snapshot_id: str) -> None:
        """Write the table of page hashes for the next snapshot, after this one has got its id."""
        pages.write(path, snapshot_id, self._key, self._hashed)

    def _tasks(self, sources: Iterable[Source], streams: list[_Stream]) -> Generator[_Task, None, None]:
        for source in sources:
            stream = _Stream(
                source=source, runs=((0, page_count(_unread(source))),) if source.taken else runs_of(source)
            )
            streams.append(stream)
            known = {} if source.taken else self._known(source.stream)
            for batch in batches(windows(_unread(source), stream.runs)):
                slot = self._slots.take()
                _fill(source.content, memoryview(slot.buffer)[: sum(window.length for window in batch)], source)
                before = [known.get(window.number) for window in batch]
                yield _Task(stream=stream, slot=slot, batch=batch, known=before)

    def _known(self, stream: str) -> dict[int, Known]:
        if not self._parent or not self._parent.hashed or stream not in self._parent.hashed:
            return {}
        return known_windows(self._parent.hashed[stream], self._parent.table.pieces)

    def _pack(self, task: _Task) -> tuple[_Task, Packed]:
        try:
            return task, pack(task.slot, task.batch, task.known, self._keys, self._table.has)
        finally:
            self._slots.give_back(task.slot)

    def _place(self, stream: _Stream, packed: Packed) -> None:
        for name, frame in packed.frames.items():
            if not self._table.has(name):  # another thread may have had the same piece meanwhile
                self._table.add(name, *self._writer.add(frame.data), len(frame.data), frame.plain)
        _append(stream.extents, packed.runs, self._table)
        stream.windows.append(packed.windows)
        stream.pages.append(packed.pages)

    def _blob(self, stream: _Stream) -> Blob:
        if stream.source.taken:
            return self._with_taken(stream)
        blob = Blob(size=stream.source.size, extents=tuple(stream.extents))
        self._hashed[stream.source.stream] = Hashed(
            size=blob.size,
            runs=stream.runs,
            extents=blob.extents,
            windows=b"".join(stream.windows),
            pages=b"".join(stream.pages),
        )
        return blob

    def _with_taken(self, stream: _Stream) -> Blob:
        """What was read of a stream, and between it what the parent has of it."""
        source, extents = stream.source, list[Extent]()
        at = read = 0
        for page, taken in source.taken:
            _append(extents, self._runs(part(stream.extents, read, page - at), new=True), self._table)
            _append(extents, self._runs(part(taken.blob.extents, taken.first, taken.pages)), self._table)
            at, read = page + taken.pages, read + page - at
        _append(extents, self._runs(part(stream.extents, read, page_count(source.size) - at), new=True), self._table)
        blob = Blob(size=source.size, extents=tuple(extents))
        hashed = self._parent.hashed.get(source.stream) if self._parent and self._parent.hashed else None
        whole = Part(hashed.blob, 0, page_count(blob.size)) if hashed else None
        if hashed and source.taken == ((0, whole),):  # the next snapshot may find a page of it changed
            self._hashed[source.stream] = replace(hashed, extents=blob.extents)
        return blob

    def _runs(self, extents: Iterable[Extent], *, new: bool = False) -> Iterator[Run]:
        """Extents of the new table, or of the parent's, as runs."""
        pieces = self._table.pieces if new else self._parent.table.pieces if self._parent else ()
        return (("" if piece == ZEROS else pieces[piece].name, first, count) for piece, first, count in extents)


class _Table:
    """The table of the new manifest as it grows: pieces are numbered as they are first used."""

    def __init__(self, parent: Table) -> None:
        self._parent = parent
        self._old = {piece.name: piece for piece in parent.pieces}
        self._numbers: dict[str, int] = {}
        self._pieces: list[Piece] = []
        self._packs: dict[str, int] = {}

    @property
    def pieces(self) -> Sequence[Piece]:
        return self._pieces

    def has(self, name: str) -> bool:
        return name in self._numbers or name in self._old

    def add(self, name: str, pack_id: str, offset: int, stored: int, plain: int) -> None:
        self._numbers[name] = len(self._pieces)
        number = self._packs.setdefault(pack_id, len(self._packs))
        self._pieces.append(Piece(name, number, offset, stored, plain))

    def number(self, name: str) -> int:
        if name not in self._numbers:
            old = self._old[name]
            self.add(name, self._parent.packs[old.pack].id, *old[2:])
        return self._numbers[name]

    def finished(self, lengths: dict[str, int]) -> Table:
        known = lengths | {one.id: one.length for one in self._parent.packs}
        return Table(packs=tuple(Pack(name, known[name]) for name in self._packs), pieces=tuple(self._pieces))


class _Slots:
    """A bounded number of them, made when they are needed and then kept."""

    def __init__(self, most: int) -> None:
        self._free: SimpleQueue[Slot] = SimpleQueue()
        self._left = most

    def take(self) -> Slot:
        """Waits for one if all are in use. By one thread only."""
        if self._left and self._free.empty():
            self._left -= 1
            return Slot()
        return self._free.get()

    def give_back(self, slot: Slot) -> None:
        self._free.put(slot)


def _append(extents: list[Extent], runs: Iterable[Run], table: _Table) -> None:
    """Runs as extents; the first one may continue what is there."""
    for name, first, count in runs:
        piece = table.number(name) if name else ZEROS
        if extents:
            last, start, length = extents[-1]
            if last == piece and (piece == ZEROS or start + length == first):
                extents[-1] = (piece, start, length + count)
                continue
        extents.append((piece, first, count))


def _unread(source: Source) -> int:
    """Bytes of it that are in its content."""
    return source.size - PAGE * sum(taken.pages for _, taken in source.taken)


def _fill(content: Readable, view: memoryview, source: Source) -> None:
    while view:
        count = content.readinto(view)
        if not count:
            raise Failure(f"{source.stream} ended before its {source.size} bytes while it was saved")
        view = view[count:]
