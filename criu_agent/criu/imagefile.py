"""CRIU's images wherever they are, and the messages in one of them (criu.org/Images).

An image begins with two u32 of magic; then u32 length and message, again and again. Whatever is not so is Corrupt.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from criu_agent.errors import Corrupt

SIZE_LIMIT = 256 << 20  # bytes of an image that is parsed; the largest is a pagemap, of 20 bytes for each range
_MAGIC = 8
_LENGTH = struct.Struct("<I")
_Kind = TypeVar("_Kind", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Images:
    """CRIU's images by name: their sizes in bytes, and read(name, offset, length), which gives all of these bytes.

    Only what is asked for is read: the images of memory may be larger than the memory of this host.
    """

    sizes: Mapping[str, int]
    read: Callable[[str, int, int], bytes]


def in_directory(path: Path) -> Images:
    """The images that lie in a directory."""

    def read(name: str, offset: int, length: int) -> bytes:
        with open(path / name, "rb") as file:
            return os.pread(file.fileno(), length, offset)

    return Images(sizes={one.name: one.stat().st_size for one in path.glob("*.img")}, read=read)


def messages(images: Images, name: str, kind: type[_Kind], *, start: int = 0) -> Iterator[_Kind]:
    """The messages of an image from number `start` on, all taken for `kind`."""
    for number, data in enumerate(split(whole(images, name), name)):
        if number >= start:
            yield parsed(kind, data, name)


def only(images: Images, name: str, kind: type[_Kind]) -> _Kind:
    """The first message of an image that has one."""
    for data in split(whole(images, name), name):
        return parsed(kind, data, name)
    raise wrong(name, "is empty")


def whole(images: Images, name: str) -> bytes:
    """All bytes of an image that is not one of memory."""
    size = images.sizes.get(name)
    if size is None:
        raise wrong(name, "is missing")
    if size > SIZE_LIMIT:
        raise wrong(name, f"has {size} bytes, which is more than {SIZE_LIMIT}")
    return read(images, name, 0, size)


def read(images: Images, name: str, offset: int, length: int) -> bytes:
    """Exactly these bytes of an image."""
    if not 0 <= offset <= offset + length <= images.sizes.get(name, -1):
        raise wrong(name, f"has no {length} bytes at {offset}")
    data = images.read(name, offset, length) if length else b""
    if len(data) != length:
        raise wrong(name, f"ends before {length} bytes at {offset}")
    return data


def wrong(name: str, what: str) -> Corrupt:
    """`what` completes "the image NAME ...". Images are verified before they are parsed: it was written like this."""
    return Corrupt(f"the image {name} {what}", hint="take another snapshot; this one cannot be restored either")


def split(data: bytes, name: str) -> Iterator[bytes]:
    """The messages in the bytes of an image."""
    if len(data) < _MAGIC:
        raise wrong(name, "is too short")
    at = _MAGIC
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise wrong(name, "ends in the middle of a message")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise wrong(name, "ends in the middle of a message")
        yield data[at : at + length]
        at += length


def parsed(kind: type[_Kind], data: bytes, name: str) -> _Kind:
    """A message of an image."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise wrong(name, f"has a message that is no {kind.DESCRIPTOR.name}") from error
