"""The layer of a run: what it wrote besides what is written through, and how that comes to the host."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from criu_agent import log, runs
from criu_agent.box import mounts
from criu_agent.config import Config
from criu_agent.errors import Failure, NotFound
from criu_agent.fs import merge as merging
from criu_agent.fs.changes import Change, changes
from criu_agent.fs.conflicts import by_birth, conflicts
from criu_agent.ops import containers, live

_HOST = Path("/")
_JOURNAL = "merge.json"  # in the run's directory: the names that a merge has files under
_OWN = "tmp"  # the run's own directory, whatever the host has there
_MOUNTED = ("dev", "proc", "run", "sys")
_SHOWN = 20  # conflicts in a message
# What nobody misses: a part of the path, or its end.
_NOISE = ("/.cache/", "/__pycache__/", "/.npm/_", "/var/cache/", "/var/log/", "/var/lib/apt/lists/")
_HISTORY = ("_history", ".lesshst", ".viminfo", ".wget-hsts", ".pyc")


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge did, or would do: the changes, and how many of the run's changes were not asked for."""

    changes: list[Change]
    left: int


def found(config: Config, run: runs.Run) -> list[Change]:
    """What the run has changed of the host's root, or of the container image that it lives in, a directory before
    what is in it. Failure if its layer cannot be read.
    """
    box = run.directory / live.BOX
    try:
        uppers = {"": box / "upper", **{path.strip("/"): upper for path, upper in mounts.layer_paths(box).items()}}
        skipped = _skipped(config, run) | uppers.keys() - {""}
        host = containers.root(config, run.spec.image) if run.spec.image else _HOST
        rows = (
            change
            for below, upper in uppers.items()
            for change in changes(upper, host, own={_OWN}, skipped=skipped, below=below)
        )
        return sorted(rows, key=lambda change: change.path.split("/"))
    except OSError as error:
        raise Failure(f"cannot read what {run.spec.name} wrote: {error.strerror}: {error.filename}") from error


def _skipped(config: Config, run: runs.Run) -> set[str]:
    """What is no part of the layer: mount points, and what the box must not see of the host."""
    own = runs.with_repository_of(config, run.spec)
    hidden = [str(own.state_dir), str(run.directory.parents[1]), *own.local_repository]
    paths = (*run.spec.through, *(mounts.MADE_IN_IMAGE if run.spec.image else hidden), *_MOUNTED)
    return {path.strip("/") for path in paths} - {""}


def listed(found: Iterable[Change]) -> list[tuple[str, str]]:
    """(A, C or D, path) as `docker diff` has them: a directory in which something changed is changed itself."""
    rows = {f"/{change.path}": change.kind for change in found}
    for path in list(rows):
        for parent in Path(path).parents:
            if str(parent) != "/":
                rows.setdefault(str(parent), "C")
    return [(rows[path], path) for path in sorted(rows, key=lambda path: path.split("/"))]


def worth_keeping(found: Iterable[Change]) -> list[Change]:
    """Without what nobody misses: /tmp, caches, logs, the histories of shells, and directories for these alone."""
    kept = [change for change in found if not _is_noise(f"/{change.path}")]
    files = [f"/{change.path}" for change in kept if not change.is_directory]
    noise = [f"/{change.path}" for change in found if _is_noise(f"/{change.path}")]

    def leads_to_noise(change: Change) -> bool:
        below = f"/{change.path}/"
        return any(path.startswith(below) for path in noise) and not any(path.startswith(below) for path in files)

    return [change for change in kept if not (change.is_directory and leads_to_noise(change))]


def _is_noise(path: str) -> bool:
    inside = f"{path}/"
    return (
        inside.startswith((f"/{_OWN}/", f"/var/{_OWN}/"))
        or any(part in inside for part in _NOISE)
        or path.endswith(_HISTORY)
    )


def lost(config: Config, run: runs.Run) -> list[Change]:
    """What would be lost with the run: nothing when its newest snapshot has it."""
    if run.state.state == "suspended" or run.spec.fs == "host":
        return []
    return worth_keeping(found(config, run))


def merge(
    config: Config, run: runs.Run, paths: Sequence[str], *, force: bool = False, dry_run: bool = False
) -> Merged:
    """Carry what the run changed (below these paths; all but /tmp without) to the host, all of it or none.

    Failure for a run that is not stopped, and, unless `force`, for what the host has changed meanwhile: it is named,
    and nothing is done.
    """
    if run.spec.image:
        raise Failure(
            f"{run.spec.name} lives in a container image: what it wrote there is none of this host's",
            hint="suspend it, and take the files: criu-agent restore --files-only SNAP PATH --into DIR",
        )
    with _stopped(run):
        if not dry_run:
            clean(run)
        everything = found(config, run)
        chosen = _chosen(everything, paths)
        if not force:
            _refuse_conflicts(run, chosen)
        if chosen and not dry_run:
            _carry(run, chosen, everything)
        return Merged(changes=chosen, left=len(everything) - len(chosen))


