"""What a run writes through to the host, at a restore: compared with the snapshot, and made as it was there.

Nothing is changed before all of it was looked at, and everything is undone if the restore comes to nothing.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from criu_agent import log
from criu_agent.errors import Conflict, Failure, HostCannot
from criu_agent.fs import githead
from criu_agent.fs import replace as fs
from criu_agent.fs.content import Placed, opened
from criu_agent.fs.difference import Difference, Place, Proven, compare
from criu_agent.fs.entry import led_by_others, resolved
from criu_agent.fs.excluded import matcher
from criu_agent.model import Contents, RunSpec, Snapshot
from criu_agent.ops import agents, contents, saved, trees
from criu_agent.repo.reading import Reader

Choice = Literal["refuse", "theirs", "ours"]
_SHOWN = 20  # differences that are listed
_HINT = (
    "--into DIR makes the snapshot's files there, beside those here; "
    "--theirs puts the snapshot's files in the place of those here, which are kept in a safety snapshot; "
    "--ours keeps those here as they are, and the run goes on with them"
)
# CRIU gives a file that is open and has lost its name such a one as long as it needs it: at the dump of a run that
# goes on, and until it is restored. It is never there when the run is not frozen.
_REMAP = re.compile(r"link_remap\.[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A tree of the snapshot and what is here in its place. is_free: nothing is here.

    What agents keep of themselves is shared with others, and on another host another: what is here stays, unless it
    is of the run's own agent and the user says otherwise. kept: what differs of that.
    """

    captured: saved.Captured
    place: Place
    is_free: bool
    differences: tuple[Difference, ...] = ()
    remaps: tuple[Difference, ...] = ()
    kept: tuple[Difference, ...] = ()


def with_backing(spec: RunSpec, into: str) -> RunSpec:
    """The spec of a run whose working directory lies in `into` on this host, or at its own place again."""
    path = _of_workdir(spec)
    others = {key: value for key, value in spec.backing.items() if key != path}
    return replace(spec, backing=others if into == path else {**others, path: into})


def _of_workdir(spec: RunSpec) -> str:
    """The outermost path that has the working directory of the host, which is the first one; others in it have no
    mount of their own. In a container image the command may work elsewhere.
    """
    first = spec.through[0] if spec.through else spec.workdir
    return min(
        (path for path in spec.through if f"{first}/".startswith(f"{path.rstrip('/')}/")), key=len, default=first
    )


def places(
    reader: Reader,
    parts: Contents,
    captured: Mapping[str, saved.Captured],
    spec: RunSpec,
    proven: Callable[[str], Proven],
) -> Iterator[tuple[saved.Captured, Place]]:
    """Each tree of the snapshot that is written through, and its place here. proven: by the name of a tree."""
    for (name, one), (tree, _) in zip(captured.items(), contents.through(parts, captured), strict=True):
        files = contents.files_of(reader, tree)
        root = Path(spec.backing.get(one.path, one.path))
        yield (
            one,
            Place(
                base=root.parent,
                top=root.name,
                entries=led_by_others(files.entries, partial(_has_passed, root)),
                data=contents.data(files),
                excluded=matcher(one.excluded),
                mounts=frozenset(trees.mounts(root)),
                proven=proven(name),
                is_shared=one.path in spec.agent_state,
            ),
        )


def look(found: Iterable[tuple[saved.Captured, Place]], spec: RunSpec, *, choice: Choice, into: str) -> list[Found]:
    """Compare what is here with the snapshot; nothing is changed. Failure if `into` is not free, or nothing belongs
    there.

    shared: paths in the box of what others write to as well, such as the histories that agents keep. What has changed
    there is nobody's conflict: it stays as it is, unless the user says "theirs".
    """
    found = list(found)
    if into and all(into != str(place.root) for _, place in found):
        raise Failure(
            "the snapshot does not have the files of the working directory",
            hint="it is of an older criu-agent; leave --into out, and bring them here in another way",
        )
    own = agents.own(spec.argv, spec.agent_state)
    ours = [(one, place) for one, place in found if one.path in own or not place.is_shared]
    return [_looked_at(one, place, choice, into) for one, place in ours]


def _looked_at(captured: saved.Captured, place: Place, choice: Choice, into: str) -> Found:
    free = _is_free(place)
    if into == str(place.root) and not free:
        raise Failure(f"{into} is not empty", hint="--into wants a directory that is empty, or not there yet")
    if _is_missing(place.root) or (free and choice != "ours"):
        return Found(captured=captured, place=place, is_free=True)
    remaps = [Difference(change="-", path=one, detail="") for one in place.entries if _has_passed(place.root, one)]
    made = {one.path for one in remaps}
    differences = () if choice == "ours" else tuple(one for one in compare(place) if one.path not in made)
    found = Found(captured=captured, place=place, is_free=False, remaps=tuple(remaps))
    if place.is_shared and choice == "refuse":
        return replace(found, kept=differences)
    return replace(found, differences=differences)


def _has_passed(root: Path, path: str) -> bool:
    """A name that CRIU made for the dump, and took away when the run went on."""
    return _REMAP.fullmatch(path.rpartition("/")[2]) is not None and _is_missing(root / path)


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise Failure(f"cannot look at {path}: {error.strerror}") from error
    return False


