"""What the upper layer of an overlay changes of the host's files: added, changed, deleted, as `docker diff` says.

Read from the layer itself, not from a mount of it: the kernel refuses to mount a layer over the file system that it
lies in as a lower one (ELOOP), and a run that lives has it mounted already. What overlayfs writes into a layer:
a whiteout (a character device 0:0) for what was removed; trusted.overlay.opaque on a directory that replaces the
host's; trusted.overlay.redirect on one that was renamed, whose other content is that of the host's old one. There is
no metacopy: nfs_export excludes it.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from criu_agent.fs import beneath
from criu_agent.fs.facts import Facts, Place, look, names, overlay_xattr, same, same_dress

Kind = Literal["A", "C", "D"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """path is relative to the root. run is what the run has there, host what the host has; None for nothing.

    entry is the layer's own entry that the change comes from: this one, or the renamed or replaced directory above
    it. plain: it is this one, and can be taken out of the layer when the host has the change, too. moved: it is of a
    directory that was renamed, so that part of it still lies in the old place on the host.
    """

    kind: Kind
    path: str
    run: Place | None
    facts: Facts | None
    host: Facts | None
    entry: Place
    plain: bool
    moved: bool

    @property
    def is_directory(self) -> bool:
        return self.facts is not None and self.facts.is_directory


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """A directory that the run has. upper and lower are what it consists of, host what it is compared with.

    base: the outermost renamed or replaced directory that it lies in, if it does; moved: one of them was renamed.
    """

    path: str
    upper: Place | None
    lower: Place | None
    host: Place | None
    base: Place | None
    moved: bool = False


def changes(
    upper: Path, host: Path, *, own: Collection[str], skipped: Collection[str], below: str = ""
) -> Iterator[Change]:
    """Each change, a directory before what is in it. The layer is one of the directory `below`; "" is the root.

    own are directories that the run has to itself, compared with nothing. skipped are paths that are not looked at,
    such as mount points; neither are the directories that only lead there.
    """
    leading = {path[:end] for path in skipped for end, letter in enumerate(path) if letter == "/"}
    root = Place(root=host, path=below)
    waiting = [_Visit(path=below, upper=Place(root=upper, path=""), lower=root, host=root, base=None)]
    while waiting:
        visit = waiting.pop()
        directories: list[_Visit] = []
        for name, (place, facts) in _contents(visit).items():
            path = beneath.joined(visit.path, name)
            if path in skipped:
                continue
            there = visit.host.below(name) if visit.host and path not in own else None
            theirs = look(there) if there else None
            change = _change(visit, path, place, facts, there, theirs)
            if change and path not in own and path not in leading:
                yield change
            if place is not None and facts is not None and facts.is_directory:
                directories.append(_below(visit, name, path, theirs, root, is_own=path in own))
        waiting += reversed(directories)


def _contents(visit: _Visit) -> Mapping[str, tuple[Place | None, Facts | None]]:
    """What may differ from the host in a directory: names to what the run has there, None for what it removed."""
    found: dict[str, tuple[Place | None, Facts | None]] = {}
    for name in names(visit.upper) if visit.upper else ():
        place = visit.upper.below(name) if visit.upper else None
        facts = look(place) if place else None
        found[name] = (None, None) if facts is None or facts.is_whiteout else (place, facts)
    if visit.lower == visit.host:
        return found
    for name in names(visit.lower) if visit.lower else ():
        if name not in found and visit.lower:
            found[name] = (visit.lower.below(name), look(visit.lower.below(name)))
    for name in names(visit.host) if visit.host else ():
        found.setdefault(name, (None, None))
    return found


def _change(
    visit: _Visit, path: str, place: Place | None, facts: Facts | None, there: Place | None, theirs: Facts | None
) -> Change | None:
    kind = _kind(place, facts, there, theirs)
    if kind is None:
        return None
    entry = visit.base or (visit.upper.below(os.path.basename(path)) if visit.upper else None)  # noqa: PTH119 - a str
    if entry is None:
        raise AssertionError(f"{path} is in no layer")
    plain = visit.base is None
    return Change(
        kind=kind, path=path, run=place, facts=facts, host=theirs, entry=entry, plain=plain, moved=visit.moved
    )


def _kind(place: Place | None, facts: Facts | None, there: Place | None, theirs: Facts | None) -> Kind | None:
    if place is None or facts is None:
        return "D" if theirs else None
    if theirs is None or there is None:
        return "A"
    if facts.is_directory and theirs.is_directory:
        return None if same_dress(facts, theirs) else "C"
    return None if same(place, facts, there, theirs) else "C"


def _below(visit: _Visit, name: str, path: str, theirs: Facts | None, root: Place, *, is_own: bool) -> _Visit:
    upper = visit.upper.below(name) if visit.upper else None
    if upper is not None and look(upper) is None:
        upper = None  # all of it comes from the lower layer
    host = visit.host.below(name) if visit.host and theirs and theirs.is_directory and not is_own else None
    lower = visit.lower.below(name) if visit.lower else None
    base, moved = visit.base, visit.moved
    if upper is not None and overlay_xattr(upper, "opaque") == b"y":  # also of each directory that is new
        base, lower = base or upper, None
    elif upper is not None and (redirect := os.fsdecode(overlay_xattr(upper, "redirect"))):
        base, moved, lower = base or upper, True, _redirected(redirect, visit.lower, root)
    return _Visit(path=path, upper=upper, lower=lower, host=host, base=base, moved=moved)


def _redirected(redirect: str, parent: Place | None, root: Place) -> Place | None:
    """Where a redirect leads: a path from the root of the layer, or another name beside where its parent is from."""
    if redirect.startswith("/"):
        return root.below(redirect.strip("/"))
    return parent.below(redirect) if parent else None
