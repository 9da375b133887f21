"""The log of a run's output: records of stream, time and bytes, in a file that is rotated at a size.

A record is: u8 stream (1 standard output or terminal, 2 standard error), u64 time in ns since 1970, u32 length,
all big-endian, then the bytes.
"""

import os
import re
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_RECORD = struct.Struct(">BQI")
ROTATE_AT = 64 << 20  # bytes; one older file is kept
_STREAMS = {"stdout": 1, "stderr": 2}
_NAMES = {number: name for name, number in _STREAMS.items()}


@dataclass(frozen=True, kw_only=True)
class Record:
    stream: str
    time_ns: int
    data: bytes


class OutputLog:
    """The writer's end. A full disk must not stop the agent: what cannot be logged is counted and left out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lost = 0
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        record = _RECORD.pack(_STREAMS[stream], time.time_ns(), len(data)) + data
        try:
            written = os.write(self._fd, record)
            if written < len(record):  # half a record would hide all that come after it
                os.ftruncate(self._fd, self._size)
                written = 0
        except OSError:
            written = 0
        self._size += written
        self.lost += 0 if written else len(data)
        if self._size >= ROTATE_AT:
            self._rotate()

    def _rotate(self) -> None:
        full = self._fd
        try:
            if self._path.exists():  # else it was moved, and the disk had no room for a new one
                self._path.replace(older(self._path))
            self._open()
        except OSError:
            return  # it grows until there is room
        os.close(full)

    def close(self) -> None:
        os.close(self._fd)


def older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def records(path: Path) -> Iterator[Record]:
    """The complete records of one file."""
    with open(path, "rb") as file:
        yield from _complete(file)


def _complete(file: IO[bytes]) -> Iterator[Record]:
    """The complete records from the file's position on, which is behind the last of them then."""
    while True:
        start = file.tell()
        header = file.read(_RECORD.size)
        stream, time_ns, length = _RECORD.unpack(header) if len(header) == _RECORD.size else (0, 0, 0)
        data = file.read(length)
        if not header or len(header) < _RECORD.size or len(data) < length:
            file.seek(start)
            return
        yield Record(stream=_NAMES.get(stream, "stdout"), time_ns=time_ns, data=data)


def follow(path: Path) -> Iterator[Record | None]:
    """All records that are kept, then those that come, over rotations; None whenever there is no more for now."""
    while not path.exists():
        yield None
    file = open(path, "rb")  # noqa: SIM115 - closed below, when it was rotated
    with suppress(FileNotFoundError), open(older(path), "rb") as before:
        if not os.path.sameopenfile(before.fileno(), file.fileno()):
            yield from _complete(before)
    while True:
        with file:
            while True:
                rotated = not _is(path, file)
                yield from _complete(file)
                if rotated:
                    break
                yield None
        file = open(path, "rb")  # noqa: SIM115


def _is(path: Path, file: IO[bytes]) -> bool:
    """Whether the path still names the open file; also while a rotation has not made the new one yet."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A line, or a part of one that was printed by itself. line counts the lines of both streams by their beginnings.

    begins: it is the first piece of its line. newest is the number of the newest line up to here.
    """

    stream: str
    time_ns: int
    data: bytes
    line: int
    newest: int
    begins: bool


def pieces(found: Iterable[Record | None]) -> Iterator[Piece | None]:
    """Cut records at the ends of lines; None is passed on."""
    newest = 0
    unfinished: dict[str, int] = {}
    for record in found:
        if record is None:
            yield None
            continue
        for data in re.findall(rb"[^\n]*\n|[^\n]+", record.data):
            begins = record.stream not in unfinished
            newest += begins
            line = newest if begins else unfinished[record.stream]
            if data.endswith(b"\n"):
                unfinished.pop(record.stream, None)
            else:
                unfinished[record.stream] = line
            yield Piece(
                stream=record.stream, time_ns=record.time_ns, data=data, line=line, newest=newest, begins=begins
            )
