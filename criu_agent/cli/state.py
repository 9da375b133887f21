"""The verbs that save and bring back: checkpoint, suspend, restore, resume, plan."""

import os
from pathlib import Path
from typing import Any

import click

from criu_agent import runs
from criu_agent.cli import run as run_verbs
from criu_agent.cli import show, terminal
from criu_agent.cli.attach import attach, require_alive
from criu_agent.cli.context import Context, verb
from criu_agent.cli.options import files_choice
from criu_agent.cli.runs import wait_for_supervisor
from criu_agent.control import Client, Message
from criu_agent.errors import Failure, Interrupted, NotFound, Refused, Usage, WrongKey
from criu_agent.model import Snapshot

DEGRADED = 3  # done, with something lost that was said
_SHORT = 8  # characters of a snapshot id that are shown


@verb("checkpoint")
@click.argument("run", default=".")
@click.option("--stop", is_flag=True, help="Stop the run at the snapshot; the same as suspend")
@click.option("--reason", default="", help="Why, for the list of snapshots")
@click.option("--tag", "tags", multiple=True, help="Tag the snapshot")
@click.option("--full", is_flag=True, help="Store everything anew, also what the last snapshot has")
@click.option("--print-stats", is_flag=True, help="Show how long each phase took")
@click.pass_obj
def checkpoint_verb(context: Context, /, run: str, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Take a snapshot of RUN, which goes on.

    Exit codes: 0 done, 16 when the tree cannot be checkpointed now; the run is unharmed then.
    """
    _checkpoint(context, run, **options)


@verb("suspend")
@click.argument("run", default=".")
@click.option("--reason", default="", help="Why, for the list of snapshots")
@click.option("--tag", "tags", multiple=True, help="Tag the snapshot")
@click.option("--full", is_flag=True, help="Store everything anew, also what the last snapshot has")
@click.option("--print-stats", is_flag=True, help="Show how long each phase took")
@click.pass_obj
def suspend_verb(context: Context, /, run: str, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Take a snapshot of RUN and stop it there, once the snapshot is safely stored. `resume` brings it back.

    Exit codes: 0 done, 16 when the tree cannot be checkpointed now; the run goes on unharmed then.
    """
    _checkpoint(context, run, stop=True, **options)


def _checkpoint(
    context: Context, wanted: str, *, stop: bool, reason: str, tags: tuple[str, ...], full: bool, print_stats: bool
) -> None:
    run = require_alive(runs.find(context.config, wanted))
    order = {"verb": "checkpoint", "stop": stop, "reason": reason, "tags": tags, "full": full}
    try:
        summary = _ordered(context, run, order)
    except WrongKey:
        if (words := _passphrase(context, run)) is None:
            raise
        summary = _ordered(context, run, {**order, "passphrase": words})
    if stop:
        wait_for_supervisor(context, run)
    if context.options.json:
        show.message(**summary)
    elif context.options.quiet:
        show.result(summary["snapshot"])
    else:
        _print_summary(summary, stats=print_stats)


def _ordered(context: Context, run: runs.Run, order: Message) -> Message:
    line = progress(context)
    with Client(run.socket) as client:
        try:
            return client.call(**order, on_status=_status(context, line))
        except KeyboardInterrupt:
            return give_up(client)
        finally:
            line.end()


def _passphrase(context: Context, run: runs.Run) -> str | None:
    """What its supervisor lacks, asked for and tried; None where that is no passphrase, or nobody can be asked."""
    from criu_agent.ops import passphrase
    from criu_agent.repo import keyfile

    context.use_repository_of(run.spec)
    if context.ask_passphrase is None or not passphrase.is_needed(context.config):
        return None
    context.repository()
    held = context.config.passphrase_file
    return keyfile.read_passphrase(held).decode() if held else None


def progress(context: Context) -> show.ProgressLine:
    return show.ProgressLine(enabled=not context.options.quiet and not context.options.json)


def _status(context: Context, progress: show.ProgressLine) -> Any:  # noqa: ANN401 - a callback
    return (lambda status: show.message(**status)) if context.options.json else progress


def give_up(client: Client) -> Message:
    """Ask for the end of the checkpoint and wait until it is undone: Interrupted. Its summary if it was quicker."""
    try:
        client.send(verb="cancel")
        return client.answer()
    except KeyboardInterrupt:
        raise Interrupted("interrupted, the checkpoint is being given up", agent_state="running") from None


def _print_summary(summary: Message, *, stats: bool) -> None:
    short = summary["snapshot"][:_SHORT]
    done = "suspended at" if summary["stopped"] else "goes on after"
    show.result(
        f"{summary['name']} {done} snapshot {short}: {show.size(summary['bytes_raw'])}, "
        f"{show.size(summary['bytes_stored'])} new, frozen {summary['frozen_ms']} ms"
    )
    for connection in summary["connections"]:
        if not connection["internal"]:
            where = f"{connection['local']} -> {connection['remote']}"
            show.line(f"connection {connection['id']} of {connection['program']} ({where}): {connection['action']}")
    for warning in summary["warnings"]:
        show.line(f"warning: {warning}")
    if stats:
        for phase, ms in summary["phases"].items():
            show.result(f"  {phase:<10} {ms:>7} ms")


@verb("restore")
@click.argument("wanted", metavar="[RUN|SNAP]", default=".")
@click.argument("path", required=False)
@click.option("--at", metavar="SNAP", help="Snapshot to restore; the newest of RUN by default")
@click.option("-d", "--detach", is_flag=True, help="Restore it in the background and print its id")
@click.option("--image", metavar="IMAGE", help="The container image that it lives in, if this host does not have it")
@click.option("--detach-keys", default=terminal.DETACH_KEYS, show_default=True, help="Keys that detach the terminal")
@click.option("--theirs", is_flag=True, help="Put the SNAPSHOT's files in the place of those here that have changed")
@click.option("--ours", is_flag=True, help="Keep the files that are HERE as they are, changed or not")
@click.option(
    "--into",
    metavar="DIR",
    type=click.Path(),
    help="Make the working directory in DIR, which is empty or not there; the files here stay as they are",
)
@click.option("--files-only", is_flag=True, help="Make the files of the snapshot below --into DIR; nothing is run")
@click.option("--confirm", is_flag=True, hidden=True, help="With --detach: wait for the word `go` before it runs")
@click.pass_obj
def restore_verb(context: Context, /, wanted: str, path: str | None, **options: Any) -> int:  # noqa: ANN401 - click's
    """Bring a run back from a snapshot, in the middle of what it was doing.

    RUN is the name or id of a run, also of one of which only snapshots are left; without one it is the last run
    of this directory. SNAP is an id prefix, `latest`, RUN~2 (two before its newest) or RUN:tag.

    The working directory and the --through paths must hold what they held at the snapshot. What is missing, or an
    empty directory, is made. Where something has changed here since, nothing is done, it is named, and you choose:

    \b
    --theirs  the files of the SNAPSHOT. What is here is kept first, in a
              snapshot with the tag `safety`.
    --ours    the files HERE. A process that has one of them open may not
              come back, or find other bytes than it left.
    --into    both: the working directory is made in DIR, and the run sees
              it at its old path, from now on.

    With --files-only, PATH is a file or directory in the box; all files by default. Each is made below DIR at its
    path.

    Exit codes: as run; 3 with --detach when connections were reset; 10 no such snapshot, 13 files here have changed,
    14 the snapshot is corrupt, 15 this host cannot.
    """
    if options["files_only"]:
        return _make_files(context, wanted, path, options)
    if path is not None:
        raise Usage("a PATH is for --files-only", hint="criu-agent restore --help")
    return bring_back(
        context,
        wanted,
        at=options["at"],
        detach=options["detach"],
        keys=terminal.parse_detach_keys(options["detach_keys"]),
        confirm=options["confirm"],
        files=files_choice(options),
        into=_place(options["into"]),
        image=options["image"],
    )


resume_verb = restore_verb


def _place(into: str | None) -> str:
    """The absolute path of --into, without links."""
    return os.path.realpath(into) if into else ""


def _make_files(context: Context, wanted: str, path: str | None, options: dict[str, Any]) -> int:
    if not options["into"]:
        raise Usage("--files-only needs a directory for them", hint="--into DIR")
    if any(options[one] for one in ("theirs", "ours", "detach", "confirm")):
        raise Usage("--files-only starts no run", hint="leave out --theirs, --ours and --detach")
    from criu_agent.ops import files_only

    snapshot = _choose(context, wanted, options["at"])
    repository = context.repository()
    into = Path(_place(options["into"]))
    count = files_only.make(repository, snapshot, path or "/", into)
    if context.options.json:
        show.message("summary", snapshot=snapshot.id, directory=str(into), files=count)
    elif not context.options.quiet:
        show.result(f"{count} files of snapshot {snapshot.id[:_SHORT]} are in {into}")
    return 0


def bring_back(
    context: Context,
    wanted: str,
    *,
    at: str | None,
    detach: bool,
    keys: bytes,
    confirm: bool = False,
    files: str = "refuse",
    into: str = "",
    image: str | None = None,
) -> int:
    """files: refuse, theirs or ours, where they have changed here. into: where the working directory is to lie."""
    snapshot = _choose(context, wanted, at)
    if image:
        from criu_agent.ops import containers, saved

        containers.require_same(context.config, image, saved.read(context.config, snapshot.manifest).spec.image)
    told = restore_snapshot(context, snapshot, awaited=not detach, confirm=confirm, files=files, into=into)
    run = runs.by_id(context.config, snapshot.manifest.run_id)
    if run is None:
        raise Failure("the run has gone")
    for warning in told["warnings"]:
        show.line(f"warning: {warning}")
    if told["safety"]:
        short = told["safety"][:_SHORT]
        show.line(
            f"the files that were here are in snapshot {short}: criu-agent restore --files-only {short} --into DIR"
        )
    elsewhere = snapshot.manifest.host.boot_id != runs.boot_id()
    why = {
        "keep": "it is of another host or boot" if elsewhere else "the run has gone on since this snapshot",
        "reset": "the run is in a user namespace of its own",
    }
    for connection in told["reset"]:
        show.line(f"warning: {describe_reset(connection)}: {why[connection['action']]}")
    if detach:
        more = {"safety": told["safety"]} if told["safety"] else {}
        run_verbs.report_started(context, run.spec, snapshot=snapshot.id, reset=told["reset"], **more)
        return DEGRADED if told["reset"] else 0
    return attach(context, run.spec.id, keys=keys, from_start=False)


def describe_reset(connection: Message) -> str:
    return f"connection {connection['id']} of {connection['program']} to {connection['remote']} was reset"


def restore_snapshot(
    context: Context,
    snapshot: Snapshot,
    *,
    awaited: bool = False,
    confirm: bool = False,
    files: str = "refuse",
    into: str = "",
) -> Message:
    """Bring the snapshot's run up; what is told of it (ops.restore.Restored). Nothing is left if it fails."""
    from criu_agent.ops import admission
    from criu_agent.supervisor import spawn

    run_id, created = admission.prepare(context.config, snapshot, sure=context.options.yes)
    word = spawn.Confirm(fd=os.dup(0), restored=lambda: show.message("status", phase="restored")) if confirm else None
    try:
        arguments = ["--restore", snapshot.id, "--files", files, "--into", into, *(["--awaited"] if awaited else [])]
        return spawn.bring_up(context.config, run_id, arguments, confirm=word)
    except BaseException:
        run = runs.by_id(context.config, run_id)
        if created and run is not None and not run.alive:
            runs.remove(run)
        raise
    finally:
        if word is not None:
            os.close(word.fd)


def _choose(context: Context, wanted: str, at: str | None) -> Snapshot:
    """The snapshot that is meant. A run of this host comes first, then what the repository knows by that name.

    A run of this host has its snapshots where it was started with, unless --repo names another place.
    """
    try:
        run = runs.find(context.config, wanted)
    except NotFound:
        if wanted == "." and at is None:
            raise
        try:
            return context.repository(at or wanted).find(at or wanted)
        except NotFound as error:
            what = f"no such snapshot: {at}" if at else f"no such run or snapshot: {wanted}"
            raise NotFound(what, hint="criu-agent snapshots lists them") from error
    context.use_repository_of(run.spec)
    repository = context.repository()
    try:
        # By the run's id if its state knows of none: a supervisor that was killed may not have come to write it.
        return repository.find(at or run.state.last_snapshot or run.spec.id)
    except NotFound as error:
        if at or run.state.last_snapshot:
            raise
        hint = f"criu-agent checkpoint {run.spec.name} takes one"
        raise NotFound(f"{run.spec.name} has no snapshot", hint=hint) from error


@verb("plan")
@click.argument("run", default=".")
@click.option("-a", "--all", "everything", is_flag=True, help="Show the things that are simply kept, too")
@click.pass_obj
def plan_verb(context: Context, /, run: str, everything: bool) -> None:
    """Show what a checkpoint of RUN would do with each of its things, without taking it.

    Exit codes: 0 it can be taken, 16 it would be refused.
    """
    found = require_alive(runs.find(context.config, run))
    with Client(found.socket) as client:
        rows = client.call(verb="plan")["rows"]
    refused = [row for row in rows if row["action"] == "refuse"]
    if context.options.json:
        show.document(rows)
    else:
        shown = [row for row in rows if everything or row["action"] != "keep"]
        order = sorted(shown, key=lambda row: row["action"] != "refuse")
        header = ("ACTION", "PID", "PROGRAM", "FD", "OBJECT", "REASON")
        show.table(header, [_plan_row(row) for row in order], color=context.color)
        kept = sum(row["action"] == "keep" for row in rows)
        if not everything and kept:
            show.line(f"{kept} more are kept  (--all shows them)")
    if refused:
        first = refused[0]
        raise Refused(
            f"a checkpoint would be refused: pid {first['pid']} ({first['program']}): {first['object']}: "
            f"{first['reason']}",
            hint=first["fix"],
            agent_state="running, unharmed",
        )


def _plan_row(row: Message) -> tuple[object, ...]:
    fd = "-" if row["fd"] is None else row["fd"]
    return row["action"], row["pid"] or "-", row["program"] or "-", fd, row["object"], row["reason"]
