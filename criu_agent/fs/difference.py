"""What is other on the host than in a captured tree: by lstat and, where nothing proves that it is the same, content.

Size and time of a file prove nothing: a restored process needs exactly the bytes of the freeze. Nothing is followed,
nothing blocks, and nothing is changed. Another file system that is mounted in the tree was not captured, and is left
alone.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from criu_agent.errors import Failure
from criu_agent.fs import beneath, content
from criu_agent.fs.content import Data
from criu_agent.fs.entry import LINK, Entry, resolved
from criu_agent.fs.excluded import Excluded, nothing
from criu_agent.fs.scan import KIND, xattrs

# Whether what lstat says of the file at a path proves that it is as the snapshot has it, as a table of what was
# captured can: a file with the inode and the time of change of then is the file of then.
Proven = Callable[[str, os.stat_result], bool]


def unproven(_path: str, _status: os.stat_result) -> bool:
    """A Proven that has seen no file before."""
    return False


@dataclass(frozen=True, kw_only=True)
class Difference:
    """change: "+" is here and not in the snapshot, "-" in the snapshot and not here, "~" in both and not the same.

    path is in the tree, "" its root. Of a directory that came or went nothing else is said.
    """

    change: Literal["+", "-", "~"]
    path: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A tree of a snapshot, and where it belongs on this host: at base/top, where top is a single name.

    entries are in the order of the index, and data is asked for in that order. What excluded names and the snapshot
    does not have is left alone; what is proven is not read.
    """

    base: Path
    top: str
    entries: Mapping[str, Entry]
    data: Data
    excluded: Excluded = nothing
    mounts: frozenset[str] = frozenset()  # paths at which something is mounted here, which is not looked into
    proven: Proven = unproven
    is_shared: bool = False  # others have files here, too: what the snapshot does not have is theirs

    @property
    def root(self) -> Path:
        return self.base / self.top

    def leaves_alone(self, path: str) -> bool:
        """Whether a path of the tree is none of the snapshot's business."""
        return path not in self.entries and (self.is_shared or self.excluded(path))

    def directory(self, path: str) -> AbstractContextManager[int]:
        """A descriptor of that directory of the tree here; no link is followed, not even the root."""
        return beneath.directory(self.base, f"{self.top}/{path}" if path else self.top)

    @contextmanager
    def containing(self, path: str) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that has the path, and its name there."""
        parent, name = beneath.split(path)
        with self.directory(parent) if path else beneath.directory(self.base, "") as at:
            yield at, name if path else self.top


def compare(place: Place) -> list[Difference]:
    """Every difference, by path; there is something at the root. Failure if what is here cannot be read, Corrupt if
    the snapshot's bytes cannot."""
    try:
        found = list(_Walk(place).differences())
    except OSError as error:
        raise Failure(f"cannot read the files in {place.root}: {error}") from error
    return sorted(found, key=lambda one: one.path.split("/"))


