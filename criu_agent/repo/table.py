"""The packs, pieces and blobs of a manifest to JSON and back, with every limit of docs/format.md checked."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NoReturn, TypeGuard

from criu_agent.errors import Corrupt
from criu_agent.model import Blob, Extent, Pack, Piece, Table
from criu_agent.repo.packs import PACK
from criu_agent.repo.windows import PAGE, WINDOW, page_count

FRAME_LIMIT = WINDOW + 4096  # above ZSTD_compressBound(WINDOW)
PACKS_LIMIT = PIECES_LIMIT = 1 << 20
EXTENTS_LIMIT = 1 << 22
SIZE_LIMIT = 1 << 46
ZEROS = -1  # in the place of a piece's number
_HEX = re.compile(r"[0-9a-f]{32}")


def to_documents(table: Table) -> tuple[list[list[Any]], list[list[Any]]]:
    """The values of `packs` and `pieces` in a manifest."""
    return [list(pack) for pack in table.packs], [list(piece) for piece in table.pieces]


def from_documents(packs: object, pieces: object, what: str) -> Table:
    """The table that these two values describe; `what` names the manifest. Corrupt for what breaks a rule."""
    if not _is_list(packs, PACKS_LIMIT) or not _is_list(pieces, PIECES_LIMIT):
        _wrong(what, "its packs and pieces are no lists, or too long")
    found = tuple(_pack(document, what) for document in packs)
    table = Table(packs=found, pieces=tuple(_piece(document, found, what) for document in pieces))
    if len({pack.id for pack in found}) != len(found) or len({one.name for one in table.pieces}) != len(table.pieces):
        _wrong(what, "a pack or a piece is there twice")
    return table


def to_document(blob: Blob) -> dict[str, Any]:
    """The value of a blob in a manifest."""
    return {"extents": list(chain.from_iterable(blob.extents)), "size": blob.size}


def part(extents: Iterable[Extent], first: int, count: int) -> Iterator[Extent]:
    """The extents of `count` pages from page `first` on of what these extents make."""
    for piece, start, length in extents:
        skipped = min(first, length)
        taken = min(count, length - skipped)
        if taken:
            yield piece, 0 if piece == ZEROS else start + skipped, taken
        first, count = first - skipped, count - taken


class Blobs:
    """Reads the blobs of one manifest, and counts their extents."""

    def __init__(self, table: Table, what: str) -> None:
        self._plain = [piece.plain for piece in table.pieces]
        self._what = what
        self._left = EXTENTS_LIMIT

    def read(self, document: object) -> Blob:
        """The blob that the value of a manifest describes. Corrupt for what breaks a rule."""
        if not isinstance(document, dict):
            _wrong(self._what, "a blob is no object")
        size, flat = document.get("size"), document.get("extents")
        if not _is_integer(size, 0, SIZE_LIMIT) or not _is_list(flat, 3 * self._left) or len(flat) % 3:
            _wrong(self._what, "a blob has no size, or no list of extents, or too many")
        if not all(type(value) is int for value in flat):
            _wrong(self._what, "an extent is not of integers")
        extents = tuple(zip(*[iter(flat)] * 3, strict=True))
        self._left -= len(extents)
        self._check(size, extents)
        return Blob(size=size, extents=extents)

    def _check(self, size: int, extents: Sequence[Extent]) -> None:
        pages, plain = page_count(size), self._plain
        for piece, first, count in extents:
            if not 0 < count <= pages or not ZEROS <= piece < len(plain):
                _wrong(self._what, "an extent is out of range")
            pages -= count
            end = (first + count) * PAGE if pages else (first + count) * PAGE - -size % PAGE
            if first < 0 or (first if piece == ZEROS else end > plain[piece]):
                _wrong(self._what, "an extent ends behind its piece")
        if pages:
            _wrong(self._what, f"the extents of a blob do not make its {size} bytes")


def _pack(document: object, what: str) -> Pack:
    if not _is_list(document, 2) or len(document) != 2:
        _wrong(what, "a pack is not its id and length")
    name, length = document
    if not _is_name(name) or not _is_integer(length, 1, PACK):
        _wrong(what, "a pack has no id, or a length that it cannot have")
    return Pack(name, length)


def _piece(document: object, packs: Sequence[Pack], what: str) -> Piece:
    if not _is_list(document, 5) or len(document) != 5:
        _wrong(what, "a piece is not its name and four numbers")
    name, pack, offset, stored, plain = document
    if not _is_name(name) or not _is_integer(pack, 0, len(packs) - 1):
        _wrong(what, "a piece has no name or no pack")
    if not _is_integer(stored, 1, FRAME_LIMIT) or not _is_integer(plain, 1, WINDOW):
        _wrong(what, "a piece has a length that it cannot have")
    if not _is_integer(offset, 0, packs[pack].length - stored):
        _wrong(what, "a piece ends behind its pack")
    return Piece(name, pack, offset, stored, plain)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(_HEX.fullmatch(value))


def _is_integer(value: object, least: int, most: int) -> TypeGuard[int]:
    return type(value) is int and least <= value <= most


def _is_list(value: object, most: int) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and len(value) <= most


def _wrong(what: str, why: str) -> NoReturn:
    raise Corrupt(f"{what} is changed: {why}", hint="restore another snapshot: `criu-agent snapshots` lists them")
