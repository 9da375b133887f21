"""What a program or library says of itself (man 5 elf)."""

import os
import struct
from typing import IO, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment, NoteSegment

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 15, 29
_SEGMENT, _TAG = struct.Struct("<IIQQQQQQ"), struct.Struct("<QQ")
_TABLE = 64 << 20  # bytes that are taken in of any table
_CACHE = b"glibc-ld.so.cache1.1"
_CACHE_HEADER, _CACHE_ENTRY = 48, struct.Struct("<iIIIQ")  # flags, name, path, system version, capabilities


def build_id(file: IO[bytes]) -> str:
    """The GNU build id in hex; "" for one that has none, or is not ELF. The file must be seekable."""
    try:
        elf = ELFFile(file)
        for segment in elf.iter_segments("PT_NOTE"):
            for note in segment.iter_notes() if isinstance(segment, NoteSegment) else ():
                if note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"])
    except (ELFError, UnicodeDecodeError, ValueError, OverflowError):  # no ELF, or one that nobody could load
        pass
    return ""


def interpreter(file: IO[bytes]) -> str:
    """The path of the loader that a program names; "" for one that needs none."""
    try:
        for segment in ELFFile(file).iter_segments("PT_INTERP"):
            if isinstance(segment, InterpSegment):
                return str(segment.get_interp_name())
    except (ELFError, UnicodeDecodeError, ValueError, OverflowError):  # no ELF: a script, say
        pass
    return ""


def needed(fd: int) -> tuple[list[str], list[str]]:
    """The names of the libraries that it needs, and the directories where it has them looked for first.

    Of a 64-bit file of a little-endian machine; nothing of another one, or of one that is damaged. pyelftools takes
    10 ms for a file, and a Python environment may have a thousand.
    """
    try:
        segments = _segments(fd)
        dynamic = next((one for one in segments if one.kind == _PT_DYNAMIC), None)
        if dynamic is None:
            return [], []
        tags = list(_TAG.iter_unpack(_pread(fd, dynamic.size // _TAG.size * _TAG.size, dynamic.offset)))
        values = dict(tags)
        strings = _pread(fd, values[_DT_STRSZ], _file_offset(segments, values[_DT_STRTAB]))
    except (struct.error, OSError, LookupError, OverflowError):
        return [], []
    names = [_text(strings, value) for tag, value in tags if tag == _DT_NEEDED]
    places = [_text(strings, value) for tag, value in tags if tag in (_DT_RPATH, _DT_RUNPATH)]
    return names, [one for place in places for one in place.split(":") if one]


class _Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    size: int
    memory: int
    alignment: int


def _segments(fd: int) -> list[_Segment]:
    header = os.pread(fd, 64, 0)
    if header[:6] != b"\x7fELF\x02\x01":  # 64 bits, little endian
        return []
    offset, count = int.from_bytes(header[32:40], "little"), int.from_bytes(header[56:58], "little")
    return [_Segment(*one) for one in _SEGMENT.iter_unpack(_pread(fd, count * _SEGMENT.size, offset))]


def _file_offset(segments: list[_Segment], address: int) -> int:
    inside = (one for one in segments if one.kind == _PT_LOAD and 0 <= address - one.address < one.size)
    segment = next(inside, None)
    if segment is None:
        raise LookupError(address)
    return segment.offset + address - segment.address


def _pread(fd: int, length: int, offset: int) -> bytes:
    if length > _TABLE:
        raise LookupError(length)
    return os.pread(fd, length, offset)


def loader_cache(data: bytes) -> dict[str, list[str]]:
    """The paths by name in the bytes of /etc/ld.so.cache (glibc's dl-cache.h). What is damaged is left out."""
    start = data.find(_CACHE)  # an older format may be before it
    cache = data[start:] if start >= 0 else b""
    count = int.from_bytes(cache[len(_CACHE) : len(_CACHE) + 4], "little")
    found: dict[str, list[str]] = {}
    for at in range(
        _CACHE_HEADER, min(len(cache) - _CACHE_ENTRY.size, _CACHE_HEADER + count * _CACHE_ENTRY.size), 24
    ):
        _, name, path, _, _ = _CACHE_ENTRY.unpack_from(cache, at)
        found.setdefault(_text(cache, name), []).append(_text(cache, path))
    return found


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at)
    return data[at:end].decode(errors="replace") if end > at else ""
