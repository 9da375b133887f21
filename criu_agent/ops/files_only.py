"""Make files of a snapshot in a directory, without their processes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from criu_agent.errors import Failure
from criu_agent.fs import replace as fs
from criu_agent.fs.difference import Place
from criu_agent.fs.entry import LINK, Entry, resolved
from criu_agent.model import Snapshot
from criu_agent.ops import contents
from criu_agent.repo.repository import Repository

_OVERLAY = "trusted.overlay."  # attributes that only mean something in an upper layer


def make(repository: Repository, snapshot: Snapshot, path: str, into: Path) -> int:
    """Make what the snapshot has at a path in the box, and below it, below `into` at its path; how many files.

    into is empty, or not there yet. What only says that the run removed a file of the host's is not made.
    """
    if into.is_symlink() or (into.exists() and not into.is_dir()) or (into.is_dir() and any(into.iterdir())):
        raise Failure(f"{into} is not empty", hint="--into wants a directory that is empty, or not there yet")
    files = contents.layer(repository, snapshot)
    chosen = set(contents.listed(files.entries, path, recursive=True)) | {contents.in_layer(path)}
    entries = _standing_alone(files.entries, chosen)
    place = Place(base=into.parent, top=into.name, entries=entries, data=contents.data(files))
    fs.make(place, snapshot.id[:16])
    return sum(entry.kind != "directory" for entry in entries.values())


def _standing_alone(entries: Mapping[str, Entry], chosen: set[str]) -> dict[str, Entry]:
    """The chosen entries with the directories above them. A hard link to what is not chosen becomes a file, and
    what else links to it a link to that."""
    made: dict[str, Entry] = {}
    first: dict[str, str] = {}  # of each file the path at which it is made
    for path in (path for path in entries if path in chosen):
        entry = resolved(entries, path)
        if contents.is_whiteout(entry):
            continue
        for above in _above(path):
            made.setdefault(above, _directory(entries, above))
        if entry.path in first:
            made[path] = Entry(path=path, kind=LINK, target=first[entry.path])
        elif entry.kind == "directory":
            made[path] = _plain(entry)
        else:
            first[entry.path] = path
            made[path] = _plain(replace(entry, path=path))
    made.setdefault("", _directory(entries, ""))
    return {"": made.pop(""), **made}


def _above(path: str) -> list[str]:
    """The directories that it is in, the outermost first: "a/b/c" is in "", "a" and "a/b"."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts))]


def _directory(entries: Mapping[str, Entry], path: str) -> Entry:
    """A directory of the snapshot's, or the host's own that the run has written below."""
    if path in entries and entries[path].kind == "directory":
        return _plain(entries[path])
    return Entry(path=path, kind="directory", mode=0o755)


def _plain(entry: Entry) -> Entry:
    return replace(entry, xattrs={key: value for key, value in entry.xattrs.items() if not key.startswith(_OVERLAY)})
