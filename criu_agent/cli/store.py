"""The verbs about a repository's snapshots: forget, prune, check, stats, tag, copy, unlock, export, import."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from criu_agent import config as configuration
from criu_agent import durations
from criu_agent.cli import show
from criu_agent.cli.context import Context, verb
from criu_agent.errors import Corrupt, Usage
from criu_agent.model import Snapshot

_SHORT = 8
_PERCENT = re.compile(r"(?P<number>[0-9]{1,3}(?:\.[0-9]+)?)%")


def _progress(context: Context) -> tuple[show.ProgressLine, Any]:
    line = show.ProgressLine(enabled=not context.options.quiet and not context.options.json)
    return line, lambda phase, done, total: line({"phase": phase, "bytes_done": done, "bytes_total": total})


def _chosen(repository: Any, wanted: tuple[str, ...]) -> list[Snapshot]:  # noqa: ANN401
    """The snapshots that these words mean, each once."""
    return list({one.id: one for one in map(repository.find, wanted)}.values())


@verb("forget")
@click.argument("wanted", metavar="[SNAP|RUN]...", nargs=-1)
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the N newest of each run")
@click.option("--keep-hourly", type=click.IntRange(min=1), metavar="N", help="Keep the newest of each of N hours")
@click.option("--keep-daily", type=click.IntRange(min=1), metavar="N", help="Keep the newest of each of N days")
@click.option("--keep-weekly", type=click.IntRange(min=1), metavar="N", help="Keep the newest of each of N weeks")
@click.option("--keep-within", metavar="TIME", help="Keep what is not older than that before the newest: 2h, 7d")
@click.option("--keep-tag", multiple=True, metavar="TAG[,TAG]", help="Keep what has all of these tags")
@click.option("--lost", is_flag=True, help="Give up what is missing or cannot be read, of all runs or of the RUNs")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be done, and do nothing")
@click.option("--prune", "and_prune", is_flag=True, help="Run prune afterwards")
@click.pass_obj
def forget_verb(
    context: Context,
    /,
    wanted: tuple[str, ...],
    lost: bool,
    dry_run: bool,
    and_prune: bool,
    **rules: Any,  # noqa: ANN401
) -> None:
    """Delete snapshots. Their data stay until `prune`.

    With SNAP, these snapshots. With --keep rules, those of all runs, or of the RUNs that are named, that no rule
    keeps. Never the newest of a run that lives, nor the one that a run is suspended at.

    With --lost, snapshots whose manifest is missing or damaged, for good: while they are missed, the others can be
    named by their ids only, and nothing of their run is pruned.

    Exit codes: 0 done, 10 no such snapshot, 14 a snapshot cannot be read.
    """
    from criu_agent.ops import housekeeping

    policy = _policy(rules)
    if lost and (policy is not None or dry_run):
        raise Usage("--lost goes with no rule and no --dry-run", hint="criu-agent check shows what is lost")
    repository = context.repository(*wanted)
    if lost:
        _give_up(context, repository, wanted)
        return
    listing = repository.snapshots()
    if policy is not None and listing.unreadable:
        raise listing.unreadable[0]
    if policy is None:
        housekeeping.require_named(wanted)
        chosen = _chosen(repository, wanted)
    else:
        chosen = [one for one in listing.snapshots if not wanted or _is_of(one, wanted)]
    done = housekeeping.forget(context.config, repository, chosen=chosen, rules=policy, dry_run=dry_run)
    if context.options.json:
        show.document(
            {
                "kept": [{"snapshot": one.snapshot.id, "reasons": list(one.reasons)} for one in done.kept],
                "dropped": [one.id for one in done.dropped],
                "dry_run": dry_run,
            }
        )
    else:
        for one in done.kept:
            show.result(f"keep    {_named(one.snapshot)}  {', '.join(one.reasons)}")
        for snapshot in done.dropped:
            show.result(f"{'would forget' if dry_run else 'forgot'}  {_named(snapshot)}")
    if and_prune and not dry_run:
        _prune(context, repository, dry_run=False)


def _give_up(context: Context, repository: Any, wanted: tuple[str, ...]) -> None:  # noqa: ANN401
    from criu_agent.ops import housekeeping

    for run_id, numbers in housekeeping.give_up(repository, wanted):
        if context.options.json:
            show.message("summary", run=run_id, lost=[list(one) for one in numbers])
        for first, last in numbers if not context.options.json else ():
            show.result(f"gave up  snapshot {first if first == last else f'{first} to {last}'} of run {run_id}")


def _policy(rules: dict[str, Any]) -> Any:  # noqa: ANN401
    from criu_agent.repo.policy import Policy

    if not any(rules.values()):
        return None
    return Policy(
        keep_last=rules["keep_last"] or 0,
        keep_hourly=rules["keep_hourly"] or 0,
        keep_daily=rules["keep_daily"] or 0,
        keep_weekly=rules["keep_weekly"] or 0,
        keep_within=durations.parse(rules["keep_within"]) if rules["keep_within"] else 0.0,
        keep_tags=tuple(tuple(tags.split(",")) for tags in rules["keep_tag"]),
    )


def _is_of(snapshot: Snapshot, wanted: tuple[str, ...]) -> bool:
    return bool({snapshot.manifest.run_name, snapshot.manifest.run_id} & set(wanted))


def _named(snapshot: Snapshot) -> str:
    return f"{snapshot.id[:_SHORT]}  {snapshot.manifest.created[:19].replace('T', ' ')}  {snapshot.manifest.run_name}"


@verb("prune")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing")
@click.option(
    "--images", is_flag=True, help="Remove container images of this host that no run here lives in, instead"
)
@click.pass_obj
def prune_verb(context: Context, /, dry_run: bool, images: bool) -> None:
    """Delete the data that no snapshot needs any more.

    A run that is being saved at the moment, or one of whose snapshots cannot be read, is an error.

    Exit codes: 0 done, 1 a run is locked, 14 a snapshot cannot be read: nothing of its run is deleted.
    """
    if images:
        _prune_images(context, dry_run=dry_run)
    else:
        _prune(context, context.repository(), dry_run=dry_run)


def _prune_images(context: Context, *, dry_run: bool) -> None:
    from criu_agent.ops import containers

    gone = containers.remove_unused(context.config, dry_run=dry_run)
    if context.options.json:
        show.message("summary", images=gone, dry_run=dry_run)
    else:
        for digest in gone:
            show.result(f"{'would remove' if dry_run else 'removed'} {digest}")


def _prune(context: Context, repository: Any, *, dry_run: bool) -> None:  # noqa: ANN401
    from criu_agent.ops import housekeeping

    done = list(housekeeping.sweep(repository, dry_run=dry_run))
    swept = [one.garbage for one in done if one.garbage is not None]
    count = sum(len(one.manifests) + len(one.packs) for one in swept)
    freed, kept = sum(one.size for one in swept), sum(one.kept for one in swept)
    if context.options.json:
        document = {"objects": count, "bytes_freed": freed, "bytes_kept": kept, "dry_run": dry_run}
        show.message("summary", **document)
    else:
        verb_ = "would delete" if dry_run else "deleted"
        show.result(f"{verb_} {count} objects, {show.size(freed)}; {show.size(kept)} are in use")
    for one in done:
        if one.error is not None:
            raise one.error


@verb("check")
@click.option("--read-data", is_flag=True, help="Read every byte, too, not only names and sizes")
@click.option("--read-data-subset", metavar="P%", help="Read a part of the packs that is chosen at random: 5%")
@click.pass_obj
def check_verb(context: Context, /, read_data: bool, read_data_subset: str | None) -> None:
    """Check that everything is there that the snapshots need, and that it is what was written.

    Exit codes: 0 nothing is missing or damaged (what `prune` would delete is shown, too), 14 something is.
    """
    from criu_agent.repo import check

    part = 1.0 if read_data else _part(read_data_subset)
    repository = context.repository()
    line, progress = _progress(context)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("check", done, 0)

    findings = []
    for finding in check.check(repository, read=part, advance=advance, dice=random.Random()):  # noqa: S311 - no secret
        findings.append(finding)
        line.end()
        if context.options.json:
            show.message("status", object=finding.object, state=finding.state, detail=finding.detail)
        else:
            show.result(f"{finding.state}  {finding.object}  {finding.detail}")
    line.end()
    bad = [finding for finding in findings if finding.state != "orphaned"]
    if context.options.json:
        show.message("summary", errors=len(bad), orphaned=len(findings) - len(bad), bytes_read=done)
    elif not bad:
        read = f", {show.size(done)} were read" if done else ""
        show.result(f"nothing is missing or damaged{read}")
    if bad:
        raise Corrupt(
            f"{len(bad)} objects are missing or damaged",
            hint="bring them back from a copy, or give them up: `criu-agent forget` the snapshots that are named, "
            "`criu-agent forget --lost` those that cannot be read",
        )


def _part(text: str | None) -> float:
    if text is None:
        return 0.0
    match = _PERCENT.fullmatch(text)
    if not match or not 0 < float(match["number"]) <= 100:
        raise Usage(f"{text!r} is no part of the data", hint="write it as 5%")
    return float(match["number"]) / 100


@verb("stats")
@click.pass_obj
def stats_verb(context: Context, /) -> None:
    """Show how much the snapshots of each run hold, and how much of the store they take."""
    from criu_agent.repo import prune

    repository = context.repository()
    rows: list[dict[str, Any]] = []
    for run_id in prune.runs(repository):
        snapshots = repository.snapshots(run_id).snapshots
        found = prune.garbage(repository, run_id)
        names = sorted({one.manifest.run_name for one in snapshots})
        rows.append(
            {
                "run": run_id,
                "name": ",".join(names),
                "snapshots": len(snapshots),
                "bytes_raw": sum(one.size for one in snapshots),
                "bytes_stored": found.kept,
                "bytes_unused": found.size,
            }
        )
    if context.options.json:
        show.document(rows)
        return
    header = ("RUN", "NAME", "SNAPSHOTS", "SIZE", "STORED", "UNUSED")
    sizes = ("bytes_raw", "bytes_stored", "bytes_unused")
    show.table(
        header,
        [(row["run"], row["name"] or "-", row["snapshots"], *(show.size(row[key]) for key in sizes)) for row in rows],
        color=context.color,
    )


@verb("tag")
@click.argument("wanted", metavar="SNAP...", nargs=-1, required=True)
@click.option("--add", multiple=True, metavar="TAG", help="Add a tag")
@click.option("--remove", multiple=True, metavar="TAG", help="Remove a tag")
@click.pass_obj
def tag_verb(context: Context, /, wanted: tuple[str, ...], add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Change the tags of snapshots.

    Exit codes: 0 done, 10 no such snapshot.
    """
    from criu_agent.ops import housekeeping

    if not add and not remove:
        raise Usage("nothing to change", hint="criu-agent tag SNAP --add TAG")
    repository = context.repository(*wanted)
    for snapshot in housekeeping.retag(repository, _chosen(repository, wanted), add=add, remove=remove):
        if context.options.json:
            show.message("summary", snapshot=snapshot.id, tags=list(snapshot.tags))
        else:
            show.result(f"{snapshot.id[:_SHORT]}  {','.join(snapshot.tags) or '-'}")


