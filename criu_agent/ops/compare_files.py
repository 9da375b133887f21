"""What changed among the files of two snapshots' layers.

A layer is what a run wrote: "+" is a file that it had not written by the first snapshot, whether the host had it
before or not. The time of a directory is not compared: it changes with what is in it, which is told.
"""

from collections.abc import Callable, Iterator, Mapping

from criu_agent.fs.entry import Entry
from criu_agent.ops.contents import is_whiteout, resolved
from criu_agent.ops.rows import Row, changes

Entries = Mapping[str, Entry]
SameContent = Callable[[Entry, Entry], bool]


def files(before: Entries, after: Entries, same_content: SameContent) -> Iterator[Row]:
    """same_content(old, new) is asked of regular files of one size with their data at the same offsets."""
    for path in sorted(before.keys() | after.keys(), key=lambda path: path.split("/")):
        if path not in after:
            yield Row(section="files", change="-", what=f"/{path}", detail=_said(before, path))
        elif path not in before:
            yield Row(section="files", change="+", what=f"/{path}", detail=_said(after, path))
        elif detail := _changed(resolved(before, path), resolved(after, path), same_content):
            yield Row(section="files", change="~", what=f"/{path}", detail=detail)


def _changed(old: Entry, new: Entry, same_content: SameContent) -> str:
    if _kind(old) != _kind(new):
        return f"{_kind(old)} -> {_kind(new)}"
    found = changes(
        {
            "size": (old.size, new.size),
            "target": (old.target, new.target),
            "device": (old.device, new.device),
            "mode": (f"{old.mode:04o}", f"{new.mode:04o}"),
            "owner": (f"{old.uid}:{old.gid}", f"{new.uid}:{new.gid}"),
        }
    )
    others = [found] if found else []
    if old.xattrs != new.xattrs:
        others.append("extended attributes")
    if old.size == new.size and (old.extents != new.extents or not same_content(old, new)):
        others.append("content")
    if not others and old.mtime != new.mtime and new.kind != "directory":
        others.append("time of change")
    return ", ".join(others)


def _said(entries: Entries, path: str) -> str:
    entry = resolved(entries, path)
    if entries[path] is not entry:
        return f"hard link to /{entry.path}"
    if entry.kind == "symlink":
        return f"symlink to {entry.target}"
    size = f", {entry.size} bytes" if entry.kind == "file" else ""
    return f"{_kind(entry)}{size}, mode {entry.mode:04o}" if not is_whiteout(entry) else _kind(entry)


def _kind(entry: Entry) -> str:
    return "removed from the host's" if is_whiteout(entry) else entry.kind
