"""The stores that fail on purpose, and their drivers, on a commit of two writes: a right one and wrong ones."""

import threading

import pytest

from criu_agent.errors import Failure, NotFound
from criu_agent.store.base import Store
from criu_agent.store.memory import MemoryStore
from tests.fakes import dying
from tests.fakes.dying import Counting, Died, Dying, Failing, every_death, every_failure

OLD = {"packs/1": b"old", "heads/run": b"packs/1"}


def commit(store: Store) -> None:
    """The pack, and then the head that names it."""
    old = store.get("heads/run", 100)
    store.put("packs/2", b"new")
    store.swap("heads/run", old, b"packs/2")


def commit_in_the_wrong_order(store: Store) -> None:
    old = store.get("heads/run", 100)
    store.swap("heads/run", old, b"packs/2")
    store.put("packs/2", b"new")


def content(store: Store) -> bytes:
    return store.get(store.get("heads/run", 100).decode(), 100)


def old_or_new(left: MemoryStore, ended: bool) -> None:
    """Nothing committed is lost, and what ended is there."""
    assert content(left) in ([b"new"] if ended else [b"old", b"new"])


def test_every_call_is_a_death_before_and_after_it() -> None:
    seen: list[tuple[list[str], bytes, bool]] = []
    calls = every_death(
        commit, lambda left, ended: seen.append((sorted(left.objects), left.objects["heads/run"], ended)), OLD
    )
    before, half, done = ["heads/run", "packs/1"], ["heads/run", "packs/1", "packs/2"], b"packs/2"
    assert calls == 3
    assert seen == [
        (before, b"packs/1", False),  # get
        (before, b"packs/1", False),
        (before, b"packs/1", False),  # put
        (half, b"packs/1", False),
        (half, b"packs/1", False),  # swap
        (half, done, False),  # its answer was lost
        (half, done, True),
    ]
    assert OLD == {"packs/1": b"old", "heads/run": b"packs/1"}


def test_a_right_order_stands_every_death() -> None:
    assert every_death(commit, old_or_new, OLD) == 3


def test_a_wrong_order_is_found_and_the_call_is_named() -> None:
    with pytest.raises(NotFound, match="packs/2") as caught:
        every_death(commit_in_the_wrong_order, old_or_new, OLD)
    assert caught.value.__notes__ == ["Dying after call 2, swap heads/run"]


def test_a_commit_that_trusts_a_lost_answer_is_found() -> None:
    def commit_and_clean_up(store: Store) -> None:
        old = store.get("heads/run", 100)
        store.put("packs/2", b"new")
        try:
            store.swap("heads/run", old, b"packs/2")
        except Failure:
            store.delete("packs/2")  # wrong: the swap may have been done
            raise

    assert every_death(commit_and_clean_up, old_or_new, OLD) == 3
    with pytest.raises(NotFound, match="packs/2") as caught:
        every_failure(commit_and_clean_up, old_or_new, OLD)
    assert caught.value.__notes__ == ["Failing after call 3, swap heads/run"]


def test_one_failure_is_raised_or_overcome() -> None:
    ends: list[bool] = []

    def retrying(store: Store) -> None:
        try:
            commit(store)
        except Failure:
            commit(store)

    def check(left: MemoryStore, ended: bool) -> None:
        old_or_new(left, ended)
        ends.append(ended)

    assert every_failure(commit, check, OLD) == 3
    assert ends == [False] * 6 + [True]
    ends.clear()
    assert every_failure(retrying, check, OLD) == 3
    assert ends == [True] * 7


def test_an_error_that_is_not_the_one_is_not_taken_for_it() -> None:
    def broken(store: Store) -> None:
        store.get("heads/run", 1)
        raise Failure("of its own")

    for every in (every_death, every_failure):
        with pytest.raises(Failure, match="of its own") as caught:
            every(broken, lambda _left, _ended: None, OLD)
        assert caught.value.__notes__[0].endswith(" at no call")


def test_a_failure_with_another_message_is_because_of_it() -> None:
    def translated(store: Store) -> None:
        try:
            commit(store)
        except Failure as error:
            raise Failure("cannot commit") from error

    assert every_failure(translated, old_or_new, OLD) == 3


def test_the_dead_call_no_more_whatever_they_catch() -> None:
    memory = MemoryStore()
    store = Dying(memory, 2, after=False)
    store.put("a", b"")
    with pytest.raises(Died):
        store.put("b", b"")
    calls = [
        lambda: store.get("a", 1),
        lambda: store.put("c", b""),
        lambda: store.swap("c", None, b""),
        lambda: store.list(""),
        lambda: store.delete("a"),
    ]
    for call in calls:
        with pytest.raises(Died):
            call()
    assert memory.objects == {"a": b""}
    assert not issubclass(Died, Exception)


def test_a_scenario_that_outlives_its_death_is_found() -> None:
    def immortal(store: Store) -> None:
        try:
            store.put("a", b"")
        except BaseException:  # noqa: BLE001 - it is what is to be found
            return

    with pytest.raises(AssertionError, match="went on after its death"):
        every_death(immortal, lambda _left, _ended: None, {})


def test_a_lost_answer_may_be_an_error() -> None:
    def scenario(store: Store) -> None:
        with pytest.raises(NotFound):
            store.get("a", 1)

    ends: list[bool] = []
    assert every_death(scenario, lambda _left, ended: ends.append(ended), {}) == 1
    assert ends == [False, False, True]


def test_a_scenario_of_too_many_calls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(store: Store) -> None:
        for _ in range(10):
            store.list("")

    for most, calls in ((11, 10), (10, None)):
        monkeypatch.setattr(dying, "_MOST_CALLS", most)
        if calls:
            assert every_death(scenario, lambda _left, _ended: None, {}) == calls
        else:
            with pytest.raises(AssertionError, match="10 calls or more"):
                every_death(scenario, lambda _left, _ended: None, {})


def test_no_call_of_another_thread_reaches_the_store_of_the_dead() -> None:
    memory = MemoryStore()
    store = Dying(memory, 5, after=True)
    died: list[int] = []

    def write(number: int) -> None:
        try:
            store.put(f"a/{number}", b"")
        except Died:
            died.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(memory.objects), len(died)) == (5, 16)


def test_calls_go_through_and_are_noted() -> None:
    store = Counting(MemoryStore())
    assert store.put("a", b"123") is True
    assert store.swap("r", None, b"1") is True
    assert store.get("a", 2, offset=1) == b"23"
    assert store.list("") == {"a": 3, "r": 1}
    store.delete("a")
    assert store.calls == ["put a", "swap r", "get a", "list ", "delete a"]


@pytest.mark.parametrize("after", [False, True])
def test_the_chosen_call_fails_once(after: bool) -> None:
    memory = MemoryStore()
    store = Failing(memory, 2, after=after, error=NotFound("gone"))
    store.put("a", b"")
    with pytest.raises(NotFound, match="gone"):
        store.put("b", b"")
    assert ("b" in memory.objects) is after
    assert store.put("b", b"") is not after
    assert sorted(memory.objects) == ["a", "b"]