@verb("copy")
@click.argument("wanted", metavar="[SNAP|RUN]...", nargs=-1)
@click.option("--to", "target", metavar="URL", required=True, help="The repository to copy to")
@click.option("--to-key-file", metavar="FILE", help="Its key; the one that init made on this host by default")
@click.pass_obj
def copy_verb(context: Context, /, wanted: tuple[str, ...], target: str, to_key_file: str | None) -> None:
    """Copy snapshots into another repository: all of them, or those of the RUNs, or the SNAPs, that are named.

    Exit codes: 0 done, 10 no such snapshot or repository, 12 wrong key, 14 a snapshot cannot be read.
    """
    from criu_agent.ops import portable, vault

    repository = context.repository(*wanted)
    there = configuration.load(repository=target, key_file=to_key_file, endpoint_url=context.options.endpoint_url)
    if there.key_file == context.config.key_file and to_key_file is None:
        there = replace(there, key_file=None)
    other = vault.open_repository(there, ask=context.ask_passphrase)
    listing = repository.snapshots()
    chosen = [one for one in listing.snapshots if not wanted or _is_of(one, wanted)] or _chosen(repository, wanted)
    line, progress = _progress(context)
    try:
        pairs = portable.copy(context.config, repository, other, chosen, progress=progress)
    finally:
        line.end()
    for old, new in pairs:
        if context.options.json:
            show.message("summary", snapshot=old.id, copy=new.id if new else None)
        else:
            show.result(f"{_named(old)}  {f'copied as {new.id[:_SHORT]}' if new else 'is there already'}")


