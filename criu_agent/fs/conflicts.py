"""Whether the host's files went on beside a run: what the run has then does not come from what the host has now."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from criu_agent.fs import beneath
from criu_agent.fs.changes import Change
from criu_agent.fs.facts import Facts, Place, look, names, overlay_xattr
from criu_agent.linux import syscalls

# When a run came to have an entry of its layer, in ns since 1970: what the host did later, the run has not seen.
Since = Callable[[Place], int]


def by_birth(start: int) -> Since:
    """The entry was made when the run wrote, removed or renamed the host's file; at `start` where nobody knows."""

    def since(entry: Place) -> int:
        parent, name = beneath.split(entry.path)
        with beneath.directory(entry.root, parent) as at:
            return max(start, syscalls.birth_time(beneath.by_proc(at, name)))

    return since


def conflicts(found: Iterable[Change], host: Path, since: Since) -> Iterator[tuple[str, str]]:
    """(path, why) for each change that would overwrite or bring back what the host has changed meanwhile.

    By the host's ctime, which nobody can set back: also a file whose mode alone was changed is one.
    """
    for change in found:
        moment = since(change.entry)
        why = _made_or_changed(change, host, moment) if change.host else _removed(change, host, moment)
        if why:
            yield change.path, why


def _made_or_changed(change: Change, host: Path, moment: int) -> str:
    if change.host is None or not change.host.is_directory:
        return "was made or changed on the host meanwhile" if _newer(change.host, moment) else ""
    if change.is_directory:  # what differs is its mode, owner or attributes
        return "was changed on the host meanwhile" if _newer(change.host, moment) else ""
    if any(_newer(facts, moment) for facts in _tree(Place(root=host, path=change.path))):
        return "holds what was made or changed on the host meanwhile"
    return ""


def _removed(change: Change, host: Path, moment: int) -> str:
    """The run has a copy of a file that the host had, and something was removed or renamed in its directory."""
    parent = look(Place(root=host, path=os.path.dirname(change.path)))  # noqa: PTH120 - a str
    copied = change.plain and overlay_xattr(change.entry, "origin") != b""
    return "was removed on the host meanwhile" if copied and _newer(parent, moment) else ""


def _newer(facts: Facts | None, moment: int) -> bool:
    return facts is not None and facts.status.st_ctime_ns > moment


def _tree(place: Place) -> Iterator[Facts]:
    waiting = [place]
    while waiting:
        here = waiting.pop()
        facts = look(here)
        if facts is None:
            continue
        yield facts
        if facts.is_directory:
            waiting += [here.below(name) for name in names(here)]
