"""The small images of a dump, read whole and changed in place (criu.imagefile has what they are)."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from criu_agent.criu.imagefile import parsed, split, wrong

_HEADER = 8
_LENGTH = struct.Struct("<I")
_LARGEST = 16 << 20  # bytes of an image that is read whole here: some hundred thousand open files
_Kind = TypeVar("_Kind", bound=Message)


def small(path: Path, kind: type[_Kind]) -> list[_Kind]:
    """The messages of a small image; none if it is not there. Corrupt for what CRIU has not written."""
    if not path.exists():
        return []
    if path.stat().st_size > _LARGEST:
        raise wrong(path.name, f"has more than {_LARGEST} bytes")
    found: list[_Kind] = []
    for message in split(path.read_bytes(), path.name):
        if not message:  # of a file of zeros there would be millions
            raise wrong(path.name, "has an empty message")
        found.append(parsed(kind, message, path.name))
    return found


def rewrite(path: Path, messages: Iterable[bytes]) -> None:
    """Replace all messages of an image."""
    with open(path, "r+b") as file:
        file.truncate(_HEADER)
    for message in messages:
        append(path, message)


def append(path: Path, message: bytes) -> None:
    with open(path, "ab") as file:
        file.write(_LENGTH.pack(len(message)) + message)
