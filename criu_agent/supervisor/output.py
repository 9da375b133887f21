"""The log of a run's output: records of stream, time and bytes, in a file that is rotated at a size.

A record is: u8 stream (1 standard output or terminal, 2 standard error), u64 time in ns since 1970, u32 length,
all big-endian, then the bytes.
"""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
            os.close(self._fd)
            self._path.replace(older(self._path))
            self._open()

    def close(self) -> None:
        os.close(self._fd)


def older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def records(path: Path, *, offset: int = 0) -> Iterator[tuple[int, Record]]:
    """The complete records from `offset` on, each with the offset behind it."""
    with open(path, "rb") as file:
        file.seek(offset)
        while len(header := file.read(_RECORD.size)) == _RECORD.size:
            stream, time_ns, length = _RECORD.unpack(header)
            data = file.read(length)
            if len(data) < length:
                return
            offset += _RECORD.size + length
            yield offset, Record(stream=_NAMES.get(stream, "stdout"), time_ns=time_ns, data=data)
