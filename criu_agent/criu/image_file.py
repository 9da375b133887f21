"""One of CRIU's image files (criu.org/Images): two u32 of magic, then u32 length and message, again and again."""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_HEADER = 8
_LENGTH = struct.Struct("<I")


def messages(path: Path) -> Iterator[bytes]:
    """The messages of an image, none if there is no such file. ValueError when it ends in the middle of one."""
    if not path.exists():
        return
    data = path.read_bytes()
    at = _HEADER
    while at < len(data):
        begin = at + _LENGTH.size
        at = begin + int.from_bytes(data[at:begin], "little")
        if max(begin, at) > len(data):
            raise ValueError(f"{path.name} is cut off")
        yield data[begin:at]


def rewrite(path: Path, messages: Iterable[bytes]) -> None:
    """Replace all messages of an image."""
    with open(path, "r+b") as file:
        file.truncate(_HEADER)
    for message in messages:
        append(path, message)


def append(path: Path, message: bytes) -> None:
    with open(path, "ab") as file:
        file.write(_LENGTH.pack(len(message)) + message)
