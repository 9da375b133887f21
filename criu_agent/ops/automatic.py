"""What belongs to automatic checkpoints besides taking them: their settings in a manifest, and thinning them out."""

from collections.abc import Mapping
from typing import Any

from criu_agent import durations, log
from criu_agent.criu.dump import Cancel
from criu_agent.errors import Corrupt
from criu_agent.model import RunSpec
from criu_agent.ops import vault
from criu_agent.ops.live import Live
from criu_agent.repo import policy, prune

_SETTINGS = ("every", "on_idle", "keep_last")


def saved(spec: RunSpec) -> dict[str, float | None]:
    """The settings, for the manifest."""
    return {key: getattr(spec, key) for key in _SETTINGS}


def settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """What `saved` has written; what older snapshots have not is not set. Corrupt for what it cannot have written."""
    found = {key: document.get(key) for key in _SETTINGS}
    for key, value in found.items():
        kinds = (int,) if key == "keep_last" else (int, float)
        if value is not None and not (type(value) in kinds and 0 < value <= durations.LONGEST):
            raise Corrupt(f"the snapshot has {value!r} as {key}", hint="restore another snapshot")
    return found


def thin_out(live: Live, *, newest: str, cancel: Cancel) -> int:
    """Delete the run's automatic snapshots that are more than `--keep-last`; how many that were.

    newest: the id of the snapshot that was taken last. Where the store knows a newer one of this run, somebody else
    has it, too, and nothing is deleted.
    """
    if live.spec.keep_last is None:
        return 0
    repository = vault.open_repository(live.config, make=False)
    with vault.locked(repository, live.spec.id, "keep-last"):
        found = repository.snapshots(live.spec.id).snapshots
        dropped = policy.surplus(found, live.spec.id, live.spec.keep_last)
        if dropped and policy.newest(found, live.spec.id) != newest:
            log.warning("snapshot %s is not the newest of this run in the repository: no older are deleted", newest)
            return 0
        if not dropped:
            return 0
        cancel.check()
        repository.remove(dropped, keep=found)
        prune.sweep(repository, prune.garbage(repository, live.spec.id))
    log.info("deleted %d snapshots: --keep-last %d", len(dropped), live.spec.keep_last)
    return len(dropped)
