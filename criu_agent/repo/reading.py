"""Read blobs back: the needed segments of the needed packs, every piece verified before a byte of it is used
(docs/format.md)."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import zstandard
from blake3 import blake3

from criu_agent.errors import Corrupt, NotFound
from criu_agent.model import Blob, Pack, Piece, Table
from criu_agent.repo.compare import HASH
from criu_agent.repo.opened import Opened, Recent, Segments, segments_of, wanted
from criu_agent.repo.packs import SEGMENT
from criu_agent.repo.table import ZEROS, part
from criu_agent.repo.windows import PAGE, WINDOW, page_count
from criu_agent.repo.workers import Advance, in_order, nothing, together

_GROUP = 2 << 20  # plain bytes of the pieces that a thread is given at a time
_AT_ONCE = 32  # parts of a blob, and so pieces, that `stream` unpacks at a time


class _Place(NamedTuple):
    """Where a part of a piece belongs: bytes [start, start + length) of it at an offset of a file."""

    fd: int
    offset: int
    start: int
    length: int


class _Span(NamedTuple):
    """Neighbouring segments of a pack."""

    pack: Pack
    first: int
    segments: int
    numbers: list[int]  # of the pieces in them that are needed


class Reader:
    """Reads what a manifest names. It may be used by several threads, and has nothing to be closed."""

    def __init__(self, *, table: Table, segments: Segments) -> None:
        self._table = table
        self._segments = segments
        self._recent = Recent(segments)

    def load(self, targets: Iterable[tuple[Blob, int]], *, advance: Advance = nothing) -> None:
        """Write each blob into its empty file (a descriptor): all at once, since a pack may have parts of several.

        Corrupt names pack and piece, before a wrong byte is written. `advance` is told plain bytes.
        """
        places: dict[int, list[_Place]] = {}
        for blob, fd in targets:
            os.ftruncate(fd, blob.size)
            advance(_place(blob, fd, places))
        self._read(places, lambda number, plain: _write(plain, places[number]), advance)

    def verify(self, *, advance: Advance = nothing) -> None:
        """Read every piece of the table once. Corrupt for the first one that is not as it should be."""
        self._read(range(len(self._table.pieces)), lambda _number, plain: len(plain), advance)

    def stream(self, blob: Blob, *, advance: Advance = nothing) -> Iterator[bytes]:
        """The bytes of a blob in order, in parts, each verified before it is handed out.

        No thread is left between two parts. Segments are kept: blobs that lie next to each other are not got twice.
        """
        needed = wanted(self._table, {number for number, _, _ in blob.extents if number != ZEROS})

        def work(number: int) -> bytes:
            piece = self._table.pieces[number]
            pack = self._table.packs[piece.pack]
            first, last = segments_of(piece)
            opened = _got(lambda: self._recent.read(pack, first, last, needed), pack, piece)
            return _plain(opened, first, pack, piece, zstandard.ZstdDecompressor(max_window_size=WINDOW))

        parts = _parts(blob)
        while some := list(islice(parts, _AT_ONCE)):
            numbers = list({number for number, _, _ in some if number != ZEROS})
            plain = dict(zip(numbers, together(work, numbers), strict=True))
            for number, start, length in some:
                yield bytes(length) if number == ZEROS else plain[number][start : start + length]
                advance(length)

    def pread(self, blob: Blob, offset: int, length: int) -> bytes:
        """`length` bytes of a blob from `offset` on, fewer at its end. Only the pieces that they lie in are read."""
        end = min(offset + length, blob.size)
        if offset >= end:
            return b""
        first, pages = offset // PAGE, page_count(end) - offset // PAGE
        extents = tuple(part(blob.extents, first, pages))
        whole = Blob(size=min((first + pages) * PAGE, blob.size) - first * PAGE, extents=extents)
        return b"".join(self.stream(whole))[offset - first * PAGE : end - first * PAGE]

    def located(self, blob: Blob) -> list[tuple[str, int, int]]:
        """Where its pages are, by the names of pieces: equal for two blobs, also of two tables, equal bytes."""
        names = self._table.pieces
        return [("" if piece == ZEROS else names[piece].name, first, count) for piece, first, count in blob.extents]

    def _read(self, numbers: Iterable[int], use: Callable[[int, bytes], int], advance: Advance) -> None:
        """use(number, plain bytes) of each of these pieces, by several threads."""

        def fetched(span: _Span) -> tuple[_Span, Opened]:
            first = self._table.pieces[span.numbers[0]]
            return span, _got(lambda: self._segments(span.pack, span.first, span.segments), span.pack, first)

        def groups() -> Generator[tuple[_Span, Opened, list[int]], None, None]:
            with closing(in_order(fetched, _spans(self._table, numbers), workers=1, ahead=2)) as spans:
                for span, opened in spans:
                    for group in _grouped(span.numbers, self._table):
                        yield span, opened, group

        def work(item: tuple[_Span, Opened, list[int]]) -> int:
            span, opened, group = item
            decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
            pieces = [(number, self._table.pieces[number]) for number in group]
            return sum(
                use(number, _plain(opened, span.first, span.pack, piece, decompressor)) for number, piece in pieces
            )

        with closing(in_order(work, groups())) as used:
            for done in used:
                advance(done)


def _place(blob: Blob, fd: int, places: dict[int, list[_Place]]) -> int:
    """Note where each part of the blob comes from; how many bytes of it are zeros."""
    offset = zeros = 0
    for number, start, length in _parts(blob):
        if number == ZEROS:
            zeros += length
        else:
            places.setdefault(number, []).append(_Place(fd, offset, start, length))
        offset += length
    return zeros


def _parts(blob: Blob) -> Iterator[tuple[int, int, int]]:
    """Its extents in bytes, zeros in parts of a window at most: (number of the piece, start in it, length)."""
    left = blob.size
    for number, first, count in blob.extents:
        length = min(left, count * PAGE)
        left -= length
        if number != ZEROS:
            yield number, first * PAGE, length
            continue
        while length:
            part = min(length, WINDOW)
            yield ZEROS, 0, part
            length -= part


def _spans(table: Table, numbers: Iterable[int]) -> Generator[_Span, None, None]:
    """What is to be got for these pieces: in the order of the packs, and only segments that a piece lies in."""
    pieces = table.pieces
    span: _Span | None = None
    for number in sorted(numbers, key=lambda number: (pieces[number].pack, pieces[number].offset)):
        first, last = segments_of(pieces[number])
        pack = table.packs[pieces[number].pack]
        if span and span.pack is pack and first <= span.first + span.segments:
            span.numbers.append(number)
            span = span._replace(segments=max(span.segments, last + 1 - span.first))
            continue
        if span:
            yield span
        span = _Span(pack, first, last + 1 - first, [number])
    if span:
        yield span


def _grouped(numbers: Iterable[int], table: Table) -> Iterator[list[int]]:
    group: list[int] = []
    length = 0
    for number in numbers:
        group.append(number)
        length += table.pieces[number].plain
        if length >= _GROUP:
            yield group
            group, length = [], 0
    if group:
        yield group


def _got(get: Callable[[], Opened], pack: Pack, piece: Piece) -> Opened:
    try:
        return get()
    except NotFound as error:
        raise _corrupt(pack, piece, "missing") from error


def _plain(opened: Opened, first: int, pack: Pack, piece: Piece, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """A piece out of the segments from `first` on, verified in the order of docs/format.md."""
    start = piece.offset - first * SEGMENT
    frame = memoryview(opened.plain)[start : start + piece.stored]
    if len(frame) < piece.stored:
        raise _corrupt(pack, piece, "truncated")
    try:
        parameters = zstandard.get_frame_parameters(frame)
        if parameters.content_size != piece.plain or parameters.window_size > WINDOW:
            raise _corrupt(pack, piece, "changed")
        plain = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _corrupt(pack, piece, "changed") from error
    if len(plain) != piece.plain or blake3(plain, key=opened.key).hexdigest(HASH) != piece.name:
        raise _corrupt(pack, piece, "changed")
    return plain


def _write(plain: bytes, places: Iterable[_Place]) -> int:
    """Put the parts of a verified piece where they belong; how many bytes that were."""
    done = 0
    for fd, offset, start, length in places:
        view = memoryview(plain)[start : start + length]
        done += length
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
    return done


def _corrupt(pack: Pack, piece: Piece, what: str) -> Corrupt:
    return Corrupt(
        f"piece {piece.name} of pack {pack.id} is {what}",
        hint="restore another snapshot: `criu-agent snapshots` lists them",
    )
