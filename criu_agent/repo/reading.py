"""Read blobs back: the needed segments of the needed packs, every piece verified before a byte of it is used
(docs/format.md)."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import NamedTuple

import zstandard
from blake3 import blake3

from criu_agent.errors import Corrupt, NotFound
from criu_agent.model import Blob, Pack, Piece, Table
from criu_agent.repo.compare import HASH
from criu_agent.repo.packs import SEGMENT
from criu_agent.repo.table import ZEROS, part
from criu_agent.repo.windows import PAGE, WINDOW, page_count
from criu_agent.repo.workers import Advance, in_order, nothing

# segments(pack, first, count): their plain bytes, authentic; fewer only where the pack ends. NotFound if there is no
# such pack, Corrupt if it is not as it should be. It is called by several threads.
Segments = Callable[[Pack, int, int], bytes]

_GROUP = 2 << 20  # plain bytes of the pieces that a thread is given at a time
_FETCH = 4  # segments that `stream` gets at a time
_OPENED = 32  # segments that `stream` keeps
_STREAM_AHEAD = 32  # pieces


class _Place(NamedTuple):
    """Where a part of a piece belongs: bytes [start, start + length) of it at an offset of a file."""

    fd: int
    offset: int
    start: int
    length: int


class _Span(NamedTuple):
    """Neighbouring segments of a pack, and the pieces in them that are needed."""

    pack: Pack
    first: int
    segments: int
    pieces: list[Piece]


class Reader:
    """Reads what a manifest names. key is the run's key for names. It has nothing to be closed."""

    def __init__(self, *, table: Table, key: bytes, segments: Segments) -> None:
        self._table = table
        self._key = key
        self._segments = segments
        self._opened = _Opened(segments)

    def load(self, targets: Iterable[tuple[Blob, int]], *, advance: Advance = nothing) -> None:
        """Write each blob into its empty file (a descriptor): all at once, since a pack may have parts of several.

        Corrupt names pack and piece, before a wrong byte is written. `advance` is told plain bytes.
        """
        places: dict[int, list[_Place]] = {}
        for blob, fd in targets:
            os.ftruncate(fd, blob.size)
            advance(_place(blob, fd, places))
        self._read(places, lambda piece, plain: _write(plain, places[piece]), advance)

    def verify(self, *, advance: Advance = nothing) -> None:
        """Read every piece of the table once. Corrupt for the first one that is not as it should be."""
        everything = {number: [_Place(-1, 0, 0, one.plain)] for number, one in enumerate(self._table.pieces)}
        self._read(everything, lambda piece, plain: len(plain), advance)

    def stream(self, blob: Blob, *, advance: Advance = nothing) -> Iterator[bytes]:
        """The bytes of a blob in order, in pieces, each verified before it is handed out.

        Segments are kept for a while: blobs that lie next to each other are read without getting them twice.
        """
        pieces = {piece for piece, _, _ in blob.extents if piece != ZEROS}
        wanted = self._opened.wanted(self._table.packs, [self._table.pieces[number] for number in pieces])

        def work(item: tuple[int, int, int]) -> bytes:
            number, start, length = item
            if number == ZEROS:
                return bytes(length)
            piece = self._table.pieces[number]
            pack = self._table.packs[piece.pack]
            first, last = _segments_of(piece)
            data = _got(lambda: self._opened.read(pack, first, last, wanted), pack, piece)
            plain = self._plain(_frame(data, first, pack, piece), pack, piece, zstandard.ZstdDecompressor())
            return plain if length == len(plain) else plain[start : start + length]

        for data in in_order(work, _parts(blob), ahead=_STREAM_AHEAD):
            yield data
            advance(len(data))

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

    def _read(self, places: dict[int, list[_Place]], use: Callable[[int, bytes], int], advance: Advance) -> None:
        """use(number, plain bytes) of each piece, by several threads."""
        numbers = {self._table.pieces[number].name: number for number in places}

        def work(item: tuple[_Span, bytes, list[Piece]]) -> int:
            span, data, group = item
            decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
            done = 0
            for piece in group:
                plain = self._plain(_frame(data, span.first, span.pack, piece), span.pack, piece, decompressor)
                done += use(numbers[piece.name], plain)
            return done

        def fetched(span: _Span) -> tuple[_Span, bytes]:
            return span, _got(lambda: self._segments(span.pack, span.first, span.segments), span.pack, span.pieces[0])

        def groups() -> Iterator[tuple[_Span, bytes, list[Piece]]]:
            for span, data in in_order(fetched, _spans(self._table, places), workers=1, ahead=2):
                for group in _grouped(span.pieces):
                    yield span, data, group

        for done in in_order(work, groups()):
            advance(done)

    def _plain(self, frame: memoryview, pack: Pack, piece: Piece, decompressor: zstandard.ZstdDecompressor) -> bytes:
        try:
            parameters = zstandard.get_frame_parameters(frame)
            if parameters.content_size != piece.plain or parameters.window_size > WINDOW:
                raise _corrupt(pack, piece, "changed")
            plain = decompressor.decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise _corrupt(pack, piece, "changed") from error
        if len(plain) != piece.plain or blake3(plain, key=self._key).hexdigest(HASH) != piece.name:
            raise _corrupt(pack, piece, "changed")
        return plain


