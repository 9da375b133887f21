"""Snapshots in a store: manifest and head last, nothing lost, no damage unseen, and which one a name means."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from criu_agent.errors import Corrupt, Failure, HostCannot, NotFound, Usage
from criu_agent.model import Snapshot
from criu_agent.repo import catalogue, header, heads, locks, prune, specs
from criu_agent.repo.heads import Overtaken
from criu_agent.repo.repository import Repository
from criu_agent.repo.writer import writing
from criu_agent.store.base import Store
from criu_agent.store.memory import MemoryStore
from tests.fakes.dying import every_death, every_failure
from tests.fakes.repositories import EMPTY, NOTHING, THEM, US, dead, lives, opened, read_back, take

RANDOM = random.Random(7).randbytes(700_000)
IMAGES = {"pages-1.img": RANDOM, "core-1.img": b"core", "zeros.img": bytes(300_000), "empty.img": b""}


def named(repository: Repository, name: str, count: int, *, minute: int = 0, tag: str = "") -> list[Snapshot]:
    """`count` snapshots of a run, a second apart; the first one has the tag."""
    return [
        take(
            repository,
            of=replace(
                EMPTY,
                run_id=f"{name}-{minute}",
                run_name=name,
                created=f"2026-11-21T03:{minute:02}:{number:02}.000000Z",
                tags=(tag,) if tag and number == 1 else (),
            ),
        )
        for number in range(1, count + 1)
    ]


# --- the repository itself


def test_a_repository_keeps_its_id() -> None:
    store = MemoryStore()
    assert opened(store).id == opened(store).id
    assert list(store.list("")) == ["config"]


def test_a_repository_of_another_version_is_refused_before_its_content_is_looked_at() -> None:
    for version in (b"1", b"3"):
        body = b"criu-agent repository " + version + b"\n\xff\x00 whatever that version is\n"
        store = MemoryStore()
        store.put("config", body + blake3(body).hexdigest().encode() + b"\n")
        with pytest.raises(HostCannot, match=f"format {version.decode()}, this criu-agent reads up to 2"):
            header.read(store)


def test_a_repository_that_lost_its_config_is_not_made_anew() -> None:
    store = MemoryStore()
    take(opened(store))
    del store.objects["config"]
    with pytest.raises(Corrupt, match="config of the repository is missing"):
        header.read(store)


def test_every_flipped_bit_and_every_truncation_of_config_is_refused() -> None:
    store = MemoryStore()
    opened(store)
    whole = store.objects["config"]
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        store.objects["config"] = bytes(damaged)
        with pytest.raises(Corrupt, match="config of the repository"):
            header.read(store)
    for length in range(len(whole)):
        store.objects["config"] = whole[:length]
        with pytest.raises(Corrupt, match="config of the repository"):
            header.read(store)


# --- commit


class Recording(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def put(self, name: str, data: bytes | memoryview) -> bool:
        self.written.append(name)
        return super().put(name, data)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        self.written.append(name)
        return super().swap(name, old, new)


def test_the_manifest_is_written_after_its_packs_and_the_head_after_it() -> None:
    store = Recording()
    snapshot = take(opened(store), IMAGES)
    kinds = [name.partition("/")[0] for name in store.written]
    assert kinds == ["config", "locks", "packs", "snapshots", "heads", "locks"]
    assert store.written[-3].endswith(snapshot.id)


def test_a_snapshot_comes_back_as_it_was_committed() -> None:
    store = MemoryStore()
    repository = opened(store)
    snapshot = take(repository, IMAGES)
    again = opened(store, keys=repository.secret)
    assert again.read(snapshot.id) == snapshot
    assert again.snapshots().snapshots == (snapshot,)
    assert snapshot.id == blake3(store.objects[catalogue.name_of(snapshot).object]).hexdigest()
    assert read_back(again, snapshot) == IMAGES


def test_a_snapshot_says_how_large_it_is_and_what_it_added(tmp_path: Path) -> None:
    store = MemoryStore()
    repository = opened(store)
    first = take(repository, IMAGES, hashes=tmp_path / "pages")
    assert first.size == sum(map(len, IMAGES.values()))
    assert first.stored == sum(store.list("packs/").values())
    second = take(repository, IMAGES, parent=first.id, hashes=tmp_path / "pages")
    assert (second.size, second.stored) == (first.size, 0)
    assert read_back(repository, second) == IMAGES


def test_numbers_go_on_whoever_takes_the_snapshot() -> None:
    store = MemoryStore()
    repository = opened(store)
    take(repository)
    other = opened(store, keys=repository.secret)
    assert take(other).manifest.sequence == 2
    assert take(repository).manifest.sequence == 3


def test_page_hashes_that_are_lost_or_damaged_or_anothers_cost_space_only(tmp_path: Path) -> None:
    repository = opened()
    kept = tmp_path / "pages"
    first = take(repository, IMAGES, hashes=kept)
    changed = {**IMAGES, "pages-1.img": RANDOM[:4096] + b"new page".ljust(4096, b"!") + RANDOM[8192:]}
    for damage in ("lost", "damaged", "anothers"):
        if damage == "lost":
            kept.unlink()
        elif damage == "damaged":
            kept.write_bytes(kept.read_bytes()[:-1])
        snapshot = take(repository, changed, parent=first.id, hashes=kept)
        assert read_back(repository, snapshot) == changed, damage


def test_a_snapshot_after_a_rotation_of_keys_stands_on_its_own(tmp_path: Path) -> None:
    from criu_agent.repo.secret import rotated

    store = MemoryStore()
    repository = opened(store)
    first = take(repository, IMAGES, hashes=tmp_path / "pages")
    newer = opened(store, keys=rotated(repository.secret))
    second = take(newer, IMAGES, parent=first.id, hashes=tmp_path / "pages")
    assert second.stored > len(RANDOM)
    assert (first.generation, second.generation) == (1, 2)
    for snapshot in (first, second):
        assert read_back(newer, newer.read(snapshot.id)) == IMAGES


def test_a_snapshot_that_is_withdrawn_was_never_there() -> None:
    store = MemoryStore()
    repository = opened(store)
    first = take(repository)
    with writing(repository, EMPTY.run_id, holder=US, lives=lives, parent="", hashes=None) as writer:
        writer.withdraw(writer.commit(EMPTY, NOTHING))
    assert repository.snapshots().snapshots == (first,)
    assert repository.heads.read("run-1").snapshot == first.id
    assert take(repository).manifest.sequence == 2


def test_of_two_writers_the_second_is_told_who_is_at_work() -> None:
    repository = opened()
    with writing(repository, "run-1", holder=US, lives=lives, parent="", hashes=None):
        with pytest.raises(Failure, match=f"locked by pid {US.pid} on h") as caught:
            take(repository, holder=THEM)
        assert "criu-agent unlock run-1" in caught.value.hint
        take(repository, of=replace(EMPTY, run_id="run-2"))
    take(repository)


def test_the_lock_of_a_dead_writer_is_taken_over_and_one_can_be_broken() -> None:
    repository = opened()
    writer = writing(repository, "run-1", holder=US, lives=lives, parent="", hashes=None)
    writer.__enter__()
    take(repository, holders_live=False, holder=THEM)
    writer = writing(repository, "run-1", holder=US, lives=lives, parent="", hashes=None)
    writer.__enter__()
    assert list(locks.holders(repository.registers)) == ["run-1"]
    assert locks.break_lock(repository.registers, "run-1") == US
    take(repository)
    with pytest.raises(NotFound, match="run run-1 is not locked"):
        locks.break_lock(repository.registers, "run-1")


def test_a_lock_that_could_not_be_given_back_is_in_nobodys_way() -> None:
    class ReadOnly(MemoryStore):
        broken = False

        def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
            if self.broken:
                raise Failure("read-only")
            return super().swap(name, old, new)

    store = ReadOnly()
    repository = opened(store)
    with writing(repository, "run-1", holder=US, lives=lives, parent="", hashes=None) as writer:
        snapshot = writer.commit(EMPTY, NOTHING)
        store.broken = True
    store.broken = False
    assert repository.snapshots().snapshots == (snapshot,)
    with pytest.raises(Failure, match="are locked by pid"):
        take(repository, holder=THEM)
    take(repository)
    take(repository, holder=THEM)


def test_a_commit_that_somebody_else_has_overtaken_is_not_made() -> None:
    repository = opened()
    with pytest.raises(Overtaken):  # noqa: SIM117, PT012 - the lock was broken, and two are at work
        with writing(repository, "run-1", holder=US, lives=lives, parent="", hashes=None) as writer:
            locks.break_lock(repository.registers, "run-1")
            other = take(repository)
            writer.commit(EMPTY, NOTHING)
    assert repository.snapshots().snapshots == (other,)


# --- bad luck: the process dies at any call to the store, or the store fails once


SECOND = replace(EMPTY, created="2026-11-21T04:00:00.000000Z")


def crash_test(drive: Callable[..., int], *, fresh: bool) -> int:
    base = MemoryStore()
    first = opened(base)
    before = () if fresh else (take(first, IMAGES),)
    if fresh:
        base.objects.clear()
        header.write(base, created=EMPTY.created, conditional=True)
        first = opened(base)

    def scenario(store: Store) -> None:
        take(opened(store, keys=first.secret), IMAGES | {"more": b"m" * 10_000}, of=SECOND)

    def check(left: MemoryStore, done: bool) -> None:
        after = opened(left, keys=first.secret)
        listing = after.snapshots()
        assert listing.unreadable == ()
        assert listing.snapshots[: len(before)] == before
        assert len(listing.snapshots) <= len(before) + 1
        assert not done or len(listing.snapshots) == len(before) + 1
        for snapshot in listing.snapshots:
            after.reader(snapshot).verify()
        again = take(after, IMAGES, of=replace(SECOND, created="2026-11-21T05:00:00Z"), holders_live=False)
        assert read_back(after, after.find("latest")) == IMAGES
        assert after.find("latest") == again
        with locks.held(after.registers, "run-1", US, lives=dead):
            prune.sweep(after, prune.garbage(after, "run-1"))
        assert prune.garbage(after, "run-1").size == 0
        for snapshot in after.snapshots().snapshots:
            after.reader(snapshot).verify()

    return drive(scenario, check, base.objects)


@pytest.mark.parametrize("fresh", [False, True], ids=["second snapshot", "first snapshot"])
@pytest.mark.parametrize("drive", [every_death, every_failure])
def test_at_no_call_is_a_snapshot_lost_or_half_there_and_the_next_command_repairs(
    drive: Callable[..., int], fresh: bool
) -> None:
    assert crash_test(drive, fresh=fresh) >= 8


@pytest.mark.parametrize("drive", [every_death, every_failure])
def test_forget_and_prune_can_die_at_any_call(drive: Callable[..., int]) -> None:
    base = MemoryStore()
    first = opened(base)
    snapshots = [take(first, {"a": bytes([n]) * 9000 + RANDOM[n:]}, of=replace(EMPTY, tags=("t",))) for n in range(3)]
    first.tag(snapshots[2], ["u"])

    def scenario(store: Store) -> None:
        repository = opened(store, keys=first.secret)
        with locks.held(repository.registers, "run-1", US, lives=dead):
            there = repository.snapshots("run-1").snapshots
            repository.remove([one for one in there if one.id != snapshots[0].id], keep=there)
            prune.sweep(repository, prune.garbage(repository, "run-1"))

    def check(left: MemoryStore, done: bool) -> None:
        repository = opened(left, keys=first.secret)
        listing = repository.snapshots()
        assert listing.unreadable == ()
        assert snapshots[0] in listing.snapshots
        for snapshot in listing.snapshots:
            repository.reader(snapshot).verify()
        if not done:
            scenario(left)
        assert repository.snapshots().snapshots == (snapshots[0],)
        assert list(left.list("packs/")) == [f"packs/run-1/{repository.contents(snapshots[0]).table.packs[0].id}"]
        assert take(repository, holders_live=False).manifest.sequence == 4, "a number is never given twice"

    assert drive(scenario, check, base.objects) >= 15


# --- a store that shows what is not so


def test_a_newest_snapshot_that_is_hidden_is_missed_and_not_replaced_by_an_older_one() -> None:
    store = MemoryStore()
    repository = opened(store)
    _, two = named(repository, "agent", 2)
    del store.objects[catalogue.name_of(two).object]
    with pytest.raises(Corrupt, match=f"snapshot {two.id}, the newest of run agent-0, is missing"):
        repository.find("agent")


def test_snapshots_whose_head_is_gone_or_old_are_not_believed(tmp_path: Path) -> None:
    store = MemoryStore()
    repository = opened(store, state=tmp_path)
    named(repository, "agent", 1)
    old = store.objects["heads/agent-0"]
    named(repository, "agent", 2)
    newest = store.objects["heads/agent-0"]
    for shown in (None, old):
        store.objects.pop("heads/agent-0")
        if shown:
            store.objects["heads/agent-0"] = shown
        for state in (tmp_path, None):  # this host has seen the newest head; another one has never been here
            with pytest.raises(Corrupt, match=r"older state than this host has seen|is missing, or older"):
                opened(store, keys=repository.secret, state=state).find("agent")
        store.objects["heads/agent-0"] = newest
    assert opened(store, keys=repository.secret, state=tmp_path).find("agent").manifest.sequence == 3


def test_a_store_that_was_set_back_as_a_whole_is_noticed_by_who_has_seen_more(tmp_path: Path) -> None:
    store = MemoryStore()
    repository = opened(store, state=tmp_path)
    named(repository, "agent", 2)
    before = dict(store.objects)
    named(repository, "agent", 1)
    store.objects = before
    with pytest.raises(Corrupt, match="older state than this host has seen"):
        opened(store, keys=repository.secret, state=tmp_path).find("agent")
    allowed = opened(store, keys=repository.secret, state=tmp_path, older=True)
    assert allowed.find("agent").manifest.sequence == 2
    assert opened(store, keys=repository.secret, state=tmp_path).find("agent").manifest.sequence == 2
    shutil.rmtree(tmp_path)


# --- damage


def test_one_manifest_in_anothers_place_is_corrupt() -> None:
    store = MemoryStore()
    repository = opened(store)
    first, second = named(repository, "agent", 2)
    store.objects[catalogue.name_of(first).object] = store.objects[catalogue.name_of(second).object]
    with pytest.raises(Corrupt, match=first.id):
        repository.read(first.id)


def test_a_manifest_under_another_number_or_run_is_corrupt() -> None:
    store = MemoryStore()
    repository = opened(store)
    first, second, third = named(repository, "agent", 3)
    name = catalogue.name_of(first)
    data = store.objects.pop(name.object)
    del store.objects[catalogue.name_of(second).object]
    store.objects[replace(name, sequence=2).object] = data
    with pytest.raises(Corrupt, match="lies under the name of another"):
        repository.read(first.id)
    del store.objects[replace(name, sequence=2).object]
    for other in (replace(name, sequence=3), replace(name, sequence=4), replace(name, run="other")):
        store.objects[other.object] = data
        with pytest.raises(NotFound):
            repository.read(first.id)
        assert repository.snapshots().snapshots == (third,)
        del store.objects[other.object]


def rot(store: MemoryStore, snapshot: Snapshot) -> None:
    name = catalogue.name_of(snapshot).object
    store.objects[name] = store.objects[name][:-1]


def test_a_rotten_manifest_does_not_hide_the_others_in_a_listing() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, two, three = named(repository, "agent", 3)
    rot(store, two)
    listing = repository.snapshots()
    assert listing.snapshots == (one, three)
    (error,) = listing.unreadable
    assert two.id in error.message
    assert error.exit_code == 14


def test_while_a_manifest_is_rotten_only_an_id_names_a_snapshot() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, two, three = named(repository, "agent", 3)
    rot(store, three)
    for spec in ("latest", "agent", "agent~1"):
        with pytest.raises(Corrupt, match=three.id) as caught:
            repository.find(spec)
        assert (one if spec == "agent~1" else two).id[:16] in caught.value.hint
    assert repository.find(two.id) == two
    assert repository.find(one.id[:12]) == one
    with pytest.raises(Corrupt, match=three.id):
        repository.find(three.id[:12])


def test_a_snapshot_of_a_later_version_is_told_from_a_rotten_one() -> None:
    store = MemoryStore()
    repository = opened(store)
    first = take(repository)
    take(repository)
    data = b"criu-agent manifest 7\nanything"
    later = blake3(data).hexdigest()
    del store.objects[catalogue.name_of(first).object]
    store.put(catalogue.Name(run="run-1", sequence=1, snapshot=later).object, data)
    with pytest.raises(HostCannot, match=f"snapshot {later} has format 7, this criu-agent reads up to 2"):
        repository.find(later[:8])
    assert [type(error) for error in repository.snapshots().unreadable] == [HostCannot]


# --- tags


def test_tags_change_and_the_manifest_does_not() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, two = named(repository, "agent", 2, tag="first")
    manifest = store.objects[catalogue.name_of(one).object]
    assert repository.find("agent:first") == one
    repository.tag(one, ["second", "third", "second"])
    assert repository.read(one.id).tags == ("second", "third")
    assert repository.find("agent:third").id == one.id
    with pytest.raises(NotFound):
        repository.find("agent:first")
    assert store.objects[catalogue.name_of(one).object] == manifest
    repository.remove([one], keep=[one, two])
    assert not store.list("tags/")


def test_a_forgotten_newest_leaves_the_one_before_it_as_the_newest() -> None:
    repository = opened()
    one, two = named(repository, "agent", 2)
    repository.remove([two], keep=[one, two])
    assert repository.find("agent") == one
    repository.remove([one], keep=[one])
    assert repository.snapshots() == repository.snapshots()
    assert repository.heads.read("agent-0") == heads.Head(revision=4, sequence=2, snapshot="", gone=((1, 2),))


# --- which one is meant


def test_snapshots_are_listed_newest_last() -> None:
    repository = opened()
    later = named(repository, "b", 2, minute=9)
    earlier = named(repository, "a", 2, minute=5)
    assert repository.snapshots().snapshots == (*earlier, *later)


def test_times_are_compared_as_times_and_not_as_text() -> None:
    repository = opened()
    later = take(repository, of=replace(EMPTY, created="2026-11-21T03:14:15.5Z"))
    earlier = take(repository, of=replace(EMPTY, created="2026-11-21T03:14:15Z"))
    assert repository.snapshots().snapshots == (earlier, later)


def test_latest_is_the_newest_of_all_runs() -> None:
    repository = opened()
    named(repository, "a", 3, minute=1)
    newest = named(repository, "b", 2, minute=2)[-1]
    named(repository, "c", 1, minute=0)
    assert repository.find("latest") == newest


def test_a_run_means_its_newest_and_a_tilde_counts_back() -> None:
    repository = opened()
    one, two, three = named(repository, "agent", 3, tag="good")
    named(repository, "other", 2, minute=5)
    assert repository.find("agent") == repository.find("agent-0") == repository.find("agent~0") == three
    assert repository.find("agent~1") == two
    assert repository.find("agent~2") == repository.find("agent:good") == one
    with pytest.raises(NotFound, match="agent has only 3 snapshots"):
        repository.find("agent~3")
    with pytest.raises(NotFound, match="no snapshot with the tag bad"):
        repository.find("agent:bad")


def test_within_a_run_the_number_counts_and_not_the_clock() -> None:
    repository = opened()
    take(repository, of=replace(EMPTY, created="2026-11-21T03:00:00.000000Z"))
    newest = take(repository, of=replace(EMPTY, created="2026-11-21T02:00:00.000000Z"))
    assert repository.find("agent") == newest


def test_a_name_that_was_given_again_means_the_newest_run_of_that_name() -> None:
    repository = opened()
    named(repository, "agent", 3, minute=1)
    again = named(repository, "agent", 1, minute=2)
    assert repository.find("agent") == again[0]
    with pytest.raises(NotFound, match="only 1 snapshot"):
        repository.find("agent~1")


def test_four_digits_of_an_id_are_enough_and_a_tilde_counts_from_there() -> None:
    repository = opened()
    one, two, three = named(repository, "agent", 3)
    for snapshot in (one, two, three):
        assert repository.find(snapshot.id[:4]) == repository.find(snapshot.id) == snapshot
    assert repository.find(f"{two.id[:8]}~1") == one
    with pytest.raises(NotFound):
        repository.find(one.id[:3])


def test_an_ambiguous_prefix_lists_what_it_could_be() -> None:
    one = take(opened())
    twins = [replace(one, id="abcd" + digit * 60) for digit in "12"]
    with pytest.raises(NotFound) as caught:
        specs.choose("abcd", twins)
    for twin in twins:
        assert twin.id[:16] in caught.value.message
    assert caught.value.hint == "type more digits"


def test_the_digits_of_a_runs_id_mean_its_newest() -> None:
    repository = opened()
    take(repository, of=replace(EMPTY, run_id="c0ffee1234"))
    newest = take(repository, of=replace(EMPTY, run_id="c0ffee1234", sequence=2))
    assert repository.find("c0ffee") == newest


def test_a_runs_whole_name_goes_before_the_digits_of_an_id() -> None:
    repository = opened()
    (first,) = named(repository, "agent", 1)
    (other,) = named(repository, first.id[:6], 1, minute=1)
    assert repository.find(first.id[:6]) == other


@pytest.mark.parametrize("spec", ["", "a b", "agent~", "agent~x", "agent:", "../x", "agent~1:tag"])
def test_what_names_no_snapshot_is_a_usage_error(spec: str) -> None:
    with pytest.raises(Usage, match="names no snapshot"):
        opened().find(spec)


@pytest.mark.parametrize("spec", ["latest", "agent", "abcdef", "agent~1", "agent:t"])
def test_an_empty_repository_has_none(spec: str) -> None:
    with pytest.raises(NotFound) as caught:
        opened().find(spec)
    assert caught.value.exit_code == 10


# --- snapshots that are lost


def test_a_snapshot_that_somebody_deleted_is_missed_and_its_run_is_not_pruned() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, two, three = (take(repository, {"a": bytes([n]) * 9000 + RANDOM[n:]}) for n in range(3))
    del store.objects[catalogue.name_of(two).object]
    listing = repository.snapshots()
    assert listing.snapshots == (one, three)
    assert [error.message for error in listing.unreadable] == ["of run run-1 is missing: snapshot number 2"]
    for spec in ("latest", "agent~1"):
        with pytest.raises(Corrupt, match="snapshot number 2"):
            repository.find(spec)
    assert repository.find(one.id) == repository.find(one.id[:8]) == one
    with pytest.raises(Corrupt, match="nothing of run run-1 is pruned") as caught:
        prune.garbage(repository, "run-1")
    assert caught.value.hint.endswith("criu-agent forget --lost run-1")
    assert take(repository).manifest.sequence == 4, "a run can be saved all the same"


def test_what_is_lost_can_be_given_up_and_the_rest_is_used_again() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, two, three, four = (take(repository, {"a": bytes([n]) * 9000 + RANDOM[n:]}) for n in range(4))
    del store.objects[catalogue.name_of(two).object]
    rot(store, four)
    assert repository.give_up("run-1") == ((2, 2), (4, 4))
    assert repository.snapshots().unreadable == ()
    assert repository.find("agent") == three
    assert repository.find("agent~1") == one
    prune.sweep(repository, prune.garbage(repository, "run-1"))
    assert read_back(repository, three)["a"] == bytes([2]) * 9000 + RANDOM[2:]
    assert repository.give_up("run-1") == ()
    assert take(repository).manifest.sequence == 5


@pytest.mark.parametrize("rotten", [None, b"rotten", bytes(1 << 20)], ids=["missing", "damaged", "too long"])
def test_a_head_that_is_lost_can_be_made_anew_of_what_is_there(rotten: bytes | None, tmp_path: Path) -> None:
    store = MemoryStore()
    repository = opened(store, state=tmp_path)
    one, two, three = named(repository, "agent", 3)
    repository.remove([one], keep=[one, two, three])
    store.objects.pop("heads/agent-0")
    if rotten is not None:
        store.objects["heads/agent-0"] = rotten
    with pytest.raises(Corrupt):
        repository.find("agent")
    assert repository.give_up("agent-0") == ((1, 1),)
    assert opened(store, keys=repository.secret, state=tmp_path).find("agent") == three
    assert repository.heads.read("agent-0") == heads.Head(revision=5, sequence=3, snapshot=three.id, gone=((1, 1),))


def test_a_snapshot_of_a_later_version_is_not_given_up() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, _ = named(repository, "agent", 2)
    store.objects[catalogue.name_of(one).object] = b"criu-agent manifest 7\nanything"
    before = dict(store.objects)
    with pytest.raises(HostCannot, match="format 7"):
        repository.give_up("agent-0")
    assert store.objects == before


def test_a_snapshot_that_was_forgotten_cannot_be_brought_back() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, two, three = named(repository, "agent", 3)
    before = dict(store.objects)
    repository.remove([one, three], keep=[one, two, three])
    for name in before.keys() - store.objects.keys():
        store.objects[name] = before[name]
    assert repository.snapshots().snapshots == (two,)
    for gone in (one, three):
        with pytest.raises(NotFound):
            repository.find(gone.id)
    prune.sweep(repository, prune.garbage(repository, "agent-0"))
    assert store.objects.keys() == before.keys() - {catalogue.name_of(gone).object for gone in (one, three)}


@pytest.mark.parametrize(
    "gone",
    [[[0, 1]], [[1, 3]], [[2, 1]], [[1, 1], [2, 2]], [[2, 2], [1, 1]], [[1]], [1], {}, [[True, 1]], [["1", 2]]],
)
def test_a_head_whose_deleted_snapshots_are_no_ranges_is_corrupt(gone: object) -> None:
    repository = opened()
    (one,) = named(repository, "agent", 1)
    register = repository.registers.read("heads/agent-0")
    assert register is not None
    document = {"run": "agent-0", "revision": 2, "sequence": 2, "snapshot": one.id, "gone": gone}
    assert repository.registers.change("heads/agent-0", register, document)
    with pytest.raises(Corrupt, match="'gone' is"):
        repository.heads.read("agent-0")


def test_damaged_tags_do_not_cost_a_snapshot() -> None:
    store = MemoryStore()
    repository = opened(store)
    one, two = named(repository, "agent", 2, tag="made")
    repository.tag(one, ["good"])
    store.objects[f"tags/agent-0/{one.id}"] += b"."
    with pytest.raises(Corrupt) as caught:
        repository.read(one.id)
    assert caught.value.hint.endswith("criu-agent forget --lost agent-0")
    assert repository.give_up("agent-0") == ()
    assert repository.snapshots().snapshots == (one, two)
    assert repository.find("agent:made") == one


@pytest.mark.parametrize("rotten", [b"rotten", bytes(1 << 20)])
def test_a_damaged_lock_stops_its_run_until_somebody_breaks_it(rotten: bytes) -> None:
    store = MemoryStore()
    repository = opened(store)
    take(repository)
    store.objects["locks/run-1"] = rotten
    with pytest.raises(Corrupt, match="register locks/run-1") as caught:
        take(repository)
    assert caught.value.hint.endswith("criu-agent unlock run-1")
    assert locks.break_lock(repository.registers, "run-1") is None
    take(repository)
