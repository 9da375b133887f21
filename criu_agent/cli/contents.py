"""The verbs that show what is in a snapshot: ls, dump, diff."""

import re
import stat
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from criu_agent import runs
from criu_agent.cli import show
from criu_agent.cli.context import Context, verb
from criu_agent.errors import Failure, Usage

if TYPE_CHECKING:
    from criu_agent.fs.entry import Entry
    from criu_agent.model import Snapshot
    from criu_agent.ops.rows import Row
    from criu_agent.repo.repository import Repository

_HERE = re.compile(r"\.(?=$|[~:])")  # the run of this directory
_SNAP = "the first digits of an id, `latest`, RUN (its newest), RUN~2 (two before that) or RUN:tag."


def _find(context: Context, *specs: str) -> "tuple[Repository, list[Snapshot]]":
    """The repository that has them, and the snapshots that are meant."""
    here = [runs.find(context.config, ".").spec.id + spec[1:] if _HERE.match(spec) else spec for spec in specs]
    repository = context.repository(*here)
    return repository, [repository.find(spec) for spec in here]


@verb("ls", epilog=f"SNAP is {_SNAP}")
@click.argument("snap")
@click.argument("path", required=False)
@click.option("-l", "--long", is_flag=True, help="Show mode, owner, size and time, and files that were removed")
@click.option("--recursive", is_flag=True, help="Show everything below PATH")
@click.pass_obj
def ls_verb(context: Context, /, snap: str, path: str | None, long: bool, recursive: bool) -> None:
    """List the files in SNAP: what was in the run's directory and --through paths, and what the run had written
    elsewhere; of the directory PATH only what lies directly in it.

    Paths are those in the box. --json gives one line for each file; the type "whiteout" is a file of the host's that
    the run removed.

    Exit codes: 0 done, 10 no such snapshot or path, 14 the snapshot is corrupt.
    """
    from criu_agent.fs.entry import resolved
    from criu_agent.ops import contents

    repository, (snapshot,) = _find(context, snap)
    layer = contents.layer(repository, snapshot)
    for name in contents.listed(layer.entries, path or "/", recursive=recursive or path is None):
        entry = resolved(layer.entries, name)
        removed = contents.is_whiteout(entry)
        if context.options.json:
            show.message("node", **_node(name, entry, removed=removed))
        elif long:
            show.result(show.printable(_long(name, entry, removed=removed)))
        elif not removed:
            show.result(show.printable(f"/{name}"))


def _node(name: str, entry: "Entry", *, removed: bool) -> dict[str, object]:
    node: dict[str, object] = {
        "path": f"/{name}",
        "type": "whiteout" if removed else entry.kind,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": _time(entry.mtime).isoformat().replace("+00:00", "Z"),
    }
    if entry.path != name:
        node["link"] = f"/{entry.path}"
    if entry.kind == "symlink":
        node["target"] = entry.target
    return node


def _long(name: str, entry: "Entry", *, removed: bool) -> str:
    from criu_agent.fs.entry import KINDS

    mode = "removed   " if removed else stat.filemode(KINDS[entry.kind] | entry.mode)
    target = f" -> {entry.target}" if entry.kind == "symlink" else ""
    moment = f"{_time(entry.mtime):%Y-%m-%d %H:%M:%S}"
    return f"{mode} {entry.uid:>5} {entry.gid:>5} {entry.size:>10} {moment} /{name}{target}"


def _time(nanoseconds: int) -> datetime:
    """The nearest time that Python has: a file can be older than the year 1."""
    try:
        return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        nearest = datetime.min if nanoseconds < 0 else datetime.max
        return nearest.replace(tzinfo=UTC, microsecond=0)


@verb("dump", epilog=f"SNAP is {_SNAP}")
@click.argument("snap")
@click.argument("file", required=False)
@click.option("--image", metavar="NAME", help="One of CRIU's images instead, such as pstree.img")
@click.pass_obj
def dump_verb(context: Context, /, snap: str, file: str | None, image: str | None) -> None:
    """Write FILE, as it was at SNAP, to standard output.

    FILE is a path in the box. Links are not followed.

    Exit codes: 0 done, 1 it is a directory or has no content, 10 no such snapshot or file, 14 the snapshot is corrupt
    (what was written by then is intact), 141 the reader has gone.
    """
    from criu_agent.ops import contents

    if (file is None) == (image is None):
        raise Usage("name a file, or an image with --image", hint="criu-agent dump --help")
    repository, (snapshot,) = _find(context, snap)
    if image is not None:
        _write(contents.image_bytes(repository, snapshot, image))
    elif file is not None:
        _write(contents.file_bytes(contents.layer(repository, snapshot), file))


def _write(pieces: Iterable[bytes]) -> None:
    try:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"cannot write the output: {error.strerror}") from error


@verb("diff", epilog=f"A and B are {_SNAP}")
@click.argument("a", metavar="RUN|A")
@click.argument("b", required=False)
@click.option("--pages", is_flag=True, help="Count the pages of memory that changed; reads both memories whole")
@click.option("--values", is_flag=True, help="Show the values of environment variables, which may be secret")
@click.pass_obj
def diff_verb(context: Context, /, a: str, b: str | None, pages: bool, values: bool) -> None:
    """Show what RUN has changed of the host's files, as it is now; or what changed from snapshot A to snapshot B:
    processes, file descriptors, connections, environment, files and regions of memory.

    Of a RUN: A is added, C changed, D deleted, besides what is written through. `merge` carries it to the host.

    Of snapshots:

    + is only in B, - only in A, ~ is in both and not the same. The environment is what programs were started with;
    of a process that came or went neither it nor descriptors nor memory are shown one by one. Files are those that
    `ls` lists. Of memory the regions are compared, and their content with --pages. Arguments of programs are shown
    as they are, also if there are secrets among them.

    Exit codes: 0 done, whether there are differences or not; 10 no such snapshot, 14 one is corrupt.
    """
    if b is None:
        from criu_agent.cli.layer import show_changes

        show_changes(context, a)
        return
    from criu_agent.ops import contents
    from criu_agent.ops.compare import Side, compare

    repository, (before, after) = _find(context, a, b)
    layers = [contents.layer(repository, one) for one in (before, after)]
    sides = [
        Side(description=contents.description(repository, one), entries=layer.entries)
        for one, layer in zip((before, after), layers, strict=True)
    ]

    def same_content(old: "Entry", new: "Entry") -> bool:
        return contents.same_content(layers[0], layers[1], old, new)

    changed_pages = contents.pages_that_changed(repository, before, after) if pages else None
    rows = list(compare(sides[0], sides[1], same_content, changed_pages=changed_pages, values=values))
    if context.options.json:
        show.document({"before": before.id, "after": after.id, "rows": [row.to_json() for row in rows]})
        return
    _print_rows(rows, color=context.color)
    if not rows:
        show.line(f"no differences between {before.id[:8]} and {after.id[:8]}")


def _print_rows(rows: "list[Row]", *, color: bool) -> None:
    from criu_agent.ops.rows import SECTIONS

    for section in SECTIONS:
        chosen = [(f"{row.change} {row.what}", row.detail) for row in rows if row.section == section]
        if chosen:
            show.table((section.upper(), ""), chosen, color=color)
