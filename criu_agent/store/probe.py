"""What a store can do, found out by racing writers on it. No documentation of a server is asked.

There are servers that take the condition of a put and ignore it, that refuse it, and that keep to it only as long
as nobody races. Only the first two are seen by asking once.
"""

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from criu_agent.errors import Failure, NoConditionalPut, NotFound
from criu_agent.store.base import Store

_AREA = "probe-"
_LIMIT = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """conditional: of writers that race, on any host, one is told that it was first, and it was.

    `reasons` is why not, one sentence each, and empty if it is so.
    """

    conditional: bool
    reasons: tuple[str, ...]


def probe(store: Store, *, writers: int = 8, rounds: int = 4) -> Abilities:
    """Write below `probe-<random>/`, race there, and delete everything again. About 1 s on a near server.

    What a probe that was killed leaves is for `clear`.
    Failure if the store cannot be used at all: no access, or what was written is not there afterwards.
    """
    area = f"{_AREA}{secrets.token_hex(8)}"
    try:
        with ThreadPoolExecutor(writers) as pool:
            reasons = _what_is_wrong(store, area, pool, writers, rounds)
    finally:
        # By their names: whether the store lists what is there is not known yet.
        for name in _names(area, writers, rounds):
            store.delete(name)
    return Abilities(conditional=not reasons, reasons=tuple(reasons))


def clear(store: Store) -> None:
    """Delete what probes that were killed have left. Not before it is a repository: another host may be probing."""
    for name in store.list(_AREA):
        store.delete(name)


def _names(area: str, writers: int, rounds: int) -> list[str]:
    """Every object that the probe may make."""
    seen = [f"{area}/seen/{number}" for number in range(writers)]
    created = [f"{area}/create/{turn}" for turn in range(rounds)]
    return [f"{area}/once", f"{area}/register", f"{area}/swap", *seen, *created]


def _what_is_wrong(store: Store, area: str, pool: ThreadPoolExecutor, writers: int, rounds: int) -> list[str]:
    try:
        reasons = _asked_once(store, area)
        _consistent(store, area, writers)
        if reasons:  # it need not be raced
            return reasons
        return [
            *_races_to_create(store, area, pool, writers, rounds),
            *_races_to_swap(store, area, pool, writers, rounds),
        ]
    except NoConditionalPut as error:
        return [error.message]


def _asked_once(store: Store, area: str) -> list[str]:
    """One writer after the other."""
    name = f"{area}/once"
    first, second = _nonce("first"), _nonce("second")
    wrong = []
    if not store.put(name, first) or store.put(name, second) or store.get(name, _LIMIT) != first:
        wrong.append("it overwrites an object that is to be made only if there is none")
    register = f"{area}/register"
    if not store.swap(register, None, first) or not store.swap(register, first, second):
        wrong.append("it does not change a register that is as it was")
    elif store.swap(register, first, _nonce("third")) or store.get(register, _LIMIT) != second:
        wrong.append("it overwrites a register that has changed meanwhile")
    return wrong


def _consistent(store: Store, area: str, writers: int) -> None:
    """Read and list right after the write. Failure if something is not there."""
    for number in range(writers):
        name, data = f"{area}/seen/{number}", _nonce("seen")
        store.put(name, data)
        if _get(store, name) != data or store.list(f"{area}/seen/").get(name) != len(data):
            raise Failure(
                "the store does not show what was just written to it", hint="use a store that is strongly consistent"
            )


def _races_to_create(store: Store, area: str, pool: ThreadPoolExecutor, writers: int, rounds: int) -> list[str]:
    for turn in range(rounds):
        name = f"{area}/create/{turn}"
        won = _race(pool, writers, lambda data, name=name: store.put(name, data))  # type: ignore[misc]
        if won != [_get(store, name)]:
            return [f"of {writers} writers that raced to make an object, {len(won)} were told that it is theirs"]
    return []


def _races_to_swap(store: Store, area: str, pool: ThreadPoolExecutor, writers: int, rounds: int) -> list[str]:
    name = f"{area}/swap"
    old = _nonce("base")
    store.put(name, old)
    for _ in range(rounds):
        won = _race(pool, writers, lambda data, old=old: store.swap(name, old, data))  # type: ignore[misc]
        found = _get(store, name)
        if found is None or won != [found]:
            return [f"of {writers} writers that raced to change a register, {len(won)} were told that it is theirs"]
        old = found
    return []


def _race(pool: ThreadPoolExecutor, writers: int, write: Callable[[bytes], bool]) -> list[bytes]:
    """write(data of its own) by so many threads at once: the data of those who were told that they won."""
    start = threading.Barrier(writers)

    def run(number: int) -> bytes | None:
        data = _nonce(f"writer {number}")
        start.wait()
        return data if write(data) else None

    return [data for data in pool.map(run, range(writers)) if data is not None]


def _get(store: Store, name: str) -> bytes | None:
    try:
        return store.get(name, _LIMIT)
    except NotFound:
        return None


def _nonce(text: str) -> bytes:
    return f"{text} {secrets.token_hex(16)}".encode()
