"""The verb that lists what is in the repository."""

import click

from criu_agent.cli import show
from criu_agent.cli.context import Context, verb
from criu_agent.errors import NotFound
from criu_agent.model import Snapshot

_SHORT = 8  # characters of a snapshot id that are shown


@verb("snapshots")
@click.argument("run", required=False)
@click.option("--tag", "tags", multiple=True, help="Only those with that tag")
@click.pass_obj
def snapshots_verb(context: Context, /, run: str | None, tags: tuple[str, ...]) -> None:
    """List the snapshots of the repository, oldest first; only those of RUN, in its repository, if it is given."""
    here = context.run_named(run) if run else None
    wanted = {run, here.spec.id} if here else {run}
    listing = context.repository(*([run] if run else [])).snapshots()
    for warning in listing.unreadable:
        show.line(f"warning: {warning.message}")
    chosen = [
        snapshot
        for snapshot in listing.snapshots
        if (run is None or wanted & {snapshot.manifest.run_name, snapshot.manifest.run_id})
        and set(tags) <= set(snapshot.tags)
    ]
    if run is not None and not chosen:
        raise NotFound(f"no snapshots of {run}", hint="criu-agent snapshots lists all of them")
    if context.options.json:
        show.document([_snapshot_document(snapshot) for snapshot in chosen])
    elif context.options.quiet:
        for snapshot in chosen:
            show.result(snapshot.id)
    else:
        header = ("ID", "TIME", "RUN", "HOST", "REASON", "TAGS", "PARENT", "SIZE", "NEW")
        show.table(header, [_snapshot_row(snapshot) for snapshot in chosen], color=context.color)


def _snapshot_row(snapshot: Snapshot) -> tuple[object, ...]:
    manifest = snapshot.manifest
    return (
        snapshot.id[:_SHORT],
        manifest.created[:19].replace("T", " "),
        manifest.run_name,
        manifest.host.hostname,
        manifest.reason + (" (stopped)" if manifest.stopped else ""),
        ",".join(snapshot.tags) or "-",
        manifest.parent[:_SHORT] or "-",
        show.size(snapshot.size),
        show.size(snapshot.stored),
    )


def _snapshot_document(snapshot: Snapshot) -> dict[str, object]:
    manifest = snapshot.manifest
    return {
        "snapshot": snapshot.id,
        "time": manifest.created,
        "run": manifest.run_id,
        "name": manifest.run_name,
        "sequence": manifest.sequence,
        "host": manifest.host.hostname,
        "reason": manifest.reason,
        "stopped": manifest.stopped,
        "tags": list(snapshot.tags),
        "labels": dict(manifest.labels),
        "parent": manifest.parent or None,
        "size": snapshot.size,
        "stored": snapshot.stored,
    }
