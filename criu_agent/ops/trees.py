"""The file trees of a run's snapshots: its upper layer, and what is written through to the host."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from criu_agent import log
from criu_agent.box.layout import Bind
from criu_agent.fs import table, tree
from criu_agent.fs.difference import Proven
from criu_agent.fs.listing import Left, line_of
from criu_agent.linux import proc
from criu_agent.model import Action, PlanRow
from criu_agent.ops.facts import Facts
from criu_agent.ops.live import Live
from criu_agent.repo.writer import Writer

UPPER = "upper"
# What a program makes anew when it is not there, and no process minds losing. What it has open is taken all the same.
# Each costs a listing of 100,000 files 10 to 20 ms.
EXCLUDED = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")
_TABLE = "files"  # in the run directory

Captures = Mapping[str, tree.Capture]


def through(live: Live) -> dict[str, Bind]:
    """What is written through to the host and is a tree, by its name: a socket of the host (docker.sock) is none."""
    return {bind.key: bind for bind in _through(live) if _is_tree(Path(bind.source))}


def captured(live: Live, taken: Captures) -> dict[str, dict[str, object]]:
    """What the manifest says of these trees."""
    binds = [bind for bind in _through(live) if bind.key in taken]
    return {bind.key: {"path": bind.target, "excluded": list(_excluded(live))} for bind in binds}


@contextmanager
def ahead(live: Live, writer: Writer, *, parent: str, stop: bool, check: Callable[[], None]) -> Iterator[Captures]:
    """Look at the trees while the run goes on, and copy what its snapshot will need; `freeze` does the rest.

    parent: the snapshot that what is stored is compared with, "" for none. stop: the run will not go on, so that
    nothing need be copied. check is called again and again, and may raise. Failure if a tree cannot be read.
    """
    known = table.read(live.directory / _TABLE, parent) if parent else {}
    with ExitStack() as stack:
        taken: dict[str, tree.Capture] = {}
        uppers = live.layout.uppers()
        for name, root in _roots(live).items():
            is_known = name in known and name in writer.trees
            taken[name] = stack.enter_context(
                tree.prepare(
                    root,
                    # a run that goes on changes its files at once: they are copied; a stopped one's are read in place
                    spool=None if stop else live.directory,
                    known=table.known(known[name], writer.trees[name]) if is_known else tree.nothing_known,
                    left=Left() if name in uppers else Left(globs=_excluded(live), mounts=mounts(root)),
                    mapped=partial(_mapped, live),
                    check=check,
                )
            )
        yield taken


def freeze(live: Live, taken: Captures, frozen: Facts) -> None:
    """Take the trees in as they are now, while the run is frozen. frozen: the facts of this moment."""
    needed = _used(frozen)
    binds = through(live)
    for name, capture in taken.items():
        inside = f"{binds[name].target}/" if name in binds else None
        paths = [path.removeprefix(inside) for path in needed if path.startswith(inside)] if inside else []
        tree.capture(capture.root, spool=None, before=capture, needed=paths)


def remember(live: Live, snapshot_id: str, taken: Captures) -> None:
    """Write the table of files for the next snapshot, after this one has got its id."""
    try:
        rows = {name: table.rows(capture.found, capture.is_settled) for name, capture in taken.items()}
        table.write(live.directory / _TABLE, snapshot_id, rows)
    except OSError as error:  # the next snapshot reads more than it would have to
        log.warning("the table of files of snapshot %s could not be kept: %s", snapshot_id, error)


def proven(directory: Path, snapshot_id: str) -> Callable[[str], Proven]:
    """By the table in a run's directory: of each tree, by its name, which files are certain to be those of the
    snapshot. Of none, if the table is of another one."""
    known = table.read(directory / _TABLE, snapshot_id)

    def of_tree(name: str) -> Proven:
        rows = known.get(name, {})
        return lambda path, status: line_of(status, path) in rows

    return of_tree


def rows(live: Live) -> list[PlanRow]:
    """What a plan says of these trees."""
    said: list[PlanRow] = []
    for bind in _through(live):
        if not _is_tree(Path(bind.source)):
            said.append(_row(bind.target, "re-plug", "neither a directory nor a file: not captured"))
            continue
        said.append(_row(bind.target, "keep", f"captured, without {', '.join(_excluded(live))}"))
        mounted = (f"{bind.target}/{path}" for path in mounts(Path(bind.source)))
        said.extend(_row(path, "close", "mounted from elsewhere: not captured") for path in mounted)
    return said


def _row(path: str, action: Action, reason: str) -> PlanRow:
    return PlanRow(kind="mount", pid=0, program="", fd=None, object=path, action=action, reason=reason)


def _roots(live: Live) -> dict[str, Path]:
    return {**live.layout.uppers(), **{name: Path(bind.source) for name, bind in through(live).items()}}


def _through(live: Live) -> list[Bind]:
    return [bind for bind in live.layout.binds if bind.key.startswith("through-")]


def _is_tree(path: Path) -> bool:
    """One that is not there must be noticed, and is when it is listed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)


def _excluded(live: Live) -> tuple[str, ...]:
    return (*EXCLUDED, *live.spec.exclude)


def mounts(root: Path) -> tuple[str, ...]:
    """What is mounted in a tree on the host, by paths in it."""
    points = {os.fsencode(mount.point) for mount in proc.mounts(os.getpid())}
    below = os.fsencode(root) + b"/"
    return tuple(sorted(os.fsdecode(point.removeprefix(below)) for point in points if point.startswith(below)))


def _mapped(live: Live) -> frozenset[int]:
    """The inodes of files that the run has mapped shared."""
    found: set[int] = set()
    for pid in live.cgroup.pids():
        found |= proc.shared_inodes(pid)
    return frozenset(found)


def _used(facts: Facts) -> list[str]:
    """The paths of what the processes have open, mapped, or as their working directory: it must be there for them."""
    paths = {fd.target for fds in facts.fds.values() for fd in fds}
    paths |= {mapping.path for mappings in facts.mappings.values() for mapping in mappings}
    for process in facts.processes:
        with suppress(OSError):
            paths.add(os.readlink(f"/proc/{process.pid}/cwd"))
    return sorted(paths)
