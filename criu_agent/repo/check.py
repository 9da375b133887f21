"""Is everything there that the snapshots need, and is it what was written? A finding for each object that is not."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from criu_agent.errors import Corrupt, HostCannot
from criu_agent.model import Contents, Pack, Piece, Snapshot, Table
from criu_agent.repo import packs
from criu_agent.repo.packs import SEGMENT
from criu_agent.repo.prune import garbage, runs
from criu_agent.repo.repository import Repository
from criu_agent.repo.seal import sealed_size

State = Literal["missing", "corrupt", "orphaned"]
Advance = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """missing, corrupt: the snapshots that are named in `detail` cannot be restored. orphaned: `prune` deletes it."""

    object: str
    state: State
    detail: str


@dataclass(frozen=True, kw_only=True)
class _Needed:
    """A pack that snapshots of a run need, with all pieces that they have in it."""

    run_id: str
    pack: Pack
    pieces: tuple[Piece, ...]
    snapshots: tuple[str, ...]

    @property
    def name(self) -> str:
        return packs.prefix(self.run_id) + self.pack.id


def check(repository: Repository, *, read: float, advance: Advance, dice: random.Random) -> Iterator[Finding]:
    """read: which part of the packs is read whole, 0 to 1, chosen by the dice; `advance` is told their bytes."""
    for run_id in runs(repository):
        listing = repository.snapshots(run_id)
        for error in listing.unreadable:
            yield Finding(object=f"snapshots of run {run_id}", state="corrupt", detail=error.message)
        contents = [(one, repository.contents(one)) for one in listing.snapshots]
        sizes = repository.store.list(packs.prefix(run_id))
        needed = _needed(run_id, contents)
        yield from _sizes(needed, sizes)
        for one in needed:
            if one.name in sizes and dice.random() < read:
                yield from _read(repository, one)
                advance(sizes[one.name])
        if not listing.unreadable:
            yield from _orphans(repository, run_id)


def _sizes(needed: list[_Needed], sizes: Mapping[str, int]) -> Iterator[Finding]:
    for one in needed:
        wanted = sealed_size(one.pack.length)
        if one.name not in sizes:
            yield Finding(object=one.name, state="missing", detail=f"needed by {_named(one.snapshots)}")
        elif sizes[one.name] != wanted:
            detail = f"{sizes[one.name]} bytes instead of {wanted}; needed by {_named(one.snapshots)}"
            yield Finding(object=one.name, state="corrupt", detail=detail)


def _read(repository: Repository, one: _Needed) -> Iterator[Finding]:
    """Every byte of the pack, the padding too, and every piece that is needed of it."""
    table = Table(packs=(one.pack,), pieces=tuple(piece._replace(pack=0) for piece in one.pieces))
    segments = repository.segments(one.run_id)
    try:
        segments(one.pack, 0, -(-one.pack.length // SEGMENT))
        repository.reader_of(table, one.run_id).verify()
    except (Corrupt, HostCannot) as error:
        yield Finding(object=one.name, state="corrupt", detail=f"{error.message}; needed by {_named(one.snapshots)}")


def _orphans(repository: Repository, run_id: str) -> Iterator[Finding]:
    found = garbage(repository, run_id)
    for name, size in {**found.manifests, **found.packs}.items():
        yield Finding(object=name, state="orphaned", detail=f"{size} bytes, `criu-agent prune` deletes it")


def _needed(run_id: str, contents: Sequence[tuple[Snapshot, Contents]]) -> list[_Needed]:
    found: dict[str, _Needed] = {}
    for snapshot, one in contents:
        pieces: dict[int, list[Piece]] = {}
        for piece in one.table.pieces:
            pieces.setdefault(piece.pack, []).append(piece)
        for number, pack in enumerate(one.table.packs):
            before = found.get(pack.id)
            mine = pieces.get(number, [])
            found[pack.id] = _Needed(
                run_id=run_id,
                pack=pack,
                pieces=tuple({piece.name: piece for piece in (*(before.pieces if before else ()), *mine)}.values()),
                snapshots=(*(before.snapshots if before else ()), snapshot.id),
            )
    return list(found.values())


def _named(snapshots: tuple[str, ...]) -> str:
    shown = ", ".join(one[:8] for one in snapshots[:4])
    return f"snapshots {shown}" + (f" and {len(snapshots) - 4} more" if len(snapshots) > 4 else "")
