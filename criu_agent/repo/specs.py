"""SNAP, as users write it: which snapshot is meant (INTERFACE section 1)."""

import re
from collections.abc import Sequence
from datetime import datetime

from criu_agent.errors import NotFound, Usage
from criu_agent.model import Manifest, Snapshot

FILES_ONLY = "files-only"  # the resource of a manifest that says that the snapshot has no processes
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_SPEC = re.compile(r"(?P<run>[A-Za-z0-9._-]{1,128})(?:~(?P<back>[0-9]{1,9})|:(?P<tag>.+))?")
_HINT = "`criu-agent snapshots` lists them"


def oldest_first(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """By time, and those of one instant by their number."""
    return sorted(
        snapshots,
        key=lambda one: (datetime.fromisoformat(one.manifest.created), one.manifest.sequence, one.id),
    )


def has_processes(manifest: Manifest) -> bool:
    """Whether a run can be restored from it."""
    return FILES_ONLY not in manifest.resources


def is_prefix(spec: str) -> bool:
    return bool(_PREFIX.fullmatch(spec))


def names_run(spec: str, snapshots: Sequence[Snapshot]) -> bool:
    return any(spec in (one.manifest.run_name, one.manifest.run_id) for one in snapshots)


def choose(spec: str, snapshots: Sequence[Snapshot]) -> Snapshot:
    """The snapshot that `spec` means among all of them.

    `latest`; a run's name or id, its newest; RUN~2, two before that; RUN:tag, its newest with that tag; the
    first digits (4 or more) of a snapshot's or a run's id. A run's whole name goes before digits. One that has
    files only is meant by its id or tag alone. NotFound if there is none, or, with the candidates, if digits fit
    several.
    """
    match = _SPEC.fullmatch(spec)
    if not match:
        raise Usage(f"{spec!r} names no snapshot", hint="say an id, `latest`, RUN, RUN~2 (two before) or RUN:tag")
    if spec == "latest":
        whole = [one for one in snapshots if has_processes(one.manifest)]
        return _newest(whole, "there is no snapshot in this repository")
    line = _line_of(match["run"], snapshots)
    if match["tag"]:
        tagged = [one for one in line if match["tag"] in one.tags]
        return _newest(tagged, f"{match['run']} has no snapshot with the tag {match['tag']}")
    if line[-1].id.startswith(match["run"]) and not match["back"]:
        return line[-1]
    line = [one for one in line if has_processes(one.manifest)]
    if match["back"]:
        back = int(match["back"])
        if back >= len(line):
            raise NotFound(f"{match['run']} has only {_counted(len(line))}", hint=_HINT)
        return line[-1 - back]
    if not line:
        raise NotFound(f"{match['run']} has only snapshots without processes", hint=_HINT)
    return line[-1]


def _line_of(run: str, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """The snapshots that ~ and : count in: those of one run, or one snapshot's run up to that one."""
    named = [one for one in snapshots if run in (one.manifest.run_name, one.manifest.run_id)]
    if named:
        # a name can be given again once its first run was removed: the newest of that name is meant
        newest = oldest_first(named)[-1]
        return of_run(newest.manifest.run_id, snapshots)
    fitting = [one for one in snapshots if is_prefix(run) and one.id.startswith(run)]
    runs = {one.manifest.run_id for one in snapshots if is_prefix(run) and one.manifest.run_id.startswith(run)}
    if len(fitting) + len(runs) > 1:
        found = sorted([f"snapshot {one.id[:16]}" for one in fitting] + [f"run {one}" for one in runs])
        raise NotFound(f"{run} is the beginning of {', '.join(found)}", hint="type more digits")
    if runs:
        return of_run(runs.pop(), snapshots)
    if fitting:
        line = of_run(fitting[0].manifest.run_id, snapshots)
        return line[: line.index(fitting[0]) + 1]
    raise NotFound(f"there is no snapshot {run}", hint=_HINT)


def of_run(run_id: str, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """A run's snapshots by their number: within a run no clock is trusted."""
    return sorted(
        (one for one in snapshots if one.manifest.run_id == run_id),
        key=lambda one: (one.manifest.sequence, datetime.fromisoformat(one.manifest.created), one.id),
    )


def _newest(snapshots: Sequence[Snapshot], otherwise: str) -> Snapshot:
    if not snapshots:
        raise NotFound(otherwise, hint="`criu-agent checkpoint RUN` takes one")
    return oldest_first(snapshots)[-1]


def _counted(count: int) -> str:
    return f"{count} snapshot{'' if count == 1 else 's'}"
