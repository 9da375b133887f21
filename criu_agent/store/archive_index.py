"""The parts of an archive that are not objects: first line, index, trailer (docs/format.md, "An exported file").

Pure: bytes in, values out. Both directions are here so that they cannot drift. Readers raise Corrupt; `what` names
the file in it.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3

from criu_agent.errors import Corrupt, Failure, Usage
from criu_agent.store.base import components
from criu_agent.store.document import behind_version_line, version_line

MAX_OBJECTS = 1 << 18
MAX_OBJECT = 1 << 27  # bytes
MAX_INDEX = 1 << 26  # bytes
MAX_NAME = 255  # bytes: its length is one byte
LINE = version_line("archive", 1)
MAX_LINE = 64  # bytes, in any version

_KIND = b"criu-agent archive "
_PLACE = struct.Struct("<QQ32s")
_NUMBERS = struct.Struct("<QQ")
TRAILER_SIZE = _NUMBERS.size + 32


class Place(NamedTuple):
    offset: int  # bytes from the start of the file
    length: int  # bytes
    checksum: bytes  # BLAKE3


class Trailer(NamedTuple):
    index_at: int  # bytes from the start of the file
    number: int  # of objects
    checksum: bytes  # BLAKE3 of the index and of both numbers


class IndexWriter:
    """Collects what the file ends with while the objects are written."""

    def __init__(self) -> None:
        self._index = bytearray()
        self._names = set[str]()
        self._end = len(LINE)

    def add(self, name: str, data: bytes) -> None:
        """The next object. Failure, and nothing is added, for one that no reader would take."""
        components(name)
        if name in self._names:
            raise Failure(f"the object {name} is to be exported twice")
        if len(name) > MAX_NAME or len(data) > MAX_OBJECT:
            raise Failure(f"the object {name} is too large for an archive: {len(data)} bytes")
        entry = bytes([len(name)]) + name.encode() + _PLACE.pack(self._end, len(data), blake3(data).digest())
        if len(self._names) == MAX_OBJECTS or len(self._index) + len(entry) > MAX_INDEX:
            raise Failure("these are more objects than one archive holds", hint="export fewer snapshots")
        self._names.add(name)
        self._index += entry
        self._end += len(data)

    def finish(self) -> bytes:
        """All that follows the last object."""
        numbers = _NUMBERS.pack(self._end, len(self._names))
        return bytes(self._index) + numbers + _checksum(self._index, numbers) + LINE


def first_line(head: bytes, what: str) -> bytes:
    """The first line in the first MAX_LINE bytes of a file."""
    if not head.startswith(_KIND):
        raise Corrupt(f"{what} is not an archive of criu-agent", hint="name a file that `export -e` wrote")
    line = head[: head.find(b"\n") + 1]
    if not line:
        raise changed(what, "its first line has no end")
    return line


def check_lines(first: bytes, last: bytes, what: str) -> None:
    """`last` is what the file ends with, b"" if that overlaps the first line. HostCannot for another version."""
    if first != last:
        raise changed(what, "it is truncated, or something follows its end")
    behind_version_line(first, "archive", 1, what)


def read_trailer(trailer: bytes, trailer_at: int, what: str) -> Trailer:
    """Numbers that are within the limits and within the file. Its checksum is for read_index to check."""
    index_at, number = _NUMBERS.unpack_from(trailer)
    if not len(LINE) <= index_at <= trailer_at:
        raise changed(what, "its index lies outside of it")
    if trailer_at - index_at > MAX_INDEX or number > MAX_OBJECTS:
        raise changed(what, "its index is larger than any that is written")
    return Trailer(index_at, number, trailer[_NUMBERS.size :])


def read_index(index: bytes, trailer: Trailer, what: str) -> dict[str, Place]:
    """Where each object is, by names in order: one behind the other and together all bytes before the index."""
    if _checksum(index, _NUMBERS.pack(trailer.index_at, trailer.number)) != trailer.checksum:
        raise changed(what, "its index is not what was written")
    places: dict[str, Place] = {}
    end = len(LINE)
    for name, place in _entries(index, what):
        if place.offset != end or place.length > MAX_OBJECT:
            raise changed(what, f"{name} is not where the object before it ends, or too large")
        if name in places or len(places) == trailer.number:
            raise changed(what, f"{name} is there twice, or is more than was counted")
        places[name] = place
        end += place.length
    if (end, len(places)) != (trailer.index_at, trailer.number):
        raise changed(what, "its index is not that of the objects before it")
    return {name: places[name] for name in sorted(places)}


def changed(what: str, why: str) -> Corrupt:
    return Corrupt(
        f"the archive {what} is changed: {why}", hint="copy it again from where it was made, or export again"
    )


def _entries(index: bytes, what: str) -> Iterator[tuple[str, Place]]:
    at = 0
    while at < len(index):
        place_at = at + 1 + index[at]
        if place_at + _PLACE.size > len(index):
            raise changed(what, "its index ends within an entry")
        yield _name(index[at + 1 : place_at], what), Place(*_PLACE.unpack_from(index, place_at))
        at = place_at + _PLACE.size


def _name(raw: bytes, what: str) -> str:
    try:
        name = raw.decode("ascii")
        components(name)
    except (ValueError, Usage) as error:
        raise changed(what, f"{raw!r} is not the name of an object") from error
    return name


def _checksum(index: bytes | bytearray, numbers: bytes) -> bytes:
    return blake3(index).update(numbers).digest()
