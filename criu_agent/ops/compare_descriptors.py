"""What changed among the descriptors and the sockets of two snapshots.

Descriptors of a process that came or went are not told one by one; its sockets are, since others see them. A restore
makes pipes and sockets anew, with other inodes: they are the same if the descriptors that share one still do.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping

from criu_agent.criu.description import Description, Descriptor, Endpoints, OpenFile, Process
from criu_agent.ops.rows import Change, Row, alive, changes, name

_ACCESS = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
_FLAGS = {
    flag: getattr(os, flag)
    # O_TMPFILE has the bit of O_DIRECTORY in it, O_SYNC that of O_DSYNC: the longer ones come first
    for flag in ("O_TMPFILE", "O_SYNC", "O_DIRECTORY", "O_DSYNC", "O_APPEND", "O_NONBLOCK", "O_DIRECT", "O_PATH")
}
_Key = tuple[str, ...]
_Sockets = Mapping[_Key, list[tuple[Endpoints, str]]]


def descriptors(before: Description, after: Description) -> Iterator[Row]:
    same = _Same(before, after)
    for old, new in alive(before, after):
        olds = {one.fd: one for one in old.descriptors}
        news = {one.fd: one for one in new.descriptors}
        for fd in sorted(olds.keys() | news.keys()):
            was, now = olds.get(fd), news.get(fd)
            change: Change = "+" if was is None else "-" if now is None else "~"
            if was is not None and now is not None:
                detail = _changed(was, now, same)
            else:
                detail = "".join(_said(one) for one in (was, now) if one is not None)
            if detail:
                yield Row(section="descriptors", change=change, what=f"{name(new)} fd {fd}", detail=detail)


def connections(before: Description, after: Description) -> Iterator[Row]:
    """Sockets by their addresses; those that have none by the descriptors that they are open as."""
    olds, news = _sockets(before), _sockets(after)
    for key in sorted(olds.keys() | news.keys()):
        was, now = olds.get(key, []), news.get(key, [])
        for (old, _), (new, holder) in zip(was, now, strict=False):
            if detail := changes({"state": (old.state, new.state)}):
                yield Row(section="connections", change="~", what=_between(new), detail=f"{detail}, {holder}")
        for endpoints, holder in was[len(now) :]:
            yield _came_or_went("-", endpoints, holder)
        for endpoints, holder in now[len(was) :]:
            yield _came_or_went("+", endpoints, holder)


def _came_or_went(change: Change, endpoints: Endpoints, holder: str) -> Row:
    detail = f"{endpoints.state}, {holder}" if endpoints.state else holder
    return Row(section="connections", change=change, what=_between(endpoints), detail=detail)


class _Same:
    """Which pipe or socket of the first snapshot is which of the second."""

    def __init__(self, before: Description, after: Description) -> None:
        pairs: Counter[tuple[int, int]] = Counter()
        for old, new in alive(before, after):
            news = {one.fd: one.file for one in new.descriptors}
            for one in old.descriptors:
                if one.file.inode and one.fd in news and news[one.fd].inode:
                    pairs[one.file.inode, news[one.fd].inode] += 1
        # One that is still there shows that there was no restore in between, and that every other number is another.
        self._restored = all(old != new for old, new in pairs)
        self._pairs: dict[int, int] = {}
        for (old_inode, new_inode), _ in pairs.most_common():
            if old_inode not in self._pairs and new_inode not in self._pairs.values():
                self._pairs[old_inode] = new_inode

    def __call__(self, old: OpenFile, new: OpenFile) -> bool:
        return (self._pairs.get(old.inode, 0) if self._restored else old.inode) == new.inode


def _changed(was: Descriptor, now: Descriptor, same: _Same) -> str:
    old, new = was.file, now.file
    if _object(old) != _object(new):
        return f"{_object(old)} -> {_object(new)}"
    if not same(old, new):
        return f"another {_object(new)}"
    return changes(
        {
            "offset": (old.offset, new.offset),
            "flags": (_flags(old), _flags(new)),
            "close-on-exec": (was.close_on_exec, now.close_on_exec),
        }
    )


def _said(one: Descriptor) -> str:
    offset = "" if one.file.offset is None else f" at {one.file.offset}"
    return f"{_object(one.file)}{offset}, {_flags(one.file)}{'|O_CLOEXEC' if one.close_on_exec else ''}"


def _object(file: OpenFile) -> str:
    if file.endpoints is not None:
        return f"socket {_between(file.endpoints)}"
    return f"{file.kind} {file.name}".rstrip()


def _flags(file: OpenFile) -> str:
    """Those that open(2) takes and fcntl(2) shows."""
    left, names = file.flags, [_ACCESS.get(file.flags & os.O_ACCMODE, "O_ACCMODE")]
    for flag, bits in _FLAGS.items():
        if left & bits == bits:
            left &= ~bits
            names.append(flag)
    return "|".join(names)


def _between(endpoints: Endpoints) -> str:
    to = f" -> {endpoints.remote}" if endpoints.remote else ""
    return f"{endpoints.protocol} {endpoints.local}{to}".rstrip()


def _sockets(of: Description) -> _Sockets:
    """Every socket once, with the first descriptor that it is open as. Several can have one address."""
    seen: set[int] = set()
    found: dict[_Key, list[tuple[Endpoints, str]]] = {}
    for pid in sorted(of.processes):
        for one in of.processes[pid].descriptors:
            if one.file.endpoints is None or one.file.inode in seen:
                continue
            if one.file.inode:
                seen.add(one.file.inode)
            holder = _holder(of.processes[pid], one)
            endpoints = one.file.endpoints
            key: _Key = (endpoints.protocol, endpoints.local, endpoints.remote)
            if not endpoints.local and not endpoints.remote:
                key = (endpoints.protocol, "", "", holder)
            found.setdefault(key, []).append((endpoints, holder))
    return found


def _holder(process: Process, descriptor: Descriptor) -> str:
    return f"{name(process)} fd {descriptor.fd}"
