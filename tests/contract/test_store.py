"""One suite over all stores: each promise of store.base.Store. conftest.py has the stores."""

import os
import threading
from collections.abc import Callable

import pytest

from criu_agent.errors import NotFound, Usage
from criu_agent.store.base import REGISTER_LIMIT, Store

MIB = 1 << 20


def at_once(work: Callable[[int], object], writers: int = 8) -> None:
    """work(number) in so many threads, begun together."""
    start = threading.Barrier(writers)

    def run(number: int) -> None:
        start.wait()
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, 3_000_000, 16 * MIB + 4096])
def test_what_was_put_is_got_back_whole(store: Store, size: int) -> None:
    data = os.urandom(size)
    assert store.put("chunks/ab/abcd", data) is True
    assert store.get("chunks/ab/abcd", size + 1) == data
    assert store.list("chunks/ab/") == {"chunks/ab/abcd": size}


def test_an_empty_object_is_an_object(store: Store) -> None:
    assert store.put("empty", b"") is True
    assert store.list("") == {"empty": 0}
    assert [store.get("empty", limit) for limit in (0, 10, 2 * MIB)] == [b"", b"", b""]


def test_get_takes_in_no_more_than_its_limit(store: Store) -> None:
    store.put("a", b"0123456789")
    assert [store.get("a", limit) for limit in (0, 4, 10, 11)] == [b"", b"0123", b"0123456789", b"0123456789"]


def test_get_gives_any_range(store: Store) -> None:
    data = os.urandom(3 * MIB)
    store.put("a", data)
    for offset, limit in ((0, 5), (7, 5), (3 * MIB - 2, 5), (MIB + 1, 2 * MIB - 1), (5, 3 * MIB), (MIB, MIB)):
        assert store.get("a", limit, offset=offset) == data[offset : offset + limit]
    for offset in (3 * MIB, 4 * MIB):
        assert (store.get("a", 5, offset=offset), store.get("a", 2 * MIB, offset=offset)) == (b"", b"")


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_a_put_on_a_taken_name_changes_nothing_and_says_so(store: Store, size: int) -> None:
    store.put("a", b"1" * size)
    assert store.put("a", b"2" * size) is False
    assert store.put("a", b"1" * size) is False
    assert store.get("a", size) == b"1" * size


@pytest.mark.parametrize("size", [100_000, MIB + 1])
def test_one_of_many_racing_puts_makes_the_object(conditional_store: Store, size: int) -> None:
    made: list[bytes] = []

    def race(number: int) -> None:
        data = bytes([number]) * size
        if conditional_store.put("d/a", data):
            made.append(data)

    at_once(race)
    assert made == [conditional_store.get("d/a", size)]


def test_a_swap_replaces_the_register_if_it_is_as_it_was(store: Store) -> None:
    assert store.swap("heads/r", None, b"first") is True
    assert store.swap("heads/r", None, b"other") is False
    assert store.swap("heads/r", b"another", b"other") is False
    assert store.get("heads/r", 100) == b"first"
    assert store.swap("heads/r", b"first", b"second, longer") is True
    assert store.swap("heads/r", b"first", b"other") is False
    assert store.swap("heads/r", b"second, longer", b"3") is True
    assert (store.get("heads/r", 100), store.list("")) == (b"3", {"heads/r": 1})


def test_a_swap_from_what_is_not_there_makes_nothing(store: Store) -> None:
    assert store.swap("heads/r", b"first", b"second") is False
    assert store.list("") == {}
    store.put("heads/r", b"1")
    store.delete("heads/r")
    assert store.swap("heads/r", b"1", b"2") is False
    assert store.list("") == {}


def test_a_register_has_a_limit(store: Store) -> None:
    full = os.urandom(REGISTER_LIMIT)
    assert store.swap("a", None, full) is True
    assert store.swap("a", full, full[::-1]) is True
    for old in (None, full[::-1]):
        with pytest.raises(ValueError, match="longer than"):
            store.swap("a", old, full + b"1")
    assert store.get("a", REGISTER_LIMIT + 1) == full[::-1]


@pytest.mark.parametrize("old", [None, b"the first"])
def test_one_of_many_racing_swaps_wins(conditional_store: Store, old: bytes | None) -> None:
    if old is not None:
        conditional_store.swap("r", None, old)
    won: list[bytes] = []

    def race(number: int) -> None:
        if conditional_store.swap("r", old, b"writer %d" % number):
            won.append(b"writer %d" % number)

    at_once(race)
    assert won == [conditional_store.get("r", 100)]


def test_no_swap_is_lost(conditional_store: Store) -> None:
    conditional_store.swap("r", None, b"0 -")
    won: list[int] = []

    def count(number: int) -> None:
        for turn in range(5):
            old = conditional_store.get("r", 100)
            if conditional_store.swap("r", old, b"%d %d.%d" % (int(old.split()[0]) + 1, number, turn)):
                won.append(number)

    at_once(count, writers=4)
    assert conditional_store.get("r", 100).split()[0] == b"%d" % len(won)
    assert len(won) >= 5


def test_a_missing_object_is_not_found(store: Store) -> None:
    store.put("d/a", b"x")
    for name in ("b", "d/b", "e/f/g"):
        for limit in (1, 2 * MIB):
            with pytest.raises(NotFound, match=name):
                store.get(name, limit)


def test_list_gives_the_names_with_a_prefix_in_order(store: Store) -> None:
    for name in ("config", "s/ab2", "s/ab1", "s/b", "sab", "s/c/d"):
        store.put(name, name.encode())
    assert list(store.list("")) == ["config", "s/ab1", "s/ab2", "s/b", "s/c/d", "sab"]
    assert list(store.list("s/")) == ["s/ab1", "s/ab2", "s/b", "s/c/d"]
    assert store.list("s/ab") == {"s/ab1": 5, "s/ab2": 5}
    assert store.list("nothing/") == {}


def test_all_methods_may_be_called_from_several_threads(store: Store) -> None:
    bodies = {f"d/{number}": os.urandom(1000 if number % 2 else MIB + number) for number in range(8)}

    def work(number: int) -> None:
        name = f"d/{number}"
        assert store.put(name, bodies[name]) is True
        assert store.get(name, 2 * MIB) == bodies[name]
        assert name in store.list("d/")
        assert store.swap(f"r/{number}", None, b"x") is True
        done.append(number)

    done: list[int] = []
    at_once(work)
    assert sorted(done) == list(range(8))
    assert store.list("d/") == {name: len(body) for name, body in bodies.items()}


def test_a_deleted_object_is_gone_and_can_be_made_again(store: Store) -> None:
    store.put("d/a", b"1")
    store.delete("d/a")
    store.delete("d/a")
    store.delete("never/was")
    assert store.list("") == {}
    assert store.put("d/a", b"2") is True


def test_what_is_not_a_name_is_refused(store: Store) -> None:
    for name in ("", "/a", "a/", "a//b", "../a", "a/..", ".", ".tmp/a", "a b", "ä", "a\n", "x" * 129):
        calls: list[Callable[[], object]] = [
            lambda name=name: store.put(name, b""),
            lambda name=name: store.get(name, 1),
            lambda name=name: store.swap(name, None, b""),
            lambda name=name: store.swap(name, b"1", b""),
            lambda name=name: store.delete(name),
        ]
        for call in calls:
            with pytest.raises(Usage):
                call()
    assert store.list("") == {}