def _is_free(place: Place) -> bool:
    """Nothing is there, or an empty directory where the snapshot has one."""
    root = place.root
    if _is_missing(root):
        return True
    is_directory = place.entries[""].kind == "directory" and root.is_dir() and not root.is_symlink()
    return is_directory and not any(root.iterdir())


def require_same(found: Iterable[Found], snapshot: Snapshot) -> None:
    """Conflict, which names what is other here than in the snapshot."""
    changed = [one for one in found if one.differences]
    if not changed:
        return
    lines = [line for one in changed for line in _lines(one)]
    heads = [line for one in changed for line in _head_lines(one.place)]
    count = sum(len(one.differences) for one in changed)
    raise Conflict(
        "\n".join(
            [
                f"{_changes(count)} here since snapshot {snapshot.id[:8]}; nothing was done (snapshot -> here):",
                *heads,
                *lines[:_SHOWN],
                *([f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []),
            ]
        ),
        hint=_HINT,
    )


def _changes(count: int) -> str:
    return f"{count} change{'' if count == 1 else 's'}"


def warnings(found: Iterable[Found]) -> list[str]:
    """What of the agent's own goes on as it is here."""
    return [
        f"{_changes(len(one.kept))} since the snapshot in {one.place.root}, which the agent keeps of itself; "
        "they stay: --theirs puts the snapshot's files in their place"
        for one in found
        if one.kept
    ]


def _lines(one: Found) -> Iterator[str]:
    """One for each difference; what git keeps for itself last."""
    for difference in sorted(one.differences, key=lambda one: one.path.startswith(".git/")):
        where = {"+": "not in the snapshot: ", "-": "gone here: ", "~": ""}[difference.change]
        path = str(one.place.root / difference.path)
        yield f"  {difference.change} {_printable(path)}: {where}{_printable(difference.detail)}"


def _printable(text: str) -> str:
    """A name may have line ends in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _head_lines(place: Place) -> Iterator[str]:
    """That git has another commit checked out here."""
    then, now = githead.read(_of_snapshot(place)), githead.read(_of_host(place))
    if then != now:
        yield f"  ~ git HEAD of {_printable(str(place.root))}: {_printable(f'{then} -> {now}')}"


def _of_snapshot(place: Place) -> githead.Read:
    def read(path: str) -> bytes:
        entry = resolved(place.entries, path) if path in place.entries else None
        if entry is None or entry.kind != "file" or entry.size > githead.LIMIT:
            return b""
        return b"".join(part for _, part in Placed(place.data).take(entry))

    return read


def _of_host(place: Place) -> githead.Read:
    def read(path: str) -> bytes:
        try:
            with place.containing(path) as (at, name), opened(at, name) as fd:
                return os.pread(fd, githead.LIMIT, 0)
        except OSError:
            return b""

    return read


def settle(found: Iterable[Found], by: str, choice: Choice, undo: ExitStack, *, safe: Sequence[Place] = ()) -> None:
    """Make what is missing, and with "theirs" what is other, as the snapshot has it. by: the run's id.

    safe: the places as they are now, from a snapshot of them. Failure when it cannot be done here; what was done is
    undone by `undo`.
    """
    backs = {place.root: place for place in safe}
    found = list(found)
    _require_space(found, choice)
    for one in found:
        if one.is_free:
            was_there = not _is_missing(one.place.root)
            fs.make(one.place, by)
            undo.callback(_undone, one.place, partial(fs.remove, one.place, root=not was_there))
        elif choice == "theirs" and one.differences:
            undo.callback(_undone, one.place, partial(_put_back, backs[one.place.root]))
            fs.replace(one.place, (*one.differences, *one.remaps))
        elif one.remaps:
            made = [replace(remap, change="+") for remap in one.remaps]
            undo.callback(_undone, one.place, partial(fs.replace, one.place, made))
            fs.replace(one.place, one.remaps)


def _require_space(found: Iterable[Found], choice: Choice) -> None:
    """HostCannot where what is going to be made finds no room, in bytes or files. Several may lie on one disk."""
    needs: dict[int, tuple[int, int]] = {}
    for one in found:
        if not one.is_free and choice != "theirs":
            continue
        place = one.place
        paths = place.entries if one.is_free else [path.path for path in one.differences if path.change != "+"]
        at = next(path for path in (place.root, *place.root.parents) if not _is_missing(path))
        device = at.stat().st_dev
        size, files = needs.get(device, (0, 0))
        size, files = size + sum(place.entries[path].length for path in paths), files + len(paths)
        needs[device] = (size, files)
        facts = os.statvfs(at)
        have = facts.f_bavail * facts.f_frsize
        if size > have:
            raise _no_room(place, f"{size / 1e6:.1f} MB", f"{have / 1e6:.1f} MB")
        if facts.f_files and files > facts.f_favail:
            raise _no_room(place, f"{files} files", f"{facts.f_favail}")


def _no_room(place: Place, need: str, have: str) -> HostCannot:
    return HostCannot(
        f"the files of the snapshot need room for {need} in {place.root}, and there is room for {have}",
        hint="free some space there; or --into DIR, on a larger file system",
        agent_state="not running",
    )


def _put_back(place: Place) -> None:
    fs.replace(place, compare(place))


def _undone(place: Place, work: Callable[[], None]) -> None:
    try:
        work()
    except Failure as error:
        log.warning("the files in %s are not as they were before: %s", place.root, error.message)
