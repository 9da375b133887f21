"""What changed among the files of two snapshots' layers.

A layer is what a run wrote: "+" is a file that it had not written by the first snapshot, whether the host had it
before or not. The time of a directory is not compared: it changes with what is in it, which is told.
"""

from collections.abc import Callable, Iterator, Mapping

from criu_agent.fs.entry import Entry, resolved
from criu_agent.ops.contents import is_whiteout
from criu_agent.ops.rows import Change, Row, changes

Entries = Mapping[str, Entry]
SameContent = Callable[[Entry, Entry], bool]


def files(before: Entries, after: Entries, same_content: SameContent) -> Iterator[Row]:
    """same_content(old, new) is asked of regular files of one size with their data at the same offsets."""
    for path in sorted(before.keys() | after.keys(), key=lambda path: path.split("/")):
        found = _difference(path, before, after, same_content)
        if found is not None:
            change, detail = found
            yield Row(section="files", change=change, what=f"/{path}", detail=detail)


def _difference(path: str, before: Entries, after: Entries, same_content: SameContent) -> tuple[Change, str] | None:
    was, now = _file(before, path), _file(after, path)
    if was and now:
        detail = _changed(was, now, same_content)
        return ("~", detail) if detail else None
    if now:
        return "+", _said(path, now)
    if was:
        return "-", _said(path, was)
    removed_before, removed_after = path in before, path in after
    if removed_before == removed_after:
        return None
    return ("-" if removed_after else "+"), "the host's"


def _file(entries: Entries, path: str) -> Entry | None:
    """What is at a path; None for nothing, and for what only says that the host's file was removed."""
    entry = resolved(entries, path) if path in entries else None
    return None if entry is None or is_whiteout(entry) else entry


def _changed(old: Entry, new: Entry, same_content: SameContent) -> str:
    if old.kind != new.kind:
        return f"{old.kind} -> {new.kind}"
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


def _said(path: str, entry: Entry) -> str:
    if entry.path != path:
        return f"hard link to /{entry.path}"
    if entry.kind == "symlink":
        return f"symlink to {entry.target}"
    size = f", {entry.size} bytes" if entry.kind == "file" else ""
    return f"{entry.kind}{size}, mode {entry.mode:04o}"
