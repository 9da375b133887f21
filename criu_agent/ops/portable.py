"""copy, export, import: a snapshot in another repository, or in one file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from criu_agent import log
from criu_agent.config import Config
from criu_agent.errors import Failure
from criu_agent.model import Snapshot
from criu_agent.ops import vault
from criu_agent.ops.live import Progress
from criu_agent.ops.save import counter
from criu_agent.repo import catalogue, copying, header, keyring, packs
from criu_agent.repo.repository import TAGS, Repository, used_packs
from criu_agent.store import archive
from criu_agent.store.base import Store

_WHOLE = 1 << 30  # bytes; no object is as large


def copy(
    config: Config, source: Repository, target: Repository, chosen: Sequence[Snapshot], *, progress: Progress
) -> list[tuple[Snapshot, Snapshot | None]]:
    """Copy snapshots, oldest first: each with its copy, or None where the target has it already.

    A snapshot is the same if it is of the same run and instant. What is there already of a newer number than what is
    to be copied is an error: within a run, snapshots are in the order in which they were made.
    """
    done: list[tuple[Snapshot, Snapshot | None]] = []
    for snapshot in sorted(chosen, key=lambda one: (one.manifest.run_id, one.manifest.sequence)):
        run_id = snapshot.manifest.run_id
        there = target.snapshots(run_id).snapshots
        if any(one.manifest.created == snapshot.manifest.created for one in there):
            done.append((snapshot, None))
            continue
        newest = max(there, key=lambda one: one.manifest.sequence, default=None)
        if newest is not None and newest.manifest.created > snapshot.manifest.created:
            raise Failure(
                f"snapshot {snapshot.id[:16]} is older than what the other repository has of its run",
                hint="copy the snapshots of a run in their order: all of them at once",
            )
        parent = newest.id if newest else ""
        total = copying.size(source.contents(snapshot))
        with vault.writing(config, target, run_id, "copy", parent=parent, hashes=False) as writer:
            advance = counter("copy", total, progress)
            done.append((snapshot, copying.copy(source, snapshot, writer, parent=parent, advance=advance)))
    return done


def export(repository: Repository, snapshot: Snapshot, path: Path, *, overwrite: bool, progress: Progress) -> None:
    """Write everything that the snapshot needs into one file, as it lies in the store: encrypted and signed.

    Who has the file and a key of the repository can restore it: nothing else is needed.
    """
    names = _needed(repository, snapshot)
    advance = counter("export", sum(names.values()), progress)

    def objects() -> Iterator[tuple[str, bytes]]:
        for name, size in names.items():
            data = repository.store.get(name, _WHOLE)
            yield name, data
            advance(size)

    archive.write(path, objects(), overwrite=overwrite)


def take_in(config: Config, archived: Repository, target: Repository, *, progress: Progress) -> list[Snapshot]:
    """Bring the snapshots of an exported file into a repository; those that it has already are left alone.

    The copies in `target`, whatever its keys are.
    """
    pairs = copy(config, archived, target, archived.snapshots().snapshots, progress=progress)
    log.info("imported %d of %d snapshots", sum(new is not None for _, new in pairs), len(pairs))
    return [new for _, new in pairs if new is not None]


def _needed(repository: Repository, snapshot: Snapshot) -> dict[str, int]:
    """The objects of one snapshot with their sizes."""
    run_id = snapshot.manifest.run_id
    store: Store = repository.store
    everything = {
        **store.list(keyring.PREFIX),
        **store.list(packs.prefix(run_id)),
        **store.list(f"{catalogue.PREFIX}{run_id}/"),
        **store.list(f"{TAGS}{run_id}/"),
    }
    wanted = [packs.prefix(run_id) + pack for pack in used_packs([repository.contents(snapshot)])]
    wanted += [catalogue.name_of(snapshot).object, f"{TAGS}{run_id}/{snapshot.id}", *store.list(keyring.PREFIX)]
    return {header.NAME: 0, **{name: everything[name] for name in wanted if name in everything}}