class _Walk:
    """One pass over what is here, each directory opened once, in the order of the index."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._entries = place.entries
        self._device = place.root.lstat().st_dev
        self._wanted = _names_by_parent(place.entries)
        self._inodes: dict[str, int] = {}  # of what is here
        self._links: list[str] = []  # further names of a file
        self._changed: set[str] = set()
        self._directories: set[str] = set()  # both here and in the snapshot

    def differences(self) -> Iterator[Difference]:
        with self._place.containing("") as (at, name):
            yield from self._compared(at, name, "", os.stat(name, dir_fd=at, follow_symlinks=False))
        waiting = [*self._directories]
        while waiting:
            parent = waiting.pop()
            names: list[str] = []
            with self._place.directory(parent) as at:
                for name, status in self._looked_at(at, parent, sorted(os.listdir(at))):
                    yield from self._compared(at, name, beneath.joined(parent, name), status)
                    names.append(name)
            yield from self._gone(parent)
            inside = (beneath.joined(parent, name) for name in reversed(names))
            waiting += [path for path in inside if path in self._directories]
        yield from self._other_links()

    def _looked_at(self, at: int, parent: str, names: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        """What is in a directory, but for what is left alone."""
        for name in names:
            path = beneath.joined(parent, name)
            if self._place.leaves_alone(path):
                continue
            try:
                status = os.stat(name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                continue
            self._inodes[path] = status.st_ino
            if status.st_dev == self._device and path not in self._place.mounts:
                yield name, status

    def _compared(self, at: int, name: str, path: str, status: os.stat_result) -> Iterator[Difference]:
        if path not in self._entries:
            yield Difference(change="+", path=path, detail=_said(status))
            return
        if self._entries[path].kind == LINK:
            self._links.append(path)
        elif detail := self._detail(at, name, path, status):
            self._changed.add(path)
            yield Difference(change="~", path=path, detail=detail)
        if stat.S_ISDIR(status.st_mode) and self._entries[path].kind == "directory":
            self._directories.add(path)

    def _gone(self, parent: str) -> Iterator[Difference]:
        for name in self._wanted.get(parent, ()):
            path = beneath.joined(parent, name)
            if path not in self._inodes:
                entry = resolved(self._entries, path)
                size = f", {entry.size} bytes" if entry.kind == "file" else ""
                yield Difference(change="-", path=path, detail=f"{entry.kind}{size}")

    def _other_links(self) -> Iterator[Difference]:
        """Those names of files with several ones that are other now. Last: the first name may lie anywhere."""
        for path in self._links:
            target = resolved(self._entries, path).path
            if self._inodes.get(target) != self._inodes[path]:
                yield Difference(change="~", path=path, detail=f"no hard link to {beneath.split(target)[1]} any more")
            elif target in self._changed:
                yield Difference(change="~", path=path, detail="a hard link to what has changed")

    def _detail(self, at: int, name: str, path: str, status: os.stat_result) -> str:
        """What is other at a path that the snapshot has; "" if nothing is."""
        entry = self._entries[path]
        kind = KIND[stat.S_IFMT(status.st_mode)]
        if kind != entry.kind:
            return f"{entry.kind} -> {kind}"
        if self._place.proven(path, status):
            return ""
        parts = (self._content(at, name, entry, status), _facts(at, name, entry, status))
        return ", ".join(filter(None, parts))

    def _content(self, at: int, name: str, entry: Entry, status: os.stat_result) -> str:
        if entry.kind != "file":
            return ""
        more = status.st_size - entry.size
        if more < 0:
            return f"cut off, {entry.size} -> {status.st_size} bytes"
        with content.opened(at, name) as fd:
            same = content.begins_with(fd, entry, self._place.data)
        if same:
            return f"appended, {more} bytes" if more else ""
        return f"content, {entry.size} -> {status.st_size} bytes" if more else "content, of the same size"


def _facts(at: int, name: str, entry: Entry, status: os.stat_result) -> str:
    """What is other besides the content."""
    target = os.readlink(name, dir_fd=at) if entry.kind == "symlink" else ""
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if entry.kind in ("character", "block") else (0, 0)
    pairs = {
        "target": (entry.target, target),
        "device": (entry.device, device),
        "mode": (f"{entry.mode:04o}", f"{stat.S_IMODE(status.st_mode):04o}"),
        "owner": (f"{entry.uid}:{entry.gid}", f"{status.st_uid}:{status.st_gid}"),
    }
    found = [f"{what} {old} -> {new}" for what, (old, new) in pairs.items() if old != new]
    if entry.xattrs != xattrs(beneath.by_proc(at, name)):
        found.append("extended attributes")
    return ", ".join(found)


def _said(status: os.stat_result) -> str:
    kind = KIND[stat.S_IFMT(status.st_mode)]
    return f"{kind}, {status.st_size} bytes" if kind == "file" else kind


def _names_by_parent(entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in filter(None, entries):
        parent, _, name = path.rpartition("/")
        found.setdefault(parent, []).append(name)
    return found
