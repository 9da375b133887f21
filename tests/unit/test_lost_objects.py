"""What is lost or damaged for good keeps neither other runs from being read, nor a run from being saved again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from criu_agent.errors import Corrupt, NotFound
from criu_agent.model import Snapshot
from criu_agent.ops import housekeeping
from criu_agent.repo import catalogue, locks
from criu_agent.repo.repository import Repository
from criu_agent.store.memory import MemoryStore
from tests.fakes.repositories import EMPTY, opened, read_back, take
from tests.unit.test_repository import named

HEAD = "heads/run-1"
LOCK = "locks/run-1"


def two_snapshots(state: Path) -> tuple[MemoryStore, Repository, Snapshot, Snapshot]:
    store = MemoryStore()
    repository = opened(store, state=state)
    first = take(repository, {"a": b"1"})
    return store, repository, first, take(repository, {"a": b"2"}, parent=first.id)


def damage(store: MemoryStore, name: str, how: str) -> None:
    if how == "missing":
        del store.objects[name]
    else:
        store.objects[name] = {"truncated": store.objects[name][:-1], "empty": b""}[how]


def test_a_damaged_head_hides_no_other_run(tmp_path: Path) -> None:
    store, repository, _, second = two_snapshots(tmp_path)
    (other,) = named(repository, "other", 1)
    damage(store, "heads/other-0", "truncated")
    assert repository.read(second.id) == second
    with pytest.raises(Corrupt, match="register heads/other-0"):
        repository.read(other.id)


@pytest.mark.parametrize("seen", [True, False], ids=["by a host that has seen it", "by a new host"])
@pytest.mark.parametrize("how", ["missing", "truncated", "empty"])
def test_a_head_that_is_lost_says_how_to_go_on_without_it(tmp_path: Path, how: str, seen: bool) -> None:
    store, repository, first, second = two_snapshots(tmp_path)
    state = tmp_path if seen else tmp_path / "new"
    damage(store, HEAD, how)
    again = opened(store, keys=repository.secret, state=state)
    refusals: list[Callable[[], Snapshot]] = [
        lambda: again.read(second.id),
        lambda: again.find("agent"),
        lambda: take(again),
    ]
    for refused in refusals:
        with pytest.raises(Corrupt) as caught:
            refused()
        assert "criu-agent forget --lost run-1" in caught.value.hint
    assert again.give_up("run-1") == ()
    assert again.find("agent") == second
    assert again.find("agent~1") == first
    third = take(again, {"a": b"3"}, parent=second.id)
    assert third.manifest.sequence == 3
    assert [read_back(again, one)["a"] for one in again.snapshots().snapshots] == [b"1", b"2", b"3"]


def test_the_only_snapshot_of_a_run_is_found_again_without_its_head(tmp_path: Path) -> None:
    store = MemoryStore()
    repository = opened(store, state=tmp_path)
    only = take(repository)
    damage(store, HEAD, "missing")
    for allowed in (False, True):
        with pytest.raises(Corrupt, match="older state than this host has seen"):
            opened(store, keys=repository.secret, state=tmp_path, older=allowed).read(only.id)
    assert repository.give_up("run-1") == ()
    assert repository.read(only.id) == only


def test_a_run_whose_newest_snapshot_is_lost_is_saved_again_without_a_word_from_anybody(tmp_path: Path) -> None:
    store, repository, _, second = two_snapshots(tmp_path)
    damage(store, catalogue.name_of(second).object, "missing")
    third = take(repository, {"a": b"3"}, parent=second.id)
    assert read_back(repository, repository.read(third.id)) == {"a": b"3"}


def test_a_lost_head_deletes_no_snapshot(tmp_path: Path) -> None:
    """A writer that is told of no head by a store that it never saw takes nothing for left over."""
    store, repository, first, second = two_snapshots(tmp_path)
    damage(store, HEAD, "missing")
    with pytest.raises(Corrupt, match="the head of run run-1 is missing"):
        take(opened(store, keys=repository.secret))
    assert {catalogue.name_of(one).object for one in (first, second)} == store.list("snapshots/").keys()


def test_a_damaged_snapshot_that_is_the_only_one_is_corrupt_and_not_unknown() -> None:
    store = MemoryStore()
    repository = opened(store)
    only = take(repository)
    damage(store, catalogue.name_of(only).object, "truncated")
    for spec in ("agent", "latest", "run-1", only.id[:8]):
        with pytest.raises(Corrupt, match=only.id):
            repository.find(spec)
    with pytest.raises(NotFound):
        repository.read("0" * 64)


@pytest.mark.parametrize("how", ["truncated", "empty"])
def test_a_damaged_lock_says_how_to_take_it_away_and_then_the_run_can_be_saved(tmp_path: Path, how: str) -> None:
    store, repository, _, _ = two_snapshots(tmp_path)
    damage(store, LOCK, how)
    with pytest.raises(Corrupt, match="register locks/run-1") as caught:
        take(repository)
    assert "criu-agent unlock run-1" in caught.value.hint
    assert locks.holders(repository.registers) == {"run-1": None}
    assert housekeeping.unlock(repository, None, everything=False) == [], "nobody knows whether its holder lives"
    assert housekeeping.unlock(repository, "run-1", everything=False) == [("run-1", None)]
    assert take(repository).manifest.sequence == 3


def test_all_locks_are_taken_away_also_damaged_ones(tmp_path: Path) -> None:
    store, repository, _, _ = two_snapshots(tmp_path)
    damage(store, LOCK, "truncated")
    assert housekeeping.unlock(repository, None, everything=True) == [("run-1", None)]
    take(repository)


def test_a_lock_that_was_lost_is_as_one_that_nobody_holds(tmp_path: Path) -> None:
    store, repository, _, _ = two_snapshots(tmp_path)
    damage(store, LOCK, "missing")
    take(repository)


def test_damaged_tags_are_named_with_what_to_do_and_no_tags_are_the_first_ones(tmp_path: Path) -> None:
    store, repository, first, second = two_snapshots(tmp_path)
    repository.tag(first, ["t"])
    name = f"tags/{EMPTY.run_id}/{first.id}"
    damage(store, name, "truncated")
    with pytest.raises(Corrupt, match=f"register {name}") as caught:
        repository.read(first.id)
    assert "criu-agent forget --lost run-1" in caught.value.hint
    assert repository.read(second.id) == second
    assert repository.give_up("run-1") == ()
    assert repository.read(first.id).tags == ()
    repository.tag(first, ["t"])
    damage(store, name, "missing")
    assert repository.read(first.id).tags == ()
