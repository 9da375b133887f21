"""What of a batch of windows changed, and the pieces for it (docs/format.md): the work of one thread.

A page is hashed with XXH3-128 and a secret seed, since BLAKE3 costs too much there: a first save of 570 MB on two
cores took 0.85 s without page hashes, 0.86 s with XXH3, and 1.1 to 1.2 s with BLAKE3 (1.0 to 1.1 s with GMAC), much
of it in waiting for the GIL that each of these gives up for a microsecond. docs/format.md says why XXH3 is enough.
Windows and pieces are hashed with keyed BLAKE3.

PIECES was measured with 25 saves of 285 MB, 5 % of the pages changed before each in runs of 1 to 8. With 8 a save
stored 6 MB up to the ninth and then 10 to 15, since windows are stored whole again and again; with 16 and with 32 it
was 6 MB throughout, and the last one was loaded no slower.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import zstandard
from blake3 import blake3
from xxhash import xxh3_128_digest

from criu_agent.repo.windows import BATCH, PAGE, PAGES, WINDOW, Window, positions

LEVEL = 1
HASH = 16  # bytes of the hash of a page or window
_SEED_CONTEXT = "criu-agent 2 page seed"
PIECES = 16  # that a window may be made of
_ZERO_HASH = bytes(HASH)
_ZEROS = bytes(WINDOW)
_ZERO_PAGE = bytes(PAGE)

Run = tuple[str, int, int]  # name of a piece, or "" for zeros; its first page; pages
_Page = tuple[str, int]  # name of a piece, or "" for zeros; page of it
_NEW: _Page = ("new", 0)  # a page that waits for its place


class Keys(NamedTuple):
    """Of a run: what names its pieces and hashes windows, and the seed for pages."""

    names: bytes
    seed: int

    @classmethod
    def of(cls, name_key: bytes) -> "Keys":
        seed = blake3(name_key, derive_key_context=_SEED_CONTEXT).digest(8)
        return cls(name_key, int.from_bytes(seed, "little"))


class Known(NamedTuple):
    """A window as it was in the parent: hashes of the whole and of each page, and where its pages are stored."""

    mask: int
    hash: bytes
    pages: bytes
    runs: Sequence[Run]


class Frame(NamedTuple):
    data: bytes
    plain: int  # length of what it is of


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A batch: where the pages of its windows are stored, the frames that are new for it, and its hashes."""

    runs: list[Run]
    frames: dict[str, Frame]
    windows: bytes
    pages: bytes
    length: int


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What one batch needs on its way: buffers that were touched before (a fresh page costs more than to copy one,
    lab/performance.md section 0) and a compressor."""

    buffer: bytearray = field(default_factory=lambda: bytearray(BATCH))
    gathered: bytearray = field(default_factory=lambda: bytearray(WINDOW))
    compressor: zstandard.ZstdCompressor = field(default_factory=lambda: zstandard.ZstdCompressor(level=LEVEL))


def pack(
    slot: Slot, batch: Sequence[Window], known: Sequence[Known | None], keys: Keys, has: Callable[[str], bool]
) -> Packed:
    """Compare the windows that lie one after the other in the slot with what they were; compress what is new.

    `has` says of a name whether that piece is stored already.
    """
    packing = _Packing(slot, keys, has)
    at = 0
    for window, before in zip(batch, known, strict=True):
        packing.add(at, window, before)
        at += window.length
    packing.close()
    return Packed(
        runs=joined(run for runs in packing.runs for run in runs),
        frames=packing.frames,
        windows=b"".join(packing.windows),
        pages=b"".join(packing.pages),
        length=at,
    )


class _Packing:
    """The state of `pack`. A changed page waits in the group until it is full and becomes a piece."""

    def __init__(self, slot: Slot, keys: Keys, has: Callable[[str], bool]) -> None:
        self.runs: list[Sequence[Run]] = []
        self.frames: dict[str, Frame] = {}
        self.windows: list[bytes] = []
        self.pages: list[bytes] = []
        self._slot = slot
        self._view = memoryview(slot.buffer)
        self._gathered = memoryview(slot.gathered)
        self._key = keys.names
        self._seed = keys.seed
        self._has = has
        self._group: list[tuple[list[_Page], int, memoryview]] = []  # where its place is to be noted, and the page
        self._mixed: list[tuple[int, list[_Page]]] = []  # windows whose pages are stored here and there

    def add(self, at: int, window: Window, before: Known | None) -> None:
        """The window at that offset of the buffer."""
        plain = self._view[at : at + window.length]
        count = len(positions(window.mask))
        if self._slot.buffer.startswith(_ZEROS[: window.length], at):
            self._note([("", 0, count)], _ZERO_HASH, _ZERO_HASH * count)
            return
        whole = blake3(plain, key=self._key).digest(HASH)
        if before and before.hash == whole and before.mask == window.mask:
            self._note(before.runs, whole, before.pages)
            return
        hashes = self._hashes(at, window.length)
        pages = self._compared(window.mask, hashes, before) if before else None
        if pages is None:
            self._store_whole(plain, whole, hashes)
            return
        changed = [index for index, (name, _) in enumerate(pages) if name == _NEW[0]]
        if len(self._group) + len(changed) > PAGES:
            self._close_group()
        self._group += [(pages, index, plain[index * PAGE : (index + 1) * PAGE]) for index in changed]
        self._mixed.append((len(self.runs), pages))
        self._note((), whole, b"".join(hashes))

    def close(self) -> None:
        """No window follows: everything has its place."""
        self._close_group()
        for index, pages in self._mixed:
            self.runs[index] = joined((name, page, 1) for name, page in pages)

    def _note(self, runs: Sequence[Run], whole: bytes, pages: bytes) -> None:
        self.runs.append(runs)
        self.windows.append(whole)
        self.pages.append(pages)

    def _hashes(self, at: int, length: int) -> list[bytes]:
        """The hash of each page. One of zeros is not hashed but compared."""
        hashes: list[bytes] = []
        starts_with, view, seed, end = self._slot.buffer.startswith, self._view, self._seed, at + length
        for start in range(at, end - PAGE + 1, PAGE):
            if starts_with(_ZERO_PAGE, start):
                hashes.append(_ZERO_HASH)
            else:
                hashes.append(xxh3_128_digest(view[start : start + PAGE], seed))
        rest = length % PAGE
        if rest:
            zero = starts_with(_ZERO_PAGE[:rest], end - rest)
            hashes.append(_ZERO_HASH if zero else xxh3_128_digest(view[end - rest : end], seed))
        return hashes

    def _compared(self, mask: int, hashes: Sequence[bytes], before: Known) -> list[_Page] | None:
        """Where each page is stored, or that it is to be; None if the window had better be stored whole."""
        was = _by_position(before)
        pages: list[_Page] = []
        changed = 0
        for position, page_hash in zip(positions(mask), hashes, strict=True):
            if page_hash == _ZERO_HASH:
                pages.append(("", 0))
                continue
            old, place = was.get(position, (page_hash, _NEW))
            if old != page_hash:
                changed, place = changed + 1, _NEW
            pages.append(place)
        if 2 * changed > (mask & before.mask).bit_count() or len({name for name, _ in pages} - {""}) > PIECES:
            return None
        return pages

    def _store_whole(self, plain: memoryview, whole: bytes, hashes: Sequence[bytes]) -> None:
        solid = [index for index, page_hash in enumerate(hashes) if page_hash != _ZERO_HASH]
        if len(solid) == len(hashes):
            self._store(plain, whole.hex())  # the hash of the window is the name of its piece
            runs: Sequence[Run] = [(whole.hex(), 0, len(hashes))]
        else:
            name = self._store(self._together([plain[index * PAGE : (index + 1) * PAGE] for index in solid]))
            place = {index: number for number, index in enumerate(solid)}
            runs = joined((name, place[i], 1) if i in place else ("", 0, 1) for i in range(len(hashes)))
        self._note(runs, whole, b"".join(hashes))

    def _close_group(self) -> None:
        if self._group:
            name = self._store(self._together([page for _, _, page in self._group]))
            for number, (pages, index, _) in enumerate(self._group):
                pages[index] = (name, number)
            self._group = []

    def _together(self, pages: Sequence[memoryview]) -> memoryview:
        end = 0
        for page in pages:
            self._gathered[end : end + len(page)] = page
            end += len(page)
        return self._gathered[:end]

    def _store(self, plain: memoryview, name: str = "") -> str:
        """Have a frame of that piece, if it is new; its name."""
        name = name or blake3(plain, key=self._key).hexdigest(HASH)
        if not self._has(name) and name not in self.frames:
            self.frames[name] = Frame(self._slot.compressor.compress(plain), len(plain))
        return name


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same with neighbours made one where they lie one after the other in one piece, or are zeros."""
    result: list[Run] = []
    for name, page, count in runs:
        if result:
            last, first, length = result[-1]
            if last == name and (not name or first + length == page):
                result[-1] = (name, first, length + count)
                continue
        result.append((name, page, count))
    return result


def _by_position(before: Known) -> dict[int, tuple[bytes, _Page]]:
    """Hash and place of each page of a window."""
    places = [(name, page + number if name else 0) for name, page, count in before.runs for number in range(count)]
    hashes = [before.pages[start : start + HASH] for start in range(0, len(before.pages), HASH)]
    return dict(zip(positions(before.mask), zip(hashes, places, strict=True), strict=True))
