"""The probe says what a store can do, and leaves nothing behind."""

import threading

import pytest

from criu_agent.errors import Failure
from criu_agent.store.base import Store
from criu_agent.store.memory import MemoryStore
from criu_agent.store.probe import clear, probe
from criu_agent.store.s3 import S3Store
from tests.servers.base import BUCKET, Server


def test_a_store_whose_writers_exclude_each_other_is_conditional(conditional_store: Store) -> None:
    conditional_store.put("config", b"x")
    abilities = probe(conditional_store)
    assert (abilities.conditional, abilities.reasons) == (True, ())
    assert conditional_store.list("") == {"config": 1}


def test_what_another_probe_writes_is_left_alone_until_there_is_a_repository() -> None:
    store = MemoryStore()
    store.put("probe-0123456789abcdef/once", b"another host's")
    store.put("config", b"x")
    probe(store)
    assert store.list("") == {"config": 1, "probe-0123456789abcdef/once": 14}
    clear(store)
    assert store.list("") == {"config": 1}


def test_swift_is_found_to_have_no_conditional_put(swift_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in swift_server.environment.items():
        monkeypatch.setenv(name, value)
    abilities = probe(S3Store(BUCKET, "probe"))
    assert not abilities.conditional
    assert "has no conditional put (501" in abilities.reasons[0]
    assert S3Store(BUCKET, "probe").list("") == {}


class Overwriting(MemoryStore):
    """A server that ignores the condition."""

    def put(self, name: str, data: bytes | memoryview) -> bool:
        self.objects[name] = data
        return True


class Late(MemoryStore):
    """One that keeps to the condition as long as nobody races: it looks, waits for the others, and writes."""

    def __init__(self) -> None:
        super().__init__()
        self._others = threading.Barrier(8)

    def _meet(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            self._others.wait()


class LateCreate(Late):
    def put(self, name: str, data: bytes | memoryview) -> bool:
        taken = name in self.objects
        self._meet()
        if not taken:
            self.objects[name] = data
        return not taken


class LateSwap(Late):
    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        same = self.objects.get(name) == old
        self._meet()
        if same:
            self.objects[name] = new
        return same


class Refusing(MemoryStore):
    """One that accepts no swap at all, as Ceph does with a tag in quotes."""

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        return False


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        (Overwriting(), "overwrites an object"),
        (LateCreate(), "8 writers that raced to make an object, 8 were told"),
        (LateSwap(), "8 writers that raced to change a register, 8 were told"),
        (Refusing(), "does not change a register"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_store_that_breaks_a_promise_is_not_conditional(store: MemoryStore, reason: str) -> None:
    store.objects["config"] = b"x"
    abilities = probe(store)
    assert not abilities.conditional
    assert reason in abilities.reasons[0]
    assert store.objects == {"config": b"x"}


class Eventual(MemoryStore):
    """One that does not list what was just written."""

    def list(self, prefix: str) -> dict[str, int]:
        return {name: size for name, size in super().list(prefix).items() if "seen" not in name}


def test_a_store_that_does_not_show_what_was_written_is_of_no_use() -> None:
    store = Eventual()
    with pytest.raises(Failure, match="does not show what was just written") as caught:
        probe(store)
    assert "strongly consistent" in caught.value.hint
    assert store.objects == {}