def _carry(run: runs.Run, chosen: list[Change], everything: list[Change]) -> None:
    planned = merging.steps(chosen, run.spec.id)
    runs.write_json(run.directory / _JOURNAL, {"asides": [step.aside for step in planned]})
    merging.merge(_HOST, planned)
    (run.directory / _JOURNAL).unlink()
    paths = {change.path for change in chosen}
    try:
        merging.prune(chosen, (change for change in everything if change.path not in paths))
    except OSError as error:
        log.warning("the layer of %s has still what was merged: %s", run.spec.name, error)


def clean(run: runs.Run) -> None:
    """Remove what a merge that was killed has left on the host."""
    journal = run.directory / _JOURNAL
    try:
        asides = json.loads(journal.read_bytes())["asides"]
    except FileNotFoundError:
        return
    merging.clean(_HOST, asides)
    journal.unlink()


@contextmanager
def _stopped(run: runs.Run) -> Iterator[None]:
    """Nobody resumes it meanwhile. What lies under a mounted overlay must not change."""
    name = run.spec.name
    if run.alive or run.shown_state == "degraded":
        raise Failure(
            f"{name} is {run.shown_state}: only what a stopped run wrote can be merged",
            hint=f"criu-agent suspend {name}, merge, and criu-agent resume {name}",
            agent_state="running, unharmed",
        )
    if run.state.state == "fenced":
        raise Failure(f"{name} has moved to {run.state.moved_to}", hint="merge it there")
    lock = runs.hold_lock(run.directory)
    try:
        yield
    finally:
        os.close(lock)


def _chosen(everything: list[Change], paths: Sequence[str]) -> list[Change]:
    if not paths:
        return [change for change in everything if not f"{change.path}/".startswith(f"{_OWN}/")]
    wanted = {os.path.normpath(f"/{path}").strip("/") for path in paths}
    chosen = {change.path for change in everything if any(_is_below(change.path, one) for one in wanted)}
    for one in wanted:
        if not any(_is_below(path, one) for path in chosen):
            raise NotFound(f"the run changed nothing in /{one}", hint="criu-agent diff RUN lists what it changed")
    chosen = _with_whole_directories(everything, chosen)
    # New directories on the way to what is chosen come along: it needs a place to go to.
    leading = {path[:end] for path in chosen for end, letter in enumerate(path) if letter == "/"}
    return [one for one in everything if one.path in chosen or (one.path in leading and _is_made(one))]


def _with_whole_directories(everything: list[Change], chosen: set[str]) -> set[str]:
    """chosen, with all of each renamed directory of which something is in it, or whose old place goes.

    What it has of the host's would be lost with the old place.
    """
    gone = [change.path for change in everything if change.path in chosen and change.kind == "D"]
    whole = {
        change.entry.path
        for change in everything
        if change.moved and (change.path in chosen or any(_lies_in(change, path) for path in gone))
    }
    more = {change.path for change in everything if change.entry.path in whole} - chosen
    return _with_whole_directories(everything, chosen | more) if more else chosen


def _lies_in(change: Change, path: str) -> bool:
    """Whether what the run has there is still the host's, below another path."""
    return change.run is not None and change.run.root == _HOST and _is_below(change.run.path, path)


def _is_made(change: Change) -> bool:
    """Whether it is a directory where the host has none."""
    return change.is_directory and not (change.host and change.host.is_directory)


def _is_below(path: str, directory: str) -> bool:
    return not directory or path == directory or path.startswith(f"{directory}/")


def _refuse_conflicts(run: runs.Run, chosen: Iterable[Change]) -> None:
    start = int(datetime.fromisoformat(run.spec.created).timestamp() * 1_000_000_000)
    # Of a restored run the layer was made anew: its entries are younger than what the run did.
    since = (lambda _: start) if run.state.restored else by_birth(start)
    rows = list(conflicts(chosen, _HOST, since))
    if not rows:
        return
    lines = [f"/{path} {why}" for path, why in rows[:_SHOWN]]
    lines += [f"and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    raise Failure(
        f"{len(rows)} changes of {run.spec.name} meet changes of the host's; nothing was merged:\n  "
        + "\n  ".join(lines),
        hint="merge other paths by name, or --force: the run's files then replace the host's",
    )
