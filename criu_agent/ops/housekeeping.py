"""forget, prune, tag, unlock: what is done to snapshots that are there."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from criu_agent import runs
from criu_agent.config import Config
from criu_agent.errors import Corrupt, HostCannot, NotFound, Usage
from criu_agent.model import Snapshot
from criu_agent.ops import vault
from criu_agent.repo import locks, policy, prune
from criu_agent.repo.heads import Range
from criu_agent.repo.locks import Holder
from criu_agent.repo.policy import Kept, Policy
from criu_agent.repo.prune import Garbage
from criu_agent.repo.repository import Repository


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What a policy keeps and drops, oldest first."""

    kept: list[Kept]
    dropped: list[Snapshot]


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was deleted of one run, or why it was left alone."""

    run_id: str
    garbage: Garbage | None
    error: Corrupt | HostCannot | None = None


def forget(
    config: Config, repository: Repository, *, chosen: Sequence[Snapshot], rules: Policy | None, dry_run: bool
) -> Forgotten:
    """Delete snapshots: those of `chosen` that no rule keeps; all of them where there are no rules.

    Never the newest of a run that lives, or that was suspended at it, on this host. Their packs stay until `prune`.
    """
    protected = _protected(config, repository)
    if rules is None:
        kept = [Kept(snapshot=one, reasons=(protected[one.id],)) for one in chosen if one.id in protected]
        dropped = [one for one in chosen if one.id not in protected]
    else:
        kept, dropped = policy.keep(chosen, rules, now=datetime.now(UTC), protected=protected)
    if not dry_run:
        remove(repository, dropped)
    return Forgotten(kept=kept, dropped=dropped)


def remove(repository: Repository, doomed: Sequence[Snapshot]) -> None:
    """Delete these snapshots, run by run, each under the lock of its run."""
    for run_id in dict.fromkeys(one.manifest.run_id for one in doomed):
        with vault.locked(repository, run_id, "forget"):
            mine = [one for one in doomed if one.manifest.run_id == run_id]
            repository.remove(mine, keep=repository.snapshots(run_id).snapshots)


def give_up(repository: Repository, wanted: Sequence[str]) -> Iterator[tuple[str, tuple[Range, ...]]]:
    """Forget what is missing or cannot be read of these runs (names or ids), or of all: the numbers, run by run."""
    found = {one.manifest.run_id: one.manifest.run_name for one in repository.snapshots().snapshots}
    known = prune.runs(repository)
    for one in wanted:
        if one not in known and one not in found.values():
            raise NotFound(f"there is no run {one} in this repository", hint="`criu-agent check` names what is lost")
    for run_id in known:
        if not wanted or run_id in wanted or found.get(run_id) in wanted:
            with vault.locked(repository, run_id, "forget"):
                yield run_id, repository.give_up(run_id)


def sweep(repository: Repository, *, dry_run: bool) -> Iterator[Pruned]:
    """Delete what no snapshot needs, run by run. A run with a manifest that cannot be read is left alone."""
    for run_id in prune.runs(repository):
        with ExitStack() as held:
            if not dry_run:
                held.enter_context(vault.locked(repository, run_id, "prune"))
            try:
                found = prune.garbage(repository, run_id)
            except (Corrupt, HostCannot) as error:
                yield Pruned(run_id=run_id, garbage=None, error=error)
                continue
            if not dry_run:
                prune.sweep(repository, found)
            yield Pruned(run_id=run_id, garbage=found)


def retag(
    repository: Repository, chosen: Sequence[Snapshot], *, add: Sequence[str], remove: Sequence[str]
) -> list[Snapshot]:
    """Change the tags of these snapshots; as they are now."""
    return [
        repository.tag(snapshot, [*(tag for tag in snapshot.tags if tag not in remove), *add]) for snapshot in chosen
    ]


def unlock(repository: Repository, run_id: str | None, *, everything: bool) -> list[tuple[str, Holder | None]]:
    """Take locks away: of that run, or of all whose holders are known to be dead. everything: all the others, too.

    Each with the run and who held it, None where a damaged lock does not say.
    """
    from criu_agent.ops import host

    if run_id is not None:
        return [(run_id, locks.break_lock(repository.registers, run_id))]
    holders = locks.holders(repository.registers)
    doomed = [run for run, holder in holders.items() if everything or (holder and not host.lives(holder))]
    return [(run, locks.break_lock(repository.registers, run)) for run in doomed]


def _protected(config: Config, repository: Repository) -> dict[str, str]:
    """The snapshots that a run of this host counts on, each with the reason."""
    found: dict[str, str] = {}
    for run in runs.every(config):
        if run.state.suspended_at:
            found[run.state.suspended_at] = f"{run.spec.name} is suspended at it"
        if run.alive or run.shown_state == "suspended":
            head = repository.heads.read(run.spec.id).snapshot
            if head:
                found.setdefault(head, f"the newest of {run.spec.name}, which is {run.shown_state}")
    return found


def require_named(wanted: Sequence[str]) -> None:
    if not wanted:
        raise Usage("no snapshot was named", hint="name snapshots, or give rules: --keep-last 5 --keep-daily 7 ...")
