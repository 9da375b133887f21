"""Snapshots in a store: the manifest last, nothing lost, no damage unseen, and which one a name means."""

import io
import os
import random
from dataclasses import replace

import pytest
from blake3 import blake3

from criu_agent.errors import Corrupt, Failure, HostCannot, NotFound, Usage
from criu_agent.model import Host, Manifest, Snapshot, Tree
from criu_agent.repo.chunks import CHUNK_SIZE, Blob
from criu_agent.repo.repository import Repository, open_or_init
from criu_agent.store.memory import MemoryStore

HOST = Host(hostname="h", boot_id="b", kernel="6.1", machine="x86_64", page_size=4096, criu="4.1.1")
EMPTY = Manifest(
    run_id="run-1",
    run_name="agent",
    sequence=1,
    parent="",
    created="2026-11-21T03:14:15.000001Z",
    reason="user",
    stopped=False,
    argv=("bash",),
    workdir="/srv",
    labels={},
    tags=(),
    host=HOST,
    images={},
    trees={},
    attachments={},
    resources={},
)


def take(repository: Repository, seed: int = 0, *, of: Manifest = EMPTY, chunks: int = 3) -> Snapshot:
    """Save and commit a snapshot of a few chunks, as a checkpoint does."""
    data = random.Random(seed).randbytes(chunks * CHUNK_SIZE - 100)

    def blob(content: bytes) -> Blob:
        return repository.save(io.BytesIO(content), len(content))

    return repository.commit(
        replace(
            of,
            images={"pages-1.img": blob(data), "core-1.img": blob(data[:100])},
            trees={"upper": Tree(index=blob(data[100:300]), blobs=(blob(data[300:900]),))},
            attachments={"scrollback": blob(data[900:1000])},
        )
    )


def named(repository: Repository, name: str, count: int, *, minute: int = 0, tag: str = "") -> list[Snapshot]:
    """`count` empty snapshots of a run, a second apart; the first one has the tag."""
    return [
        repository.commit(
            replace(
                EMPTY,
                run_id=f"{name}-{minute}",
                run_name=name,
                sequence=number,
                created=f"2026-11-21T03:{minute:02}:{number:02}.000000Z",
                tags=(tag,) if tag and number == 1 else (),
            )
        )
        for number in range(1, count + 1)
    ]


def opened(store: MemoryStore | None = None) -> Repository:
    return open_or_init(store if store is not None else MemoryStore())


# --- the repository itself


def test_a_repository_keeps_its_id() -> None:
    store = MemoryStore()
    assert opened(store).id == opened(store).id
    assert list(store.list("")) == ["config"]


def test_a_repository_of_a_later_version_is_refused_before_its_content_is_looked_at() -> None:
    body = b"criu-agent repository 2\n\xff\x00 whatever version 2 is\n"
    store = MemoryStore()
    store.put("config", body + blake3(body).hexdigest().encode() + b"\n")
    with pytest.raises(HostCannot, match="format 2, this criu-agent reads up to 1"):
        opened(store)


def test_a_repository_that_lost_its_config_is_not_made_anew() -> None:
    store = MemoryStore()
    take(opened(store))
    del store.objects["config"]
    with pytest.raises(Corrupt, match="config of the repository is missing"):
        opened(store)
    assert "config" not in store.objects


def test_every_flipped_bit_and_every_truncation_of_config_is_refused() -> None:
    store = MemoryStore()
    opened(store)
    whole = store.objects["config"]
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        store.objects["config"] = bytes(damaged)
        with pytest.raises(Corrupt, match="config of the repository"):
            opened(store)
    for length in range(len(whole)):
        store.objects["config"] = whole[:length]
        with pytest.raises(Corrupt, match="config of the repository"):
            opened(store)


# --- commit


class RecordingStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []

    def put(self, name: str, data: bytes) -> bool:
        self.puts.append(name)
        return super().put(name, data)


def test_the_manifest_is_written_last() -> None:
    store = RecordingStore()
    repository = opened(store)
    snapshot = take(repository)
    assert store.puts[0] == "config"
    assert store.puts[-1] == f"snapshots/{snapshot.id}"
    assert {name.partition("/")[0] for name in store.puts[1:-1]} == {"chunks"}


