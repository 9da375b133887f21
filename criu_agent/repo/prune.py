"""What no snapshot needs any more, and deleting it (docs/format.md). The caller holds the lock of the run."""

from dataclasses import dataclass

from criu_agent.errors import Corrupt, HostCannot
from criu_agent.repo import catalogue, packs
from criu_agent.repo.repository import TAGS, Repository, used_packs

RUNS = (packs.PREFIX, catalogue.PREFIX, "heads/")


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Objects of a run that can be deleted, with their sizes.

    manifests: of snapshots that were deleted or never committed, and their tags.
    """

    manifests: dict[str, int]
    packs: dict[str, int]
    kept: int  # bytes of the packs that are needed

    @property
    def size(self) -> int:
        return sum(self.manifests.values()) + sum(self.packs.values())


def runs(repository: Repository) -> list[str]:
    """The ids of all runs of which something is in the store."""
    names = [name for prefix in RUNS for name in repository.store.list(prefix)]
    return sorted({name.split("/")[1] for name in names})


def garbage(repository: Repository, run_id: str) -> Garbage:
    """Corrupt if a snapshot of the run cannot be read: nobody knows then which packs it needs."""
    listing = repository.snapshots(run_id)
    for error in listing.unreadable:
        raise _undecided(run_id, error)
    needed = used_packs(repository.contents(one) for one in listing.snapshots)
    committed = {catalogue.name_of(one).object for one in listing.snapshots}
    committed |= {f"{TAGS}{run_id}/{one.id}" for one in listing.snapshots}
    sizes = repository.store.list(packs.prefix(run_id))
    used = {packs.prefix(run_id) + pack for pack in needed}
    manifests = repository.store.list(f"{catalogue.PREFIX}{run_id}/") | repository.store.list(f"{TAGS}{run_id}/")
    return Garbage(
        manifests={name: size for name, size in manifests.items() if name not in committed},
        packs={name: size for name, size in sizes.items() if name not in used},
        kept=sum(size for name, size in sizes.items() if name in used),
    )


def sweep(repository: Repository, found: Garbage) -> None:
    """Delete it. Manifests first: a pack may go only when no manifest names it."""
    for name in [*found.manifests, *found.packs]:
        repository.store.delete(name)


def _undecided(run_id: str, error: Corrupt | HostCannot) -> Corrupt | HostCannot:
    return type(error)(
        f"nothing of run {run_id} is pruned: {error.message}",
        hint=f"see `criu-agent check`; if it is lost for good: criu-agent forget --lost {run_id}",
    )
