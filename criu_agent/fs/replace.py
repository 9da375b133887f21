"""Make the files here as a captured tree has them, and nothing outside of it.

Whoever dies in the middle of it: no file is half written under its name, and the same again completes it. A file is
written beside the one that it replaces, and renamed; what it is called until then is a difference like any other.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from criu_agent.errors import Failure
from criu_agent.fs import beneath
from criu_agent.fs.content import Placed
from criu_agent.fs.difference import Difference, Place, compare
from criu_agent.fs.entry import LINK, Entry, resolved
from criu_agent.fs.rebuild import dress, make_other

_BESIDE = ".criu-agent-"  # how the name of what is not complete begins
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)


def replace(place: Place, differences: Iterable[Difference]) -> None:
    """Undo these differences, as `compare` has found them. Failure with what is done by then if that cannot be."""
    found = {one.path: one for one in differences}
    touched = {beneath.split(path)[0] for path in filter(None, found)}
    for path, one in found.items():
        if one.change == "+":
            _remove(place, path)
    made: set[str] = set()  # directories
    for path, entry in place.entries.items():
        if path in found or (path and beneath.split(path)[0] in made):
            with _translated(place, path), place.containing(path) as (at, name):
                if entry.kind != "directory":
                    _put(place, at, name, entry)
                elif _has_made_directory(place, at, name, path):
                    made.add(path)
    _dress_directories(place, [path for path in place.entries if path in made or path in touched or path in found])


def make(place: Place, by: str) -> None:
    """Make the tree where nothing is, or an empty directory: all of it at once, or nothing.

    by: a name that nobody else makes it by at the same time, such as a run's id: what a dead maker has left by that
    name is removed by the next one. On an empty directory that is a mount point, or that others share, it is made in
    place: who dies leaves a part of it there. A run that has the directory mounted would not see another one that is
    put in its place.
    """
    beside = dataclasses.replace(place, top=f"{_BESIDE}{by}-{place.top[:40]}")
    with _translated(place, ""):
        place.base.mkdir(parents=True, exist_ok=True)
        if place.root.is_mount() or (place.is_shared and place.root.is_dir()):
            replace(place, compare(place))
            return
        _remove(beside, "")  # whoever made it has died
        try:
            replace(beside, [Difference(change="-", path="", detail="")])
            beside.root.rename(place.root)
        except BaseException:
            _remove(beside, "")
            raise


def remove(place: Place, *, root: bool) -> None:
    """Take away what `make` has made; the root only if that was not there before."""
    if root:
        _remove(place, "")
        return
    with _translated(place, ""), place.directory("") as at:
        names = os.listdir(at)
    for name in names:
        _remove(place, name)


def _has_made_directory(place: Place, at: int, name: str, path: str) -> bool:
    if _device_of_directory(at, name) is not None:
        return False
    _remove(place, path)
    os.mkdir(name, 0o700, dir_fd=at)
    return True


def _put(place: Place, at: int, name: str, entry: Entry) -> None:
    """Have a file, of any kind but a directory, under that name, whatever is there now."""
    beside = f"{_BESIDE}{os.urandom(8).hex()}"
    try:
        if entry.kind == LINK:
            with place.containing(resolved(place.entries, entry.path).path) as (there, target):
                os.link(target, beside, src_dir_fd=there, dst_dir_fd=at, follow_symlinks=False)
        else:
            make_other(at, beside, entry, Placed(place.data))
            dress(at, beside, entry)
        if _device_of_directory(at, name) is not None:
            _remove(place, entry.path)
        os.rename(beside, name, src_dir_fd=at, dst_dir_fd=at)
    finally:
        with suppress(FileNotFoundError):  # renamed; or it was the same file already, and rename does nothing then
            os.unlink(beside, dir_fd=at)


def _remove(place: Place, path: str) -> None:
    """Remove what is at a path, at any depth; what is left alone stays, with the directories that it is in."""
    with _translated(place, path):
        with place.containing(path) as (at, name):
            device = _device_of_directory(at, name)
            if device is None:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=at)
                return
        directories: list[str] = []
        waiting = [path]
        while waiting:
            directories.append(waiting.pop())
            waiting += _emptied(place, directories[-1], device)
        for directory in reversed(directories):
            with place.containing(directory) as (at, name):
                _remove_directory(at, name)


def _emptied(place: Place, path: str, device: int) -> list[str]:
    """Remove the files in a directory; the directories that are left in it, but for those of other file systems."""
    left: list[str] = []
    with place.directory(path) as at:
        for name in os.listdir(at):
            inside = beneath.joined(path, name)
            if place.leaves_alone(inside):
                continue
            found = _device_of_directory(at, name)
            if found is None:
                os.unlink(name, dir_fd=at)
            elif found == device and inside not in place.mounts:
                left.append(inside)
    return left


def _remove_directory(at: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=at)
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise


def _device_of_directory(at: int, name: str) -> int | None:
    """The file system that a directory is of; None for what is no directory, or not there."""
    try:
        status = os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev if stat.S_ISDIR(status.st_mode) else None


def _dress_directories(place: Place, paths: list[str]) -> None:
    """Last, and the innermost first: what is made in a directory changes its time, and its default ACL a mode."""
    for path in reversed(paths):
        entry = place.entries[path]
        if entry.kind == "directory":
            with _translated(place, path), place.containing(path) as (at, name):
                dress(at, name, entry)


@contextmanager
def _translated(place: Place, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = f"free some space in {place.base}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise Failure(f"cannot make {place.root / path}: {error.strerror}", hint=hint) from error