class _Opened:
    """The segments that were read last."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._kept: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
        self._lock = Lock()

    def wanted(self, packs: Sequence[Pack], pieces: Iterable[Piece]) -> set[tuple[str, int]]:
        """All segments that these pieces lie in."""
        found: set[tuple[str, int]] = set()
        for piece in pieces:
            first, last = _segments_of(piece)
            found.update((packs[piece.pack].id, number) for number in range(first, last + 1))
        return found

    def read(self, pack: Pack, first: int, last: int, wanted: set[tuple[str, int]]) -> bytes:
        """The bytes of these segments. What is not kept is got, together with what is wanted behind it."""
        with self._lock:
            mine = self._claim(pack, first, last, wanted)
            needed = [self._kept[pack.id, number] for number in range(first, last + 1)]
        if mine:
            self._get(pack, mine)
        return b"".join(one.result() for one in needed) if len(needed) > 1 else needed[0].result()

    def _claim(self, pack: Pack, first: int, last: int, wanted: set[tuple[str, int]]) -> dict[int, Future[bytes]]:
        """Mark what the caller has to get: neighbouring segments."""
        for number in range(first, last + 1):
            if (pack.id, number) in self._kept:
                self._kept.move_to_end((pack.id, number))
        missing = [number for number in range(first, last + 1) if (pack.id, number) not in self._kept]
        if not missing:
            return {}
        number = missing[-1]
        while (pack.id, number + 1) in wanted and len(missing) < _FETCH and (pack.id, number + 1) not in self._kept:
            number += 1
            missing.append(number)
        mine: dict[int, Future[bytes]] = {number: Future() for number in range(missing[0], missing[-1] + 1)}
        self._kept.update({(pack.id, number): future for number, future in mine.items()})
        while len(self._kept) > _OPENED:
            self._kept.popitem(last=False)
        return mine

    def _get(self, pack: Pack, mine: dict[int, Future[bytes]]) -> None:
        first = min(mine)
        try:
            data = self._segments(pack, first, len(mine))
        except BaseException as error:
            with self._lock:
                for number in mine:
                    self._kept.pop((pack.id, number), None)
            for future in mine.values():
                future.set_exception(error)
            raise
        for number, future in mine.items():
            start = (number - first) * SEGMENT
            future.set_result(data[start : start + SEGMENT])


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


def _spans(table: Table, numbers: Iterable[int]) -> Iterator[_Span]:
    """What is to be got for these pieces: in the order of the packs, and only segments that a piece lies in."""
    needed = sorted((table.pieces[number] for number in numbers), key=lambda piece: (piece.pack, piece.offset))
    span: _Span | None = None
    for piece in needed:
        first, last = _segments_of(piece)
        if span and span.pack is table.packs[piece.pack] and first <= span.first + span.segments:
            span.pieces.append(piece)
            span = span._replace(segments=max(span.segments, last + 1 - span.first))
            continue
        if span:
            yield span
        span = _Span(table.packs[piece.pack], first, last + 1 - first, [piece])
    if span:
        yield span


def _grouped(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    length = 0
    for piece in pieces:
        group.append(piece)
        length += piece.plain
        if length >= _GROUP:
            yield group
            group, length = [], 0
    if group:
        yield group


def _segments_of(piece: Piece) -> tuple[int, int]:
    return piece.offset // SEGMENT, (piece.offset + piece.stored - 1) // SEGMENT


def _got(get: Callable[[], bytes], pack: Pack, piece: Piece) -> bytes:
    try:
        return get()
    except NotFound as error:
        raise _corrupt(pack, piece, "missing") from error


def _frame(data: bytes, first: int, pack: Pack, piece: Piece) -> memoryview:
    """The piece's frame in the segments from `first` on."""
    start = piece.offset - first * SEGMENT
    frame = memoryview(data)[start : start + piece.stored]
    if len(frame) < piece.stored:
        raise _corrupt(pack, piece, "truncated")
    return frame


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
