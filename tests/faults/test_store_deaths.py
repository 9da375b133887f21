"""The verbs that write to a store, killed before and after each of their calls to it, as the commands do them.

Nothing that was committed is lost, nothing that was not is seen, and saying the command again repairs what is left.
What a checkpoint, forget and prune, and a rotation of the keys leave is tried in tests/unit, too, below these.
"""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from criu_agent.config import Config
from criu_agent.errors import Corrupt, Failure
from criu_agent.model import Snapshot
from criu_agent.ops import host, housekeeping, portable, vault
from criu_agent.repo import check, prune
from criu_agent.repo.repository import Repository
from criu_agent.store.base import Store
from criu_agent.store.memory import MemoryStore
from tests.fakes.dying import every_death, every_failure
from tests.fakes.repositories import EMPTY, take
from tests.fakes.vaults import Objects, config_in, contents_of, grown, store_of

Drive = Callable[..., int]
Pair = tuple[Config, Config, Objects, Objects]  # of two hosts, and what their repositories hold
DRIVES = [every_death, every_failure]
THERE = "/the/other/repository"
BUCKET = "s3://bucket/prefix"


@pytest.fixture(autouse=True)
def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who held a lock is dead by the time that the next command comes: every death is ours."""
    monkeypatch.setattr(host, "lives", lambda _holder: False)


@contextmanager
def stored_at(stores: Mapping[str, Store]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault, "open_store", lambda url, **_options: stores[url])
        yield


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Hosts whose state directories are those of `config`, fresh for every death: what one remembers dies with it."""

    config: Config

    def fresh(self) -> Config:
        directory = self.config.state_dir
        copied = directory.with_name(f"copy-of-{directory.name}")
        shutil.rmtree(copied, ignore_errors=True)
        if directory.exists():
            shutil.copytree(directory, copied)
        return replace(self.config, state_dir=copied)


def nothing(_phase: str, _done: int, _total: int) -> None:
    pass


def of(repository: Repository) -> dict[str, dict[str, bytes]]:
    """All snapshots by the instant of their making, each with the bytes of everything in it. None is unreadable."""
    listing = repository.snapshots()
    assert listing.unreadable == ()
    return {one.manifest.created: contents_of(repository, one) for one in listing.snapshots}


def assert_sound(repository: Repository) -> None:
    """Nothing is missing, damaged, or left to be pruned."""
    assert list(check.check(repository, read=1.0, advance=lambda _count: None, dice=random.Random(1))) == []


def swept(repository: Repository) -> None:
    for one in housekeeping.sweep(repository, dry_run=False):
        assert one.error is None


