"""Whatever happens to the objects of a repository, nobody is given another snapshot, or other bytes, than was saved.

Each damage is met by a host as a user has it, which opens the repository by its key file: every use of it either
gives what an undamaged repository gives, or an error that says so.
"""

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest

from criu_agent.config import Config
from criu_agent.errors import Corrupt, Failure, HostCannot, NotFound, WrongKey
from criu_agent.model import Snapshot
from criu_agent.ops import vault
from criu_agent.repo import check, prune
from criu_agent.repo.heads import Head
from criu_agent.repo.repository import Repository
from tests.fakes.damage import Damage, damages
from tests.fakes.repositories import take
from tests.fakes.vaults import Objects, Vault, grown, store_of, stored_in

COUNT = 2016  # 288 for each class
WORKERS = 2
# Where the fields of an object begin (docs/format.md C4 to C8): version line, signer, signature, generation, salt
CLASSES = {
    "config": (11, 22, 24, 38),
    "keys/": (11, 17, 49, 113, 117, 181, 245, 246, 248),
    "packs/": (11, 16, 18, 22, 54),
    "snapshots/": (11, 20, 22, 54, 118, 122, 154),
    "heads/": (11, 20, 22, 54, 118, 122, 154),
    "tags/": (11, 20, 22, 54, 118, 122, 154),
    "locks/": (11, 20, 22, 54, 118, 122, 154),
}
SPECS = ("latest", "agent-a~1", "agent-b:kept")
MOST_MEMORY = 256 << 20
LONGEST = 30.0  # seconds
REFUSALS = (Corrupt, HostCannot, NotFound, WrongKey)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one damage: which uses noticed it, and which gave something else than they should."""

    damage: str
    kind: str
    noticed: tuple[str, ...]
    wrong: tuple[str, ...]
    seconds: float
    peak: int  # bytes


# What is not noticed, and why it does no harm. No other bytes come of it, and no other snapshot of a run or id.
HARMLESS = {
    "tags replay": "the tags are those of before: nothing but tags and the host's memory of heads could say so",
    "tags deletion": "the tags are those that the snapshot was made with",
    "locks replay": "it is free as before; the lock of a process that has ended is taken over",
    "locks deletion": "nobody holds it: who finds no lock makes one",
    "keys deletion": "of another recipient, who is told so when he comes; as if `key remove` had done it",
}
# The newest snapshot is taken for one that was never committed, by a host that has only the store to believe.
OLD_HEAD = "heads replay"


def test_no_damage_is_undetected(tmp_path: Path) -> None:
    made = grown(tmp_path / "here")
    verdicts = judged(made, foreign=grown(tmp_path / "there", seed=2).objects, count=COUNT, strangers=False)
    assert len(verdicts) == COUNT
    assert {one.kind for one in verdicts if not one.noticed} == HARMLESS.keys()
    assert_right(verdicts)


def test_a_host_that_has_never_seen_the_repository_misses_an_old_head_and_nothing_else(tmp_path: Path) -> None:
    made = grown(tmp_path / "here")
    verdicts = judged(made, foreign=grown(tmp_path / "there", seed=2).objects, count=420, strangers=True)
    assert {one.kind for one in verdicts if not one.noticed} == HARMLESS.keys()
    missed = [one for one in verdicts if one.kind == OLD_HEAD]
    assert missed
    assert all("list" in one.wrong and "check" in one.noticed for one in missed)
    assert_right([one for one in verdicts if one.kind != OLD_HEAD])


def assert_right(verdicts: list[Verdict]) -> None:
    """No use gave what it should not, and none took more than it may."""
    wrong = [one for one in verdicts if one.wrong and one.kind not in HARMLESS]
    assert not wrong
    # of those that are harmless, tags and keys are seen to be others
    assert {use for one in verdicts for use in one.wrong} <= {"tags", "find agent-b:kept", "key list"}
    assert max(one.seconds for one in verdicts) < LONGEST
    assert max(one.peak for one in verdicts) < MOST_MEMORY


@pytest.mark.parametrize("known", [True, False], ids=["known", "stranger"])
def test_what_is_put_back_into_the_store_is_not_believed(tmp_path: Path, known: bool) -> None:
    """Objects that were deleted, one that was never committed, and those of another repository."""
    made = grown(tmp_path / "here")
    other = grown(tmp_path / "there", seed=2)
    config = made.config if known else stranger(made, tmp_path / "stranger")
    expected = uses(config, made, made.objects)
    back = {**made.gone, **left_behind(made, early=False), **other.objects}
    back = {name: data for name, data in back.items() if name not in made.objects}
    assert {name.partition("/")[0] for name in back} == {"snapshots", "keys", "packs", "tags"}
    for name, data in back.items():
        found = uses(config, made, {**made.objects, name: data})
        wrong = {use for use, value in found.items() if not isinstance(value, Failure) and value != expected[use]}
        # what is to be pruned, and keys that are stale
        assert wrong <= {"prune run-a", "prune run-b", "key list"}, name
        refused = {use for use, value in found.items() if isinstance(value, Failure)}
        forged = name in other.objects and name.startswith("snapshots/")  # a number that is there twice
        assert refused <= {"check", "key list"} or forged, name
        assert all(found[f"read {one.id[:8]}"] == expected[f"read {one.id[:8]}"] for one in made.snapshots), name


def test_of_two_manifests_with_one_number_none_is_chosen_and_forget_lost_keeps_the_committed_one(
    tmp_path: Path,
) -> None:
    made = grown(tmp_path / "here")
    expected = uses(made.config, made, made.objects)
    ((name, data),) = left_behind(made, early=True).items()
    objects = {**made.objects, name: data}
    found = uses(made.config, made, objects)
    refused = {use for use, value in found.items() if isinstance(value, Corrupt)}
    assert refused == {"list", *(f"find {spec}" for spec in SPECS), "check", "prune run-a"}
    assert all(found[use] == expected[use] for use in found.keys() - refused)
    assert "forget --lost run-a" in str(getattr(found["list"], "hint", ""))
    store = store_of(objects)
    with stored_in(store):
        repository = vault.open_repository(made.config)
        assert repository.give_up("run-a") == ()
        assert name not in store.objects
        assert uses(made.config, made, store.objects) == expected


def left_behind(made: Vault, *, early: bool) -> dict[str, bytes]:
    """The manifest that a writer left which died before its commit: with the number after the last snapshot's, or
    early, with one that was then given to another one."""
    first, *_, newest = (one for one in made.snapshots if one.manifest.run_id == "run-a")
    store = store_of(made.objects)
    with stored_in(store):
        repository = vault.open_repository(stranger(made, made.config.state_dir.with_name("left")))
        if early:
            repository.remove([one for one in repository.snapshots("run-a").snapshots if one.id != first.id])
            repository.heads.renew("run-a", Head(revision=1, sequence=2, snapshot=first.id, gone=((1, 1),)))
        before = set(store.objects)
        take(repository, {"core-1.img": b"never"}, of=replace(newest.manifest, tags=("kept",)))
    names = [name for name in store.objects if name not in before and name.startswith("snapshots/")]
    assert len(names) == 1
    return {name: store.objects[name] for name in names}


def judged(made: Vault, *, foreign: Objects, count: int, strangers: bool) -> list[Verdict]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        shares = [pool.submit(judge, made, foreign, count, strangers, number) for number in range(WORKERS)]
        return [verdict for share in shares for verdict in share.result()]


def judge(made: Vault, foreign: Objects, count: int, strangers: bool, share: int) -> list[Verdict]:
    """Every WORKERS-th damage, met by the host which made the repository, or each by one that has only the key."""
    config = replace(made.config, state_dir=made.config.state_dir.with_name(f"state-{share}"))
    shutil.copytree(made.config.state_dir, config.state_dir)
    before = contents_of(config.state_dir)
    expected = uses(config, made, made.objects)
    assert not any(isinstance(one, Failure) for one in expected.values()), expected
    found: list[Verdict] = []
    for number, damage in enumerate(damages(made.objects, CLASSES, count, 1, older=made.older, foreign=foreign)):
        if number % WORKERS == share:
            host = stranger(made, made.config.state_dir.with_name(f"stranger-{number}")) if strangers else config
            found.append(verdict_on(damage, expected, host, made))
    assert contents_of(config.state_dir) == before, "what this host remembers was changed by what is not believed"
    return found


def stranger(made: Vault, directory: Path) -> Config:
    """A host that has nothing but the key file."""
    return replace(made.config, state_dir=directory / "state", key_file=made.key_file)


def contents_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def verdict_on(damage: Damage, expected: dict[str, object], config: Config, made: Vault) -> Verdict:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of this process begins anew (man 5 proc)
    began = time.monotonic()
    found = uses(config, made, damage.apply(made.objects))
    seconds = time.monotonic() - began
    noticed = [use for use, value in found.items() if isinstance(value, Failure)]
    wrong = [use for use, value in found.items() if not isinstance(value, Failure) and value != expected[use]]
    return Verdict(
        damage=damage.description,
        kind=f"{damage.name.partition('/')[0]} {damage.kind}",
        noticed=tuple(noticed),
        wrong=tuple(wrong),
        seconds=seconds,
        peak=peak(),
    )


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def uses(config: Config, made: Vault, objects: Objects) -> dict[str, object]:
    """What every use of the repository gives, or the error that it ends with."""
    found: dict[str, object] = {}

    def use(name: str, work: Callable[[], object]) -> None:
        try:
            found[name] = work()
        except REFUSALS as error:
            found[name] = error

    with stored_in(store_of(objects)):
        try:
            repository = vault.open_repository(config)
        except REFUSALS as error:
            return {"open": error}
        use("list", lambda: [snapshot.id for snapshot in listed(repository)])
        use("tags", lambda: [repository.read(snapshot.id).tags for snapshot in made.snapshots[:2]])
        for spec in SPECS:
            use(f"find {spec}", lambda spec=spec: repository.find(spec).id)
        for snapshot in made.snapshots:
            use(f"read {snapshot.id[:8]}", lambda one=snapshot: digest(repository, one.id))
        use("check", lambda: checked(repository))
        use("key list", lambda: keys(repository))
        for run_id in ("run-a", "run-b"):
            use(f"prune {run_id}", lambda run_id=run_id: sorted(prune.garbage(repository, run_id).packs))
        for name in ("run-a", "run-b", "keys"):
            use(f"lock {name}", lambda name=name: lock(repository, name))
    return found


def listed(repository: Repository) -> tuple[Snapshot, ...]:
    listing = repository.snapshots()
    if listing.unreadable:
        raise listing.unreadable[0]
    return listing.snapshots


def digest(repository: Repository, snapshot_id: str) -> str:
    snapshot: Snapshot = repository.read(snapshot_id)
    contents = repository.contents(snapshot)
    reader = repository.reader(snapshot, contents)
    tree = contents.trees["upper"]
    all_of_it = sha256(repr(snapshot.manifest).encode())
    for blob in (*contents.images.values(), tree.index, *tree.blobs, *contents.attachments.values()):
        for part in reader.stream(blob):
            all_of_it.update(part)
    return all_of_it.hexdigest()


def checked(repository: Repository) -> object:
    for one in check.check(repository, read=1.0, advance=lambda _count: None, dice=random.Random(1)):
        raise Corrupt(f"{one.state}: {one.object}")
    return "nothing is damaged"


def keys(repository: Repository) -> object:
    entries = vault.key_entries(repository)
    for error in entries.unreadable.values():
        raise error
    return [one.id for one in entries.keys]


def lock(repository: Repository, run_id: str) -> object:
    with vault.locked(repository, run_id, "test"):
        return "held"