def test_a_snapshot_comes_back_as_it_was_committed() -> None:
    store = MemoryStore()
    snapshot = take(opened(store))
    again = opened(store)
    assert again.read(snapshot.id) == snapshot
    assert again.snapshots().snapshots == (snapshot,)
    assert snapshot.id == blake3(store.objects[f"snapshots/{snapshot.id}"]).hexdigest()
    image = snapshot.manifest.images["pages-1.img"]
    assert b"".join(again.stream(image)) == random.Random(0).randbytes(image.size)


def test_a_snapshot_says_how_large_it_is_and_what_it_added() -> None:
    store = MemoryStore()
    repository = opened(store)
    first = take(repository)
    assert first.size == 3 * CHUNK_SIZE - 100 + 100 + 200 + 600 + 100
    assert first.stored == sum(len(data) for name, data in store.objects.items() if name.startswith("chunks/"))
    second = take(repository, of=replace(EMPTY, sequence=2))
    assert (second.size, second.stored) == (first.size, 0)


def test_a_deleted_snapshot_is_gone_and_leaves_the_others_whole() -> None:
    repository = opened()
    first, second = take(repository), take(repository, of=replace(EMPTY, sequence=2))
    repository.delete_snapshot(first.id)
    assert repository.snapshots().snapshots == (second,)
    repository.verify(second)
    with pytest.raises(NotFound):
        repository.read(first.id)


# --- bad luck: the process dies at any call to the store


class DyingStore(MemoryStore):
    """Fails for good at call number `last`, before it or after it took effect."""

    def __init__(self, objects: dict[str, bytes], last: int, *, after: bool) -> None:
        super().__init__()
        self.objects = objects
        self.left = last
        self.after = after

    def _dead(self, *, now_or_before: bool) -> None:
        if now_or_before:
            self.left -= 1
        if self.left < 0 or (self.left == 0 and self.after is not now_or_before):
            raise Failure("the host died")

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        self._dead(now_or_before=True)
        data = super().get(name, limit, offset=offset)
        self._dead(now_or_before=False)
        return data

    def put(self, name: str, data: bytes) -> bool:
        self._dead(now_or_before=True)
        made = super().put(name, data)
        self._dead(now_or_before=False)
        return made

    def size(self, name: str) -> int | None:
        self._dead(now_or_before=True)
        size = super().size(name)
        self._dead(now_or_before=False)
        return size

    def list(self, prefix: str) -> dict[str, int]:
        self._dead(now_or_before=True)
        names = super().list(prefix)
        self._dead(now_or_before=False)
        return names


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after it"])
@pytest.mark.parametrize("fresh", [False, True], ids=["second snapshot", "new repository"])
def test_whenever_the_store_fails_no_snapshot_is_lost_and_none_is_half_there(after: bool, fresh: bool) -> None:
    base = MemoryStore()
    committed = () if fresh else (take(opened(base)),)
    second = replace(EMPTY, sequence=2, created="2026-11-21T04:00:00.000000Z")
    for number in range(1, 1000):
        objects = dict(base.objects)
        try:
            take(opened(DyingStore(objects, number, after=after)), seed=1, of=second)
            break
        except Failure as error:
            assert error.message == "the host died"  # noqa: PT017 - the loop ends where nothing is raised
        survivor = MemoryStore()
        survivor.objects = objects
        listing = opened(survivor).snapshots()
        assert listing.unreadable == ()
        assert listing.snapshots[: len(committed)] == committed
        for snapshot in listing.snapshots:  # at most the second, when only the answer of the last put was lost
            opened(survivor).verify(snapshot)
        again = take(opened(survivor), seed=1, of=second)
        opened(survivor).verify(again)
        assert opened(survivor).find("latest").manifest.sequence == 2
    else:
        raise AssertionError("it never came through")
    assert number > 10, "the faults did not reach the calls"


# --- damage


