"""How a stream is cut: into pages, windows and batches (docs/format.md)."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from criu_agent import log
from criu_agent.model import PageRun, Source

PAGE = 4096
PAGES = 64  # of a window
WINDOW = PAGE * PAGES
BATCH = 8 * WINDOW  # bytes of the windows that one worker is given at a time


class Window(NamedTuple):
    """The pages of a stream whose numbers divided by 64 are `number`; bit n of `mask` is set if page n is there."""

    number: int
    mask: int
    length: int  # bytes: the last page of a stream may be a part of one


def runs_of(source: Source) -> tuple[PageRun, ...]:
    """Its pages' numbers; by offset if it has none, or if they do not fit its size."""
    pages = page_count(source.size)
    if source.runs:
        if source.size % PAGE == 0 and sum(count for _, count in source.runs) == pages:
            return source.runs
        log.warning("the pages of %s do not make its %d bytes: it is cut by offset", source.stream, source.size)
    return ((0, pages),) if pages else ()


def windows(size: int, runs: Iterable[PageRun]) -> Iterator[Window]:
    """The windows of a stream of `size` bytes in the order of its bytes."""
    number, mask = -1, 0
    for first, count in runs:
        while count:
            inside = first % PAGES
            taken = min(count, PAGES - inside)
            if first // PAGES != number or 1 << inside <= mask:  # another window, or the order is not ascending
                if mask:
                    window = Window(number, mask, min(size, mask.bit_count() * PAGE))
                    size -= window.length
                    yield window
                number, mask = first // PAGES, 0
            mask |= ((1 << taken) - 1) << inside
            first, count = first + taken, count - taken
    if mask:
        yield Window(number, mask, min(size, mask.bit_count() * PAGE))


def batches(cut: Iterable[Window]) -> Iterator[list[Window]]:
    """Neighbouring windows of up to BATCH bytes together."""
    batch: list[Window] = []
    length = 0
    for window in cut:
        if length + window.length > BATCH:
            yield batch
            batch, length = [], 0
        batch.append(window)
        length += window.length
    if batch:
        yield batch


@lru_cache(maxsize=1024)
def positions(mask: int) -> tuple[int, ...]:
    """Which pages of a window a mask has, ascending."""
    return tuple(position for position in range(PAGES) if mask >> position & 1)


def page_count(size: int) -> int:
    return -(-size // PAGE)
