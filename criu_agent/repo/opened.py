"""Segments of packs: how a reader asks for them, and those that it has asked for last."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import Lock
from typing import NamedTuple

from criu_agent.model import Pack, Piece, Table
from criu_agent.repo.packs import SEGMENT

_AT_A_TIME = 4  # segments that are got at once
_KEPT = 32  # segments


class Opened(NamedTuple):
    """Neighbouring segments of a pack: their plain bytes, fewer only where the pack ends, and the key that names the
    pieces in that pack (a run has one for each generation of its secret)."""

    plain: bytes
    key: bytes


# segments(pack, first, count): authentic, or NotFound if there is no such pack, or Corrupt if it is not as it should
# be. It is called by several threads.
Segments = Callable[[Pack, int, int], Opened]
_Key = tuple[str, int]  # id of a pack, number of a segment


def segments_of(piece: Piece) -> tuple[int, int]:
    """The first and the last segment that its frame lies in. There are at most two."""
    return piece.offset // SEGMENT, (piece.offset + piece.stored - 1) // SEGMENT


class Recent:
    """The segments that were got last. It may be used by several threads; each segment is got by one of them."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._kept: OrderedDict[_Key, Future[Opened]] = OrderedDict()
        self._lock = Lock()

    def read(self, pack: Pack, first: int, last: int, wanted: set[_Key]) -> Opened:
        """These segments. What is not kept is got, together with what is wanted behind it."""
        with self._lock:
            mine = self._claim(pack, first, last, wanted)
            needed = [self._kept[pack.id, number] for number in range(first, last + 1)]
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        if mine:
            self._get(pack, mine)
        parts = [one.result() for one in needed]
        return parts[0] if len(parts) == 1 else Opened(b"".join(part.plain for part in parts), parts[0].key)

    def _claim(self, pack: Pack, first: int, last: int, wanted: set[_Key]) -> dict[int, Future[Opened]]:
        """What the caller has to get: neighbouring segments that are marked so from now on."""
        missing: list[int] = []
        for number in range(first, last + 1):
            if (pack.id, number) in self._kept:
                self._kept.move_to_end((pack.id, number))
            else:
                missing.append(number)
        while missing and len(missing) < _AT_A_TIME:
            behind = (pack.id, missing[-1] + 1)
            if behind not in wanted or behind in self._kept:
                break
            missing.append(behind[1])
        mine: dict[int, Future[Opened]] = {number: Future() for number in missing}
        self._kept.update({(pack.id, number): future for number, future in mine.items()})
        return mine

    def _get(self, pack: Pack, mine: dict[int, Future[Opened]]) -> None:
        first = min(mine)
        try:
            data, key = self._segments(pack, first, len(mine))
        except BaseException as error:
            with self._lock:
                for number in mine:
                    self._kept.pop((pack.id, number), None)
            for future in mine.values():
                future.set_exception(error)
            raise
        for number, future in mine.items():
            start = (number - first) * SEGMENT
            future.set_result(Opened(data[start : start + SEGMENT], key))


def wanted(table: Table, pieces: Iterable[int]) -> set[_Key]:
    """All segments that these pieces lie in."""
    found: set[_Key] = set()
    for number in pieces:
        piece = table.pieces[number]
        first, last = segments_of(piece)
        found.update((table.packs[piece.pack].id, segment) for segment in range(first, last + 1))
    return found