def test_all_damage_to_any_object_is_refused_and_names_it() -> None:
    store = MemoryStore()
    repository = opened(store)
    snapshot = take(repository, chunks=1)
    rng = random.Random(5)
    refused = 0
    for name, whole in list(store.objects.items()):
        bits = range(8 * len(whole))
        flips = set(rng.sample(bits, min(len(bits), 400))) | set(bits[: 8 * 50]) | set(bits[-64:])
        for bit in flips:
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            refused += _refuses(store, name, bytes(damaged), snapshot)
        for length in {0, 1, len(whole) // 2, len(whole) - 1}:
            refused += _refuses(store, name, whole[:length], snapshot)
        store.objects[name] = whole
    assert refused > 2000
    opened(store).verify(snapshot)


def _refuses(store: MemoryStore, name: str, damaged: bytes, snapshot: Snapshot) -> int:
    store.objects[name] = damaged
    with pytest.raises(Corrupt) as caught:
        opened(store).verify(snapshot)
    assert name.rpartition("/")[2] in caught.value.message
    return 1


def test_a_deleted_object_is_missed_by_name() -> None:
    store = MemoryStore()
    snapshot = take(opened(store))
    for name, whole in list(store.objects.items()):
        del store.objects[name]
        with pytest.raises((Corrupt, NotFound), match=name.rpartition("/")[2]) as caught:
            opened(store).verify(snapshot)
        assert isinstance(caught.value, Corrupt) or name.startswith("snapshots/")
        store.objects[name] = whole


def test_one_manifest_in_anothers_place_is_corrupt() -> None:
    store = MemoryStore()
    repository = opened(store)
    first, second = named(repository, "agent", 2)
    store.objects[f"snapshots/{first.id}"] = store.objects[f"snapshots/{second.id}"]
    with pytest.raises(Corrupt, match=first.id):
        repository.read(first.id)


def rot(store: MemoryStore, snapshot: Snapshot) -> None:
    store.objects[f"snapshots/{snapshot.id}"] = store.objects[f"snapshots/{snapshot.id}"][:-1]


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
    data = b"criu-agent manifest 7\nanything"
    later = blake3(data).hexdigest()
    store.put(f"snapshots/{later}", data)
    with pytest.raises(HostCannot, match=f"snapshot {later} has format 7, this criu-agent reads up to 1"):
        repository.find(later[:8])
    assert [type(error) for error in repository.snapshots().unreadable] == [HostCannot]


# --- which one is meant


def test_snapshots_are_listed_newest_last() -> None:
    repository = opened()
    later = named(repository, "b", 2, minute=9)
    earlier = named(repository, "a", 2, minute=5)
    assert repository.snapshots().snapshots == (*earlier, *later)


def test_times_are_compared_as_times_and_not_as_text() -> None:
    repository = opened()
    later = repository.commit(replace(EMPTY, created="2026-11-21T03:14:15.5Z"))
    earlier = repository.commit(replace(EMPTY, created="2026-11-21T03:14:15Z"))
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
    newest = repository.commit(replace(EMPTY, sequence=2, created="2026-11-21T02:00:00.000000Z"))
    repository.commit(replace(EMPTY, sequence=1, created="2026-11-21T03:00:00.000000Z"))
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
    repository = opened()
    seen: dict[str, Snapshot] = {}
    for number in range(1, 5000):
        snapshot = repository.commit(replace(EMPTY, sequence=number))
        twin = seen.setdefault(snapshot.id[:4], snapshot)
        if twin != snapshot:
            break
    with pytest.raises(NotFound) as caught:
        repository.find(snapshot.id[:4])
    assert snapshot.id[:16] in caught.value.message
    assert twin.id[:16] in caught.value.message
    assert caught.value.hint == "type more digits"


def test_the_digits_of_a_runs_id_mean_its_newest() -> None:
    repository = opened()
    repository.commit(replace(EMPTY, run_id="c0ffee1234"))
    newest = repository.commit(replace(EMPTY, run_id="c0ffee1234", sequence=2))
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


def test_saving_from_a_descriptor_and_loading_to_one_goes_through() -> None:
    repository = opened()
    source = os.memfd_create("source")
    os.write(source, b"x" * 3_000_000)
    os.lseek(source, 0, os.SEEK_SET)
    target = os.memfd_create("target")
    repository.load(repository.save(source, 3_000_000), target)
    assert os.pread(target, 4_000_000, 0) == b"x" * 3_000_000
    os.close(source)
    os.close(target)
