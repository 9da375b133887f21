"""Whether a snapshot can be restored on this host now: asked before anything is made."""

from criu_agent import runs
from criu_agent.box import mounts, outer
from criu_agent.config import POLICY_FILE, Config
from criu_agent.errors import Failure
from criu_agent.model import Snapshot
from criu_agent.ops import containers, host, host_policy, live, saved
from criu_agent.repo.specs import has_processes


def prepare(config: Config, snapshot: Snapshot, *, sure: bool = False) -> tuple[str, bool]:
    """The id of the run that the snapshot is of, and whether its directory had to be made.

    Failure when it cannot be restored now, since it still runs, here or elsewhere, and HostCannot when not on this
    host; nothing has been changed then.
    sure: the user knows that it does not run where an unfinished migrate may have left it.
    """
    manifest = snapshot.manifest
    if not has_processes(manifest):
        raise Failure(
            f"snapshot {snapshot.id[:8]} has files only, no processes",
            hint=f"criu-agent restore --files-only {snapshot.id[:8]} --into DIR",
        )
    run = runs.by_id(config, manifest.run_id)
    known = require_able_and_allowed(config, snapshot, run)
    if run is None:
        live.require_apart(config, known.spec)  # before a directory of ours is made there
        runs.create(config, known.spec)
        return manifest.run_id, True
    if run.alive or run.shown_state == "degraded":
        raise Failure(
            f"{run.spec.name} is {run.shown_state}; a run is there only once",
            hint=f"criu-agent suspend {run.spec.name}, or criu-agent kill {run.spec.name}, and then restore",
            agent_state="running, unharmed" if run.alive else "",
        )
    _require_not_elsewhere(run, snapshot, sure=sure)
    return run.spec.id, False


def require_able_and_allowed(config: Config, snapshot: Snapshot, run: runs.Run | None) -> saved.Saved:
    """What the manifest says of its run. HostCannot if this host cannot, or may not, have its processes."""
    known = saved.read(config, snapshot.manifest)
    host.require_able(config, snapshot.manifest, known.spec.cpu_baseline)
    containers.require(config, known.spec)
    host_policy.require_allowed(
        host_policy.read(POLICY_FILE),
        recorded=known.privileges,
        through={*known.spec.through, *(run.spec.through if run else ()), *_own(known)},
        devices=[target for key, target in known.mounts.items() if key.startswith(mounts.DEVICE)],
    )
    return known


def _require_not_elsewhere(run: runs.Run, snapshot: Snapshot, *, sure: bool) -> None:
    """Failure if the run may be running on the host that it was handed over to.

    A snapshot that it was stopped at after that says that it runs there no more.
    """
    name, host = run.spec.name, run.state.moved_to
    if not host or (snapshot.manifest.stopped and snapshot.manifest.sequence > run.state.sequence):
        return
    if run.state.state == "fenced":
        raise Failure(
            f"{name} has moved to {host}",
            hint=f"migrate it back from there; if {host} is lost for good: criu-agent rm {name}, and restore it",
            agent_state=f"on {host}",
        )
    if not sure:
        raise Failure(
            f"{name} may be running on {host}: a migrate to it was cut off",
            hint=f"look there: criu-agent inspect {run.spec.id}; if it is not running: criu-agent resume -y {name}",
            agent_state="suspended here",
        )


def _own(known: saved.Saved) -> list[str]:
    """What else of this host's the run would write to."""
    bound = [one.path for one in outer.again(known.mounts) if not one.layered]
    return [*bound, *(["/"] if known.spec.fs == "host" else [])]
