"""Stores that fail at one chosen call, and drivers that choose every call in turn (as SQLite tests its commits).

What a scenario leaves behind when it dies at any call, before or after the store has done the work, must be a state
that the next command can go on from.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeVar

from criu_agent.errors import Failure
from criu_agent.store.base import Store
from criu_agent.store.memory import MemoryStore

T = TypeVar("T")
Scenario = Callable[[Store], object]
Check = Callable[[MemoryStore, bool], object]
_MOST_CALLS = 10_000


class Died(BaseException):
    """The process is dead: no handler of Exception may keep it alive."""


class Counting:
    """A store that passes every call on, one at a time, and notes it. Derived stores decide about each."""

    def __init__(self, store: Store) -> None:
        self.calls: list[str] = []
        self._store = store
        self._lock = threading.Lock()

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        return self._call(f"get {name}", lambda: self._store.get(name, limit, offset=offset))

    def put(self, name: str, data: bytes | memoryview) -> bool:
        return self._call(f"put {name}", lambda: self._store.put(name, data))

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        return self._call(f"swap {name}", lambda: self._store.swap(name, old, new))

    def list(self, prefix: str) -> dict[str, int]:
        return self._call(f"list {prefix}", lambda: self._store.list(prefix))

    def delete(self, name: str) -> None:
        return self._call(f"delete {name}", lambda: self._store.delete(name))

    def _call(self, what: str, work: Callable[[], T]) -> T:
        with self._lock:
            self.calls.append(what)
            return self._decide(work)

    def _decide(self, work: Callable[[], T]) -> T:
        return work()


class Dying(Counting):
    """The process dies at call `at` (from 1): before it reaches the store, or after it, so that the answer is lost.

    From then on every call raises Died and none reaches the store: also those of `finally` and of other threads.
    """

    def __init__(self, store: Store, at: int, *, after: bool) -> None:
        super().__init__(store)
        self.happened = False
        self._at, self._after = at, after

    def _decide(self, work: Callable[[], T]) -> T:
        if not self.happened and len(self.calls) == self._at:
            self.happened = True
            if self._after:
                _unanswered(work)
        if self.happened:
            raise Died
        return work()


class Failing(Counting):
    """Call `at` (from 1) raises `error` once, before it reaches the store or after it; all others go through."""

    def __init__(self, store: Store, at: int, *, after: bool, error: Failure | None = None) -> None:
        super().__init__(store)
        self.happened = False
        self.error = error or Failure("the store did not answer")
        self._at, self._after = at, after

    def _decide(self, work: Callable[[], T]) -> T:
        if len(self.calls) != self._at:
            return work()
        self.happened = True
        if self._after:
            _unanswered(work)
        raise self.error


def _unanswered(work: Callable[[], object]) -> None:
    with suppress(Failure):  # an error is an answer, too
        work()


def every_death(scenario: Scenario, check: Check, prepared: Mapping[str, bytes]) -> int:
    """Run scenario(store) on a fresh copy of `prepared`, dying at call 1, 2, 3, ... before it and after it.

    Then check(what is left, whether the scenario ended), each time; the last time it has ended. Returns how many
    calls it makes. An error of `scenario` or `check` has a note that says at which call the death was.
    """
    return _every(scenario, check, prepared, Dying)


def every_failure(scenario: Scenario, check: Check, prepared: Mapping[str, bytes]) -> int:
    """The same with one Failure after which the store works again: the scenario ends, or raises because of it."""
    return _every(scenario, check, prepared, Failing)


def _every(scenario: Scenario, check: Check, prepared: Mapping[str, bytes], kind: type[Dying] | type[Failing]) -> int:
    for at in range(1, _MOST_CALLS + 1):
        for after in (False, True):
            left = MemoryStore()
            left.objects.update(prepared)
            store = kind(left, at, after=after)
            try:
                check(left, _ends(scenario, store))
            except BaseException as error:
                when = f"{'after' if after else 'before'} call {at}, {store.calls[at - 1]}" if store.happened else ""
                error.add_note(f"{kind.__name__} {when or 'at no call'}")
                raise
            if not store.happened:
                return at - 1
    raise AssertionError(f"the scenario makes {_MOST_CALLS} calls or more")


def _ends(scenario: Scenario, store: Dying | Failing) -> bool:
    try:
        scenario(store)
    except Died:
        return False
    except Failure as error:
        if isinstance(store, Failing) and store.error in _because_of(error):
            return False
        raise
    if isinstance(store, Dying) and store.happened:
        raise AssertionError("the scenario went on after its death")
    return True


def _because_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
