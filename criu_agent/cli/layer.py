"""The verbs about the layer of a run: merge, `diff RUN`, and what `rm` asks."""

import sys

import click

from criu_agent import runs
from criu_agent.cli import show
from criu_agent.cli.context import Context, verb
from criu_agent.cli.runs import wait_for_supervisor
from criu_agent.errors import Failure

_FIRST = 5  # paths that rm shows


@verb("merge")
@click.argument("wanted", metavar="RUN")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing")
@click.option("-f", "--force", is_flag=True, help="Replace also what was changed on the host meanwhile")
@click.pass_obj
def merge_verb(context: Context, /, wanted: str, paths: tuple[str, ...], dry_run: bool, force: bool) -> None:
    """Carry to the host what RUN wrote in its layer: all of it but /tmp, or what is at and below each PATH.

    RUN must be stopped or suspended. All of it is done, or none: if the host has changed one of the files since the
    run did, made one of the same name or removed it, the files are named and nothing is done. Owners, modes,
    attributes, links and deletions are carried, too; of a directory that was renamed all or nothing. What
    was merged is in the run's layer no more; a suspended run still has it in its snapshot, and does not notice.

    Exit codes: 0 done, 1 refused or failed and nothing was changed, 10 no such run, or it changed nothing at PATH.
    """
    from criu_agent.ops import layer

    run = runs.find(context.config, wanted)
    _require_layer(run)
    if run.alive and run.state.state in runs.ENDED:  # its supervisor is about to end
        wait_for_supervisor(context, run)
        run = runs.find(context.config, wanted)
    done = layer.merge(context.config, run, paths, force=force, dry_run=dry_run)
    if context.options.json:
        rows = [{"change": one.kind, "path": f"/{one.path}"} for one in done.changes]
        show.document({"run": run.spec.id, "name": run.spec.name, "merged": not dry_run, "changes": rows})
        return
    for change in done.changes:
        if dry_run or not context.options.quiet:
            show.result(f"{change.kind} /{change.path}")
    counted = f"{len(done.changes)} changes of {run.spec.name}"
    show.line(f"{counted} {'would be' if dry_run else 'were'} merged; {done.left} others are left")


def show_changes(context: Context, wanted: str) -> None:
    """What a run has changed, as `docker diff`."""
    from criu_agent.ops import layer

    run = runs.find(context.config, wanted)
    _require_layer(run)
    rows = layer.listed(layer.found(context.config, run))
    if context.options.json:
        changes = [{"change": kind, "path": path} for kind, path in rows]
        show.document({"run": run.spec.id, "name": run.spec.name, "changes": changes})
        return
    for kind, path in rows:
        show.result(f"{kind} {path}")


def confirm_loss(context: Context, run: runs.Run) -> None:
    """Say what would be lost with the run, and ask. Failure if nobody can be asked, or the answer is no."""
    from criu_agent.ops import layer

    name = run.spec.name
    lost = [] if context.options.yes else layer.lost(context.config, run)
    if not lost:
        return
    show.line(f"{name} wrote this outside of its working directory, and no snapshot of its end has it:")
    for kind, path in [(one.kind, one.path) for one in lost[:_FIRST]]:
        show.line(f"  {kind} /{path}")
    if len(lost) > _FIRST:
        show.line(f"  and {len(lost) - _FIRST} more  (criu-agent diff {name})")
    asked = sys.stdin.isatty() and sys.stderr.isatty()
    if not asked or not click.confirm(f"remove {name} and lose it?", err=True):
        keep = "" if run.spec.image else f"criu-agent merge {name} keeps them; "
        raise Failure(
            f"{name} was not removed: {len(lost)} changes would be lost",
            hint=f"{keep}criu-agent rm -f {name} loses them",
        )


def _require_layer(run: runs.Run) -> None:
    if run.spec.fs == "host":
        raise Failure(f"{run.spec.name} has no layer: it was started with --fs host, and writes to the host itself")
