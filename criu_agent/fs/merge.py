"""Carry changes of a layer to the host: all of them or none.

Everything is copied beside its place first, under a name that nobody else uses; then each is renamed into place.
What was there goes to the other name (RENAME_EXCHANGE), so that every step can be undone until all are done. A merge
that is killed in between leaves files of those names: `clean` removes them, and another merge does what is missing.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from criu_agent import log
from criu_agent.errors import Failure
from criu_agent.fs import beneath
from criu_agent.fs.changes import Change
from criu_agent.fs.copying import Copier, dress
from criu_agent.fs.facts import Facts, Place, look
from criu_agent.linux import files, syscalls

Action = Literal["put", "replace", "remove", "dress"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One rename. aside is the other name, in the same directory; members are copied there: this and all in it."""

    action: Action
    change: Change
    aside: str
    members: tuple[Change, ...]

    @property
    def path(self) -> str:
        return self.change.path


def steps(found: Iterable[Change], token: str) -> list[Step]:
    """What is to be done for the changes, which are in the order of `changes`. token makes the other names ours."""
    made: list[Step] = []
    below: dict[str, list[Change]] = {}
    for change in sorted(found, key=lambda one: one.path.split("/")):
        above = next((path for path in _above(change.path) if path in below), None)
        if above is not None:
            below[above].append(change)
            continue
        action = _action(change)
        if change.is_directory and action in ("put", "replace"):
            below[change.path] = []
        parent, _ = beneath.split(change.path)
        aside = beneath.joined(parent, f".criu-agent-{token}-{len(made)}")
        made.append(Step(action=action, change=change, aside=aside, members=()))
    return [
        Step(action=one.action, change=one.change, aside=one.aside, members=(one.change, *below.get(one.path, ())))
        for one in made
    ]


def _above(path: str) -> list[str]:
    return [path[:end] for end, letter in enumerate(path) if letter == "/"]


def _action(change: Change) -> Action:
    if change.kind == "D":
        return "remove"
    if change.kind == "A":
        return "put"
    both = change.is_directory and change.host is not None and change.host.is_directory
    return "dress" if both else "replace"


def merge(host: Path, planned: Sequence[Step]) -> None:
    """Do the steps. Failure if that cannot be done; the host's files are as they were then."""
    done: list[Step] = []
    try:
        _copy(host, planned)
        os.sync()  # a power cut must not leave names without their contents
        for step in planned:
            _do(host, step)
            done.append(step)
    except BaseException as error:
        for step in reversed(done):
            _undo(host, step)
        clean(host, [step.aside for step in planned])
        if isinstance(error, OSError):
            raise Failure(f"cannot merge: {error.strerror}: {error.filename or 'no file'}") from error
        raise
    os.sync()
    # Everything is there: from here on what fails only leaves something behind.
    clean(host, [step.aside for step in planned])


def clean(host: Path, asides: Iterable[str]) -> None:
    """Remove what lies under the other names."""
    for aside in asides:
        parent, name = beneath.split(aside)
        try:
            with beneath.directory(host, parent) as at:
                if stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                    files.remove_tree(host / aside)
                else:
                    os.unlink(name, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, Failure) as error:
            log.warning("%s is left: %s", host / aside, error)


def _copy(host: Path, planned: Sequence[Step]) -> None:
    copier = Copier()
    for step in planned:
        if step.action not in ("put", "replace"):
            continue
        directories: list[tuple[Place, Facts]] = []
        for change in step.members:
            if change.run is None or change.facts is None:  # nothing is removed from what is made anew
                continue
            to = Place(root=host, path=step.aside + change.path.removeprefix(step.path))
            copier.copy(change.run, change.facts, to)
            if change.is_directory:
                directories.append((to, change.facts))
        for place, facts in reversed(directories):  # to make a file in it changed its time
            _dress(place, facts)


def _do(host: Path, step: Step) -> None:
    parent, name = beneath.split(step.path)
    _require_same(host, step)
    if step.action == "dress" and step.change.facts:
        _dress(Place(root=host, path=step.path), step.change.facts)
        return
    with beneath.directory(host, parent) as at:
        aside = step.aside.rpartition("/")[2]
        if step.action == "put":
            syscalls.renameat2(at, aside, at, name, syscalls.RENAME_NOREPLACE)
        elif step.action == "replace":
            syscalls.renameat2(at, aside, at, name, syscalls.RENAME_EXCHANGE)
        else:
            syscalls.renameat2(at, name, at, aside, syscalls.RENAME_NOREPLACE)


def _require_same(host: Path, step: Step) -> None:
    """The copying took a while."""
    before, now = step.change.host, look(Place(root=host, path=step.path))
    same = now is None or (before is not None and now.status.st_ino == before.status.st_ino)
    if not same or (before is None) != (now is None) or (before and now and _changed(before, now)):
        raise Failure(f"/{step.path} was changed on the host at this very moment", hint="try again")


def _changed(before: Facts, now: Facts) -> bool:
    """Of a directory only what it is: its entries may be of this merge."""
    if before.is_directory:
        return before.status.st_mode != now.status.st_mode
    return before.status.st_ctime_ns != now.status.st_ctime_ns


def _undo(host: Path, step: Step) -> None:
    parent, name = beneath.split(step.path)
    try:
        if step.action == "dress" and step.change.host:
            _dress(Place(root=host, path=step.path), step.change.host)
            return
        with beneath.directory(host, parent) as at:
            aside = step.aside.rpartition("/")[2]
            if step.action == "put":
                syscalls.renameat2(at, name, at, aside, syscalls.RENAME_NOREPLACE)
            elif step.action == "replace":
                syscalls.renameat2(at, aside, at, name, syscalls.RENAME_EXCHANGE)
            else:
                syscalls.renameat2(at, aside, at, name, syscalls.RENAME_NOREPLACE)
    except OSError as error:
        log.warning("/%s could not be put back: %s", step.path, error)


def _dress(place: Place, facts: Facts) -> None:
    """Owner, mode, attributes and time of a directory, and none of the attributes that it must not have any more."""
    with beneath.directory(place.root, place.path) as fd:
        now = look(place)
        for xattr in (now.xattrs.keys() if now else set()) - facts.xattrs.keys():
            os.removexattr(f"/proc/self/fd/{fd}", xattr)
        dress(fd, facts)


def prune(merged: Iterable[Change], left: Iterable[Change]) -> None:
    """Take out of the layer what the host has by now; left are the other changes. Nobody may have the layer mounted.

    A new, renamed or replaced directory hides what the host has of that name: it stays as it is until all of it was
    merged, and goes as a whole then.
    """
    changed = sorted(merged, key=lambda one: one.path.split("/"), reverse=True)
    stays = {change.entry for change in left if not change.plain}
    for entry in {change.entry for change in changed if not change.plain} - stays:
        files.remove_tree(entry.root / entry.path)
    for change in (one for one in changed if one.plain):
        parent, name = beneath.split(change.entry.path)
        with suppress(FileNotFoundError), beneath.directory(change.entry.root, parent) as at:
            if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=at)
            elif not (change.host and change.host.is_directory):
                with suppress(OSError):  # something else is in it
                    os.rmdir(name, dir_fd=at)