@verb("unlock")
@click.argument("run_id", metavar="[RUN-ID]", required=False)
@click.option(
    "-a", "--all", "everything", is_flag=True, help="All locks, also of processes that may still be at work"
)
@click.pass_obj
def unlock_verb(context: Context, /, run_id: str | None, everything: bool) -> None:
    """Take away the locks of processes that are known to have ended, or the lock of one run.

    A lock keeps two from changing the snapshots of a run at once. Take one away only if its holder is dead for good.
    """
    from criu_agent.ops import housekeeping

    broken = housekeeping.unlock(context.repository(*([run_id] if run_id else [])), run_id, everything=everything)
    if not broken and not context.options.json:
        show.line("there is no lock of a process that has ended; --all takes away the others and damaged ones, too")
    for run, holder in broken:
        if context.options.json:
            show.message("summary", run=run, **(holder.to_json() if holder else {}))
        elif holder:
            show.result(f"{run}: taken away from pid {holder.pid} on {holder.hostname} ({holder.what})")
        else:
            show.result(f"{run}: taken away; it was damaged, and did not say from whom")


@verb("export")
@click.argument("wanted", metavar="[SNAP|RUN]", default="latest")
@click.option("-e", "--export", "path", metavar="FILE", required=True, help="The file to write")
@click.option("--force", is_flag=True, help="Overwrite FILE")
@click.pass_obj
def export_verb(context: Context, /, wanted: str, path: str, force: bool) -> None:
    """Write a snapshot into one file that has everything but the key: encrypted and signed, as in the repository.

    `import` brings it into a repository on any host that has the key.

    Exit codes: 0 done, 10 no such snapshot, 14 it cannot be read.
    """
    from criu_agent.ops import portable

    repository = context.repository(wanted)
    snapshot = repository.find(wanted)
    line, progress = _progress(context)
    try:
        portable.export(repository, snapshot, Path(path), overwrite=force, progress=progress)
    finally:
        line.end()
    size = Path(path).stat().st_size
    if context.options.json:
        show.message("summary", snapshot=snapshot.id, file=path, bytes=size)
    else:
        show.result(f"{path}: snapshot {snapshot.id[:_SHORT]} of {snapshot.manifest.run_name}, {show.size(size)}")


@verb("import")
@click.option("-i", "--import", "path", metavar="FILE", required=True, help="The file that `export` wrote")
@click.pass_obj
def import_verb(context: Context, /, path: str) -> None:
    """Bring the snapshot of an exported file into the repository. Its run can be restored from there.

    Exit codes: 0 done, 10 no such file, 12 wrong key, 14 the file is damaged.
    """
    from criu_agent.ops import portable, vault

    target = context.repository()
    line, progress = _progress(context)
    with vault.exported(context.config, Path(path), ask=context.ask_passphrase) as archived:
        try:
            done = portable.take_in(context.config, archived, target, progress=progress)
        finally:
            line.end()
    if not done:
        show.line("the repository has this snapshot already")
    for snapshot in done:
        if context.options.json:
            show.message(
                "summary", snapshot=snapshot.id, run=snapshot.manifest.run_id, name=snapshot.manifest.run_name
            )
        else:
            show.result(f"{_named(snapshot)}  (criu-agent restore {snapshot.manifest.run_name})")