# --- copy, import, export


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A repository with a history, another one that has the first snapshots of it, and what both hold."""
    made = grown(tmp_path / "here")
    there = replace(made.config, repository=THERE)
    target = MemoryStore()
    with stored_at({made.config.repository: store_of(made.objects), THERE: target}):
        vault.init(there, label="there")
        source, other = vault.open_repository(made.config), vault.open_repository(there)
        portable.copy(made.config, source, other, made.snapshots[:3], progress=nothing)
    return made.config, there, made.objects, dict(target.objects)


@pytest.mark.parametrize("drive", DRIVES)
def test_copy_can_die_at_any_call_to_the_repository_that_it_writes(pair: Pair, drive: Drive) -> None:
    here, there, objects, copied = pair
    with stored_at({here.repository: store_of(objects), THERE: store_of(copied)}):
        expected, before = of(vault.open_repository(here)), of(vault.open_repository(there))
    assert 0 < len(before) < len(expected)

    def copy(store: Store) -> None:
        with stored_at({here.repository: store_of(objects), THERE: store}):
            config = Hosts(config=here).fresh()
            source, target = vault.open_repository(config), vault.open_repository(replace(config, repository=THERE))
            portable.copy(config, source, target, source.snapshots().snapshots, progress=nothing)

    assert drive(copy, copied_so_far(there, before, expected, copy), copied) >= 20


@pytest.mark.parametrize("drive", DRIVES)
def test_import_can_die_at_any_call(
    pair: tuple[Config, Config, Objects, Objects], tmp_path: Path, drive: Drive
) -> None:
    here, there, objects, copied = pair
    path = tmp_path / "exported"
    with stored_at({here.repository: store_of(objects), THERE: store_of(copied)}):
        source, before = vault.open_repository(here), of(vault.open_repository(there))
        newest = source.find("agent-a")
        portable.export(source, newest, path, overwrite=False, progress=nothing)
        expected = before | {newest.manifest.created: contents_of(source, newest)}

    def take_in(store: Store) -> None:
        with stored_at({THERE: store}):
            config = replace(Hosts(config=there).fresh(), repository=THERE)
            with vault.exported(config, path) as archived:
                portable.take_in(config, archived, vault.open_repository(config), progress=nothing)

    assert drive(take_in, copied_so_far(there, before, expected, take_in), copied) >= 12


def copied_so_far(
    there: Config,
    before: Mapping[str, dict[str, bytes]],
    expected: Mapping[str, dict[str, bytes]],
    again: Callable[[Store], None],
) -> Callable[[MemoryStore, bool], None]:
    """Each snapshot is there wholly or not at all, those that were before are, and saying it again adds the rest."""

    def assert_copied(left: MemoryStore, done: bool) -> None:
        config = Hosts(config=there).fresh()
        with stored_at({THERE: left}):
            found = of(vault.open_repository(config))
        assert before.items() <= found.items()
        assert {created: expected[created] for created in found} == found
        assert not done or found == expected
        again(left)
        with stored_at({THERE: left}):
            repository = vault.open_repository(config)
            assert of(repository) == expected
            swept(repository)
            assert_sound(repository)

    return assert_copied


@pytest.mark.parametrize("drive", DRIVES)
def test_export_can_die_at_any_call_and_leaves_a_whole_file_or_none(tmp_path: Path, drive: Drive) -> None:
    made = grown(tmp_path / "here")
    path = tmp_path / "exported"

    def export(store: Store) -> None:
        path.unlink(missing_ok=True)
        with stored_at({made.config.repository: store}):
            repository = vault.open_repository(made.config)
            portable.export(repository, repository.find("agent-b"), path, overwrite=False, progress=nothing)

    def assert_whole(left: MemoryStore, done: bool) -> None:
        assert left.objects == made.objects
        assert path.exists() == done
        assert sorted(one.name for one in tmp_path.iterdir()) == ["exported", "here"][not done :]

    assert drive(export, assert_whole, made.objects) >= 10


# --- tag, forget, prune


@pytest.mark.parametrize("drive", DRIVES)
def test_tag_can_die_at_any_call(tmp_path: Path, drive: Drive) -> None:
    made = grown(tmp_path)
    wanted = [one.id for one in made.snapshots]
    old = {one.id: set(one.tags) for one in tagged(made.config, made.objects)}

    def tag(store: Store) -> None:
        with stored_at({made.config.repository: store}):
            repository = vault.open_repository(made.config)
            housekeeping.retag(repository, [repository.read(one) for one in wanted], add=["new"], remove=["kept"])

    def assert_tagged(left: MemoryStore, done: bool) -> None:
        found = tagged(made.config, left.objects)
        assert [one.id for one in found] == [one.id for one in tagged(made.config, made.objects)]
        for one in found:
            new = (old[one.id] - {"kept"}) | {"new"}
            assert set(one.tags) == new or (not done and set(one.tags) == old[one.id])
        tag(left)
        assert all(set(one.tags) == (old[one.id] - {"kept"}) | {"new"} for one in tagged(made.config, left.objects))

    assert drive(tag, assert_tagged, made.objects) >= 15


def tagged(config: Config, objects: Objects) -> tuple[Snapshot, ...]:
    with stored_at({config.repository: store_of(objects)}):
        listing = vault.open_repository(config).snapshots()
    assert listing.unreadable == ()
    return listing.snapshots


@pytest.mark.parametrize("drive", DRIVES)
def test_forget_with_prune_can_die_at_any_call(tmp_path: Path, drive: Drive) -> None:
    made = grown(tmp_path)
    with stored_at({made.config.repository: store_of(made.objects)}):
        before = of(vault.open_repository(made.config))
    doomed = [made.snapshots[0], made.snapshots[1], made.snapshots[-1]]  # of both runs, a newest among them
    gone = {one.manifest.created for one in doomed}

    def forget(store: Store) -> None:
        with stored_at({made.config.repository: store}):
            config = Hosts(config=made.config).fresh()
            repository = vault.open_repository(config)
            there = [one for one in repository.snapshots().snapshots if one.manifest.created in gone]
            housekeeping.forget(config, repository, chosen=there, rules=None, dry_run=False)
            swept(repository)

    def assert_forgotten(left: MemoryStore, done: bool) -> None:
        with stored_at({made.config.repository: left}):
            found = of(vault.open_repository(Hosts(config=made.config).fresh()))
        assert {created: one for created, one in before.items() if created not in gone}.items() <= found.items()
        assert {created: before[created] for created in found} == found
        forget(left)
        with stored_at({made.config.repository: left}):
            repository = vault.open_repository(Hosts(config=made.config).fresh())
            assert of(repository).keys() == before.keys() - gone
            assert_sound(repository)

    assert drive(forget, assert_forgotten, made.objects) >= 40


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("head", [True, False], ids=["with its head", "without its head"])
def test_giving_up_what_is_lost_can_die_at_any_call(tmp_path: Path, drive: Drive, head: bool) -> None:
    made = grown(tmp_path)
    with stored_at({made.config.repository: store_of(made.objects)}):
        before = of(vault.open_repository(made.config))
    lost = next(one for one in made.snapshots if one.manifest.run_id == "run-a")
    kept = {created: one for created, one in before.items() if created != lost.manifest.created}
    objects = {name: data for name, data in made.objects.items() if lost.id not in name or "tags" in name}
    if not head:
        del objects["heads/run-a"]

    def give_up(store: Store) -> None:
        with stored_at({made.config.repository: store}):
            repository = vault.open_repository(Hosts(config=made.config).fresh())
            list(housekeeping.give_up(repository, []))

    def assert_given_up(left: MemoryStore, done: bool) -> None:
        with stored_at({made.config.repository: left}):
            repository = vault.open_repository(Hosts(config=made.config).fresh())
            assert len(repository.snapshots().unreadable) <= (not done)
            give_up(left)
            assert of(repository) == kept
            swept(repository)
            assert_sound(repository)
            assert take(repository, of=replace(EMPTY, run_id="run-a"), holders_live=False).manifest.sequence == 5

    assert drive(give_up, assert_given_up, objects) >= 15


# --- init, key rotate


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("url", ["/srv/repository", BUCKET])
def test_init_can_die_at_any_call_and_is_said_again(tmp_path: Path, drive: Drive, url: str) -> None:
    """On the same host, which has what the first one wrote there, and on another one."""
    number = 0

    def config() -> Config:
        return config_in(tmp_path / str(number), repository=url)

    def init(store: Store) -> None:
        nonlocal number
        number += 1
        with stored_at({url: store}):
            vault.init(config(), label="here")

    def assert_made(left: MemoryStore, done: bool) -> None:
        for again in (config(), config_in(tmp_path / f"{number}-other", repository=url)):
            store = store_of(left.objects)
            with stored_at({url: store}):
                here = Hosts(config=again).fresh()
                try:
                    vault.init(here, label="again")
                except Failure as error:
                    assert "there is a repository" in error.message  # noqa: PT017 - it may be there or not
                    here = Hosts(config=config()).fresh()  # the host that made it has its key
                else:
                    assert not done
                assert {name.partition("/")[0] for name in store.objects} == {"config", "keys"}
                repository = vault.open_repository(here)
                assert len([name for name in store.objects if name.startswith("keys/")]) == 1
                take(repository, {"core-1.img": b"core"})
                assert len(vault.open_repository(here).snapshots().snapshots) == 1

    assert drive(init, assert_made, {}) >= 5


@pytest.mark.parametrize("drive", DRIVES)
def test_rotate_can_die_at_any_call_and_every_host_opens_it_as_before(tmp_path: Path, drive: Drive) -> None:
    """The host that rotates, one that only has the key file, and one that has it and has seen the keys of before."""
    made = grown(tmp_path / "here", rotated=False)
    hosts = Hosts(config=made.config)
    stranger = replace(made.config, state_dir=tmp_path / "stranger", key_file=made.key_file)
    with stored_at({made.config.repository: store_of(made.objects)}):
        before = of(vault.open_repository(made.config))
    rotating = hosts.fresh()

    def rotate(store: Store) -> None:
        nonlocal rotating
        rotating = hosts.fresh()
        with stored_at({made.config.repository: store}):
            vault.rotate_keys(rotating, vault.open_repository(rotating), passphrases=(), drop=())

    def assert_opens(left: MemoryStore, done: bool) -> None:
        shutil.rmtree(stranger.state_dir, ignore_errors=True)
        with stored_at({made.config.repository: left}):
            generations = set()
            for config in (rotating, stranger, made.config):
                try:
                    repository = vault.open_repository(config)
                except Corrupt as error:
                    raise AssertionError(config) from error
                generations.add(repository.secret.current.number)
                assert of(repository) == before
            assert generations <= {1, 2}
            assert len(generations) == 1
            assert not done or generations == {2}
            vault.rotate_keys(rotating, vault.open_repository(rotating), passphrases=(), drop=())
            repository = vault.open_repository(stranger)
            assert len(vault.key_entries(repository).keys) == 2
            assert not any(one.stale for one in vault.key_entries(repository).keys)
            assert of(repository) == before
            take(repository, of=replace(EMPTY, run_id="run-a"), holders_live=False)
            assert prune.garbage(repository, "run-a").size == 0
        shutil.rmtree(made.config.state_dir / "seen")

    assert drive(rotate, assert_opens, made.objects) >= 10
