"""Packs as objects: encrypted in segments of 1 MiB that are read one by one (docs/format.md C6 and C7).

Measured, one core, CPU time, packs of 16 MiB from frames of 100 kB: 2.7 to 3.2 GB/s sealed, 4.0 to 4.5 opened. What
costs is not AES but touching fresh memory (all parts joined first, segments joined afterwards: 0.5 GB/s), so the
object is built in a place that its caller uses again, and one segment is staged at a time.
"""

import io
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from criu_agent.errors import Corrupt
from criu_agent.repo.secret import KEY, RunKeys, Secret, context, object_key
from criu_agent.store.document import behind_version_line, version_line

SEGMENT = 1 << 20  # plain bytes
TAG = 16
_LINE = version_line("pack", 2)
HEADER = len(_LINE) + 4 + KEY
_STEP = SEGMENT + TAG
_SEGMENTS = 1 << 32

Part = bytes | bytearray | memoryview


def seal(keys: RunKeys, pack_id: str, parts: Sequence[Part], room: memoryview) -> memoryview:
    """The object of the pack whose plain content is the parts one after the other (padding is the caller's).

    It is made at the beginning of `room`, which must hold `sealed_size` bytes.
    """
    return _seal(keys, pack_id, parts, secrets.token_bytes(KEY), room)


def padme(length: int) -> int:
    """`length` rounded up so that its size shows only the first few bits (docs/format.md C7)."""
    exponent = length.bit_length() - 1
    free = exponent - exponent.bit_length()
    return length if free <= 0 else -(-length >> free << free)


def sealed_size(plain: int) -> int:
    """How long the object of a pack with `plain` bytes is."""
    return HEADER + plain + TAG * _count(plain)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Segments `first` to `last` (inclusive) of a pack: the `length` bytes at `offset` of its object."""

    first: int
    last: int
    offset: int
    length: int


class Opener:
    """Opens segments of one pack. `keys` are those of the pack's generation: they name its pieces.

    May be used by several threads.
    """

    def __init__(self, secret: Secret, run_id: str, pack_id: str, plain: int, header: bytes) -> None:
        """For a pack of `plain` bytes (from its manifest), whose object begins with `header` (HEADER bytes or more).

        Corrupt, or HostCannot for another version.
        """
        self.plain = plain
        self._what = f"pack {pack_id}"
        behind = behind_version_line(header[:HEADER], "pack", 2, self._what)
        if len(behind) < 4 + KEY:
            raise self._corrupt("truncated")
        keys = secret.keys(run_id, int.from_bytes(behind[:4], "big"))
        if keys is None:
            raise self._corrupt("changed, or of newer keys than this host has opened")
        self.keys = keys
        self._cipher, self._bound_to = _cipher(keys, pack_id, behind[4 : 4 + KEY])

    def open(self, span: Span, data: Part) -> bytes:
        """The plain bytes of the span's segments; `data` is what the store has at its place. Corrupt."""
        if len(data) < span.length:
            raise self._corrupt("truncated")
        if len(data) > span.length:
            raise self._corrupt("changed: it is longer than its manifest says")
        output = _writable(self._plain_length(span))
        with memoryview(data) as view, output.getbuffer() as plain:
            for number in range(span.first, span.last + 1):
                start = (number - span.first) * SEGMENT
                end = min(start + SEGMENT, len(plain))
                sealed = view[start // SEGMENT * _STEP :][: end - start + TAG]
                self._open_segment(number, sealed, plain[start:end])
        return output.getvalue()

    def _open_segment(self, number: int, sealed: memoryview, plain: memoryview) -> None:
        nonce = _nonce(number, number == _count(self.plain) - 1)
        try:
            with plain:
                self._cipher.decrypt_into(nonce, sealed, self._bound_to, plain)
        except InvalidTag as error:
            raise self._corrupt(f"changed in segment {number}") from error

    def _plain_length(self, span: Span) -> int:
        return min((span.last + 1) * SEGMENT, self.plain) - span.first * SEGMENT

    def _corrupt(self, how: str) -> Corrupt:
        return Corrupt(f"{self._what} is {how}", hint="restore another snapshot: `criu-agent snapshots` lists them")


def span(plain: int, start: int, length: int) -> Span:
    """Where the segments are that hold `length` >= 1 plain bytes from `start` on, in a pack of `plain` bytes.

    ValueError for what does not lie in the pack: a manifest was checked before.
    """
    if not 0 <= start < start + length <= plain:
        raise ValueError(f"bytes {start} to {start + length} do not lie in a pack of {plain}")
    first, last = start // SEGMENT, (start + length - 1) // SEGMENT
    offset = HEADER + first * _STEP
    return Span(first=first, last=last, offset=offset, length=min((last + 1) * _STEP, _end(plain)) - first * _STEP)


def _end(plain: int) -> int:
    """Bytes of all segments."""
    return plain + TAG * _count(plain)


def _count(plain: int) -> int:
    return -(-plain // SEGMENT)


def _nonce(number: int, last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes([last])


def _cipher(keys: RunKeys, pack_id: str, salt: bytes) -> tuple[AESGCM, bytes]:
    """The cipher of one pack, and the additional data of its segments."""
    place = context("pack", keys.repository, f"packs/{keys.run_id}/{pack_id}")
    bound_to = place + keys.generation.to_bytes(4, "big")
    return AESGCM(object_key(keys.pack, salt, bound_to)), bound_to


def _seal(keys: RunKeys, pack_id: str, parts: Sequence[Part], salt: bytes, room: memoryview) -> memoryview:
    """`salt` must never be used twice: it makes the key, and nonces are counted."""
    plain = sum(map(len, parts))
    if not 0 < plain <= SEGMENT * _SEGMENTS:
        raise ValueError(f"a pack of {plain} bytes")
    cipher, bound_to = _cipher(keys, pack_id, salt)
    last = _count(plain) - 1
    room[:HEADER] = _LINE + keys.generation.to_bytes(4, "big") + salt
    for number, segment in enumerate(_segments(parts)):
        start = HEADER + number * _STEP
        with room[start : start + len(segment) + TAG] as place:
            cipher.encrypt_into(_nonce(number, number == last), segment, bound_to, place)
    return room[: sealed_size(plain)]


def _segments(parts: Iterable[Part]) -> Iterator[memoryview]:
    """The parts one after the other, cut every SEGMENT bytes. What spans several parts is put together in one place,
    and overwritten by the next one that does."""
    stage = memoryview(bytearray(SEGMENT))
    filled = 0
    for part in parts:
        rest = memoryview(part)
        while rest:
            if not filled and len(rest) >= SEGMENT:
                yield rest[:SEGMENT]
                rest = rest[SEGMENT:]
                continue
            taken = min(SEGMENT - filled, len(rest))
            stage[filled : filled + taken] = rest[:taken]
            filled, rest = filled + taken, rest[taken:]
            if filled == SEGMENT:
                yield stage
                filled = 0
    if filled:
        yield stage[:filled]


def _writable(size: int) -> io.BytesIO:
    """A buffer of `size` bytes that is written in place, and whose getvalue() makes no copy of them."""
    buffer = io.BytesIO()
    buffer.seek(size - 1)
    buffer.write(b"\0")
    return buffer
