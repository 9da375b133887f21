"""The table of page hashes: what the streams of the last snapshot were, so that the next one finds out what changed.

A local file (docs/format.md). It may be lost or be of another snapshot: that costs space, nothing else.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from blake3 import blake3

from criu_agent import log
from criu_agent.model import Blob, Extent, PageRun, Piece
from criu_agent.repo.compare import HASH, Known, Run
from criu_agent.repo.table import ZEROS
from criu_agent.repo.windows import windows
from criu_agent.store.document import from_json, to_json, version_line

VERSION = 1
_CONTEXT = "criu-agent 2 page hashes"
_LINE = version_line("pages", VERSION)
_CHECKED = len(_LINE) + 32  # from here on everything is under the checksum
_HEADER = struct.Struct("<32sI")


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """A stream of a snapshot: how it was cut, where it is stored (the extents of its blob), and the hashes of its
    windows and of its pages, one after the other."""

    size: int
    runs: tuple[PageRun, ...]
    extents: tuple[Extent, ...]
    windows: bytes
    pages: bytes

    @property
    def blob(self) -> Blob:
        return Blob(size=self.size, extents=self.extents)


def known_windows(stream: Hashed, pieces: Sequence[Piece]) -> dict[int, Known]:
    """By their numbers. `pieces` is the table of the snapshot that the stream is of."""
    found: dict[int, Known] = {}
    parts = _Parts(stream.extents, pieces)
    at = 0
    for index, window in enumerate(windows(stream.size, stream.runs)):
        count = window.mask.bit_count()
        whole = stream.windows[index * HASH : (index + 1) * HASH]
        found[window.number] = Known(window.mask, whole, stream.pages[at : at + count * HASH], parts.take(count))
        at += count * HASH
    return found


class _Parts:
    """Extents, cut where windows end."""

    def __init__(self, extents: Sequence[Extent], pieces: Sequence[Piece]) -> None:
        self._runs: Iterator[Run] = (
            ("" if piece == ZEROS else pieces[piece].name, first, count) for piece, first, count in extents
        )
        self._rest: Run = ("", 0, 0)

    def take(self, pages: int) -> list[Run]:
        taken: list[Run] = []
        while pages:
            name, first, count = self._rest if self._rest[2] else next(self._runs)
            most = min(count, pages)
            taken.append((name, first, most))
            self._rest = (name, first + most if name else 0, count - most)
            pages -= most
        return taken


def write(path: Path, snapshot_id: str, key: bytes, streams: Mapping[str, Hashed]) -> None:
    """Replace the file. key is the run's key for names, snapshot_id the snapshot that these streams are of."""
    rows = [
        [name, one.size, list(chain.from_iterable(one.runs)), list(chain.from_iterable(one.extents))]
        for name, one in streams.items()
    ]
    document = to_json(rows)
    parts = [_HEADER.pack(bytes.fromhex(snapshot_id), len(document)), document]
    parts += [part for one in streams.values() for part in (one.windows, one.pages)]
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.writelines([_LINE, _checksum(key, parts), *parts])
    new.rename(path)  # not synced: a file that a power cut tore fails its checksum


def read(path: Path, snapshot_id: str, key: bytes) -> dict[str, Hashed] | None:
    """What `write` wrote for that snapshot; None if the file is not there, not whole, or of another one."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        log.debug("no page hashes: %s", error)
        return None
    if data[: len(_LINE)] != _LINE or len(data) < _CHECKED + _HEADER.size:
        log.info("%s is no table of page hashes", path)
        return None
    if data[len(_LINE) : _CHECKED] != _checksum(key, [data[_CHECKED:]]):
        log.info("%s is damaged", path)
        return None
    of, length = _HEADER.unpack_from(data, _CHECKED)
    if of.hex() != snapshot_id:
        log.info("%s is of snapshot %s", path, of.hex())
        return None
    start = _CHECKED + _HEADER.size
    return _streams(from_json(bytes(data[start : start + length]), str(path)), data[start + length :])


def _streams(rows: list[tuple[str, int, list[int], list[int]]], hashes: memoryview) -> dict[str, Hashed]:
    """It is our own, or it would have no checksum: the format is not checked again."""
    streams: dict[str, Hashed] = {}
    at = 0
    for name, size, flat, extents in rows:
        runs = tuple(zip(flat[::2], flat[1::2], strict=True))
        middle = at + HASH * sum(1 for _ in windows(size, runs))
        end = middle + HASH * sum(flat[1::2])
        streams[name] = Hashed(
            size=size,
            runs=runs,
            extents=tuple(zip(*[iter(extents)] * 3, strict=True)),
            windows=bytes(hashes[at:middle]),
            pages=bytes(hashes[middle:end]),
        )
        at = end
    return streams


def _checksum(key: bytes, parts: Sequence[bytes | memoryview]) -> bytes:
    hasher = blake3(key=blake3(key, derive_key_context=_CONTEXT).digest())
    for part in parts:
        hasher.update(part)
    return hasher.digest()
