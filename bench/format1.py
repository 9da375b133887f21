"""The chunks of repository format 1 as they were, only to be measured against."""

import io
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol, TypeVar

import zstandard
from blake3 import blake3

from criu_agent.errors import Corrupt, Failure, NotFound
from criu_agent.store.base import Store

CHUNK_SIZE = 1 << 20
LEVEL = 1
_HEADER = struct.Struct("<I32s")  # length of the frame, its BLAKE3
_FRAME_LIMIT = CHUNK_SIZE + (1 << 16)  # above ZSTD_compressBound(CHUNK_SIZE)
_ZEROS = bytes(CHUNK_SIZE)
_WORKERS = min(8, 2 * (os.cpu_count() or 1))  # twice the cores: half of them wait for fsync


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Of format 1: a size and the names of chunks in order; "" is a chunk of zero bytes, which is not stored."""

    size: int
    chunks: tuple[str, ...]


Advance = Callable[[int], None]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


def nothing(_done: int) -> None:
    """An Advance that tells nobody."""


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """What one chunk needs on its way: a buffer that was touched before (a fresh page costs more than to copy
    one, lab/performance.md section 0) and a compressor."""

    buffer: bytearray
    compressor: zstandard.ZstdCompressor = field(default_factory=lambda: zstandard.ZstdCompressor(level=LEVEL))


def save(store: Store, source: Readable | int, size: int, *, advance: Advance = nothing) -> tuple[Blob, int]:
    """Store `size` bytes of a file object or descriptor, from its position on.

    Returns the blob and how many bytes of objects are new in the store. `advance` is told the number of plain
    bytes that are done since it was last called. Failure if the source ends early.
    """
    reader: Readable = io.FileIO(source, closefd=False) if isinstance(source, int) else source
    slots: SimpleQueue[_Slot] = SimpleQueue()
    count = min(_count(size), 2 * _WORKERS)
    for _ in range(count):
        slots.put(_Slot(buffer=bytearray(min(size, CHUNK_SIZE))))

    def filled() -> Iterator[tuple[_Slot, int]]:
        for length in _lengths(size):
            slot = slots.get()
            _fill(reader, memoryview(slot.buffer)[:length], size)
            yield slot, length

    def work(item: tuple[_Slot, int]) -> tuple[str, int, int]:
        slot, length = item
        try:
            return *_save_chunk(store, slot, length), length
        finally:
            slots.put(slot)

    names: list[str] = []
    added = 0
    for name, new, length in _in_order(work, filled(), _count(size)):
        names.append(name)
        added += new
        advance(length)
    return Blob(size=size, chunks=tuple(names)), added


def load(store: Store, blob: Blob, fd: int, *, advance: Advance = nothing) -> None:
    """Write a blob into the empty file `fd`, each chunk verified before; chunks of zeros become holes."""
    os.ftruncate(fd, blob.size)

    def work(item: tuple[int, str, int]) -> int:
        offset, name, length = item
        if name:
            _write_all(fd, read_chunk(store, name, length), offset)
        return length

    lengths = _lengths(blob.size)
    items = [(number * CHUNK_SIZE, *pair) for number, pair in enumerate(zip(blob.chunks, lengths, strict=True))]
    for length in _in_order(work, items, len(items)):
        advance(length)


def read_chunk(store: Store, name: str, length: int) -> bytes:
    """The `length` plain bytes of a chunk, verified in the order of docs/format.md section 5."""
    if not name:
        return _ZEROS[:length]
    try:
        stored = store.get(object_name(name), _HEADER.size + _FRAME_LIMIT + 1)
    except NotFound as error:
        raise _corrupt(name, "missing") from error
    return _unpacked(name, stored, length)


def object_name(name: str) -> str:
    """Where a chunk lies in the store."""
    return f"chunks/{name[:2]}/{name}"


def _unpacked(name: str, stored: bytes, length: int) -> bytes:
    if len(stored) < _HEADER.size:
        raise _corrupt(name, "truncated")
    frame_length, digest = _HEADER.unpack_from(stored)
    frame = memoryview(stored)[_HEADER.size :]
    if len(frame) < frame_length:
        raise _corrupt(name, "truncated")
    if len(frame) > frame_length or blake3(frame).digest() != digest:
        raise _corrupt(name, "changed")
    try:
        if zstandard.get_frame_parameters(frame).content_size != length:
            raise _corrupt(name, "changed")
        plain = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _corrupt(name, "changed") from error
    if blake3(plain).hexdigest() != name:
        raise _corrupt(name, "changed")
    return plain


def _save_chunk(store: Store, slot: _Slot, length: int) -> tuple[str, int]:
    """Name the chunk in the slot, and store it if it is new: the name, and the bytes that this took."""
    plain = memoryview(slot.buffer)[:length]
    # bytearray == bytes is one memcmp; a memoryview would be compared element by element
    if slot.buffer.startswith(_ZEROS[:length]):
        return "", 0
    name = blake3(plain).hexdigest()
    if store.size(object_name(name)) is not None:
        return name, 0
    frame = slot.compressor.compress(plain)
    stored = _HEADER.pack(len(frame), blake3(frame).digest()) + frame
    return name, len(stored) if store.put(object_name(name), stored) else 0


def _fill(reader: Readable, view: memoryview, size: int) -> None:
    while view:
        count = reader.readinto(view)
        if not count:
            raise Failure(f"a file of {size} bytes ended early while it was saved")
        view = view[count:]


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def _count(size: int) -> int:
    return -(-size // CHUNK_SIZE)


def _lengths(size: int) -> list[int]:
    """The plain length of each chunk of a blob of that size."""
    return [min(CHUNK_SIZE, size - start) for start in range(0, size, CHUNK_SIZE)]


def _in_order(work: Callable[[_Item], _Result], items: Iterable[_Item], count: int) -> Iterator[_Result]:
    """work(item) of each item, by several threads but in the items' order, not far ahead of the consumer."""
    if count <= 1:
        yield from map(work, items)
        return
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(min(_WORKERS, count)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= 2 * _WORKERS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _corrupt(name: str, what: str) -> Corrupt:
    return Corrupt(f"chunk {name} is {what}", hint="restore another snapshot: `criu-agent snapshots` lists them")
