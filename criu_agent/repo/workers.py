"""Work that is spread over threads, in order. They live as long as the call: whoever forks between two calls forks
without threads. Hashing, zstd, AES, fsync and pread release the GIL."""

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

WORKERS = min(6, 1 + (os.cpu_count() or 1))  # some wait for the GIL, and more than 6 would for the one that reads

Advance = Callable[[int], None]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def nothing(_done: int) -> None:
    """An Advance that tells nobody."""


def in_order(
    work: Callable[[_Item], _Result],
    items: Generator[_Item, None, None],
    *,
    workers: int = WORKERS,
    ahead: int = 2 * WORKERS,
) -> Generator[_Result, None, None]:
    """work(item) of each item, by threads but in the items' order, at most `ahead` items before the consumer.

    To be used in `with closing(...)`, and closes `items`: a generator that was left to the garbage collector could be
    closed by one of its own threads in the middle of that thread's end, which then waits for itself.
    """
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as pool, closing(items):
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                while pending and (len(pending) >= ahead or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def together(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """work(item) of each item, by threads that have ended on return."""
    if len(items) <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(WORKERS, len(items))) as pool:
        return list(pool.map(work, items))
