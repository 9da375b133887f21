"""One file of a tree, and its line in the index (docs/format.md section 7)."""

import base64
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from criu_agent.errors import Corrupt
from criu_agent.store.document import from_json, to_json

LINE_LIMIT = 64 << 20
PAGE = 4096  # in a blob the data of each file begin at a multiple of it
KINDS: Mapping[str, int] = {
    "directory": stat.S_IFDIR,
    "file": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
LINK = "link"  # another name of an entry before it
_DEVICES = ("character", "block")
_SIZE_MAX = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """kind is LINK or a key of KINDS; path is relative to the tree's root, which is ""; times in nanoseconds.

    extents are (offset, length) of what a file holds besides holes, in order. They lie one after the other in
    the blob with the number `blob` of the tree, from `offset` on.
    """

    path: str
    kind: str
    target: str = ""  # of a link (a path in the tree) or symlink (anything)
    mode: int = 0  # permission bits
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)  # major, minor
    size: int = 0
    extents: tuple[tuple[int, int], ...] = ()
    blob: int = 0
    offset: int = 0

    @property
    def length(self) -> int:
        """Bytes of data, without the holes."""
        return self.extents[0][1] if len(self.extents) == 1 else sum(length for _, length in self.extents)

    @property
    def pages(self) -> int:
        """What its data take in a blob."""
        return -(-self.length // PAGE)


def moved(entry: Entry, below: str, *, blobs: int = 0) -> Entry:
    """The entry in a tree that has its own tree at the path `below`, and so many blobs of others before its blobs."""
    return replace(
        entry,
        path=_joined(below, entry.path),
        target=_joined(below, entry.target) if entry.kind == LINK else entry.target,
        blob=entry.blob + blobs if entry.extents else 0,
    )


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def resolved(entries: Mapping[str, Entry], path: str) -> Entry:
    """The entry at a path; of a hard link that which it is another name of."""
    entry = entries[path]
    while entry.kind == LINK:  # it ends: a link comes behind what it links to
        entry = entries[entry.target]
    return entry


def led_by_others(entries: Mapping[str, Entry], has_passed: Callable[[str], bool]) -> Mapping[str, Entry]:
    """The same tree, where names that have passed are links, and come last, if their file has another name."""
    heirs: dict[str, str] = {}
    for path, entry in entries.items():
        if entry.kind == LINK and not has_passed(path) and has_passed(first := resolved(entries, path).path):
            heirs.setdefault(first, path)
    if not heirs:
        return entries
    lasting, passed = dict[str, Entry](), dict[str, Entry]()
    for path, entry in entries.items():
        first = resolved(entries, path).path
        heir = heirs.get(first, "")
        if not heir:
            lasting[path] = entry
        elif path == heir:
            lasting[path] = replace(entries[first], path=path)
        else:
            (passed if has_passed(path) else lasting)[path] = Entry(path=path, kind=LINK, target=heir)
    return {**lasting, **passed}


def to_line(entry: Entry) -> bytes:
    """The entry's line in the index, without its end."""
    document: dict[str, object] = {"path": entry.path, "type": entry.kind}
    if entry.kind in (LINK, "symlink"):
        document["target"] = entry.target
    if entry.kind != LINK:
        document |= {"mode": entry.mode, "uid": entry.uid, "gid": entry.gid, "mtime": entry.mtime}
        document["xattrs"] = {name: base64.b64encode(value).decode() for name, value in entry.xattrs.items()}
    if entry.kind in _DEVICES:
        document["device"] = entry.device
    if entry.kind == "file":
        document |= {"size": entry.size, "extents": entry.extents}
    if entry.extents:
        document |= {"blob": entry.blob, "offset": entry.offset}
    return to_json(document)


def from_line(line: bytes) -> Entry:
    """The entry that a line of the index describes. Corrupt for whatever breaks a rule."""
    document = from_json(line, "the index of a tree")
    try:
        return _entry(document)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"the index of a tree is changed: {error}") from error


def _entry(document: dict[str, Any]) -> Entry:
    kind, path = document["type"], _path(document["path"])
    if kind == LINK:
        return Entry(path=path, kind=kind, target=_path(document["target"]))
    if kind not in KINDS:
        raise ValueError(f"{path!r} is of the unknown kind {kind!r}")
    size = _integer(document["size"]) if kind == "file" else 0
    extents = _extents(document["extents"], size) if kind == "file" else ()
    major, minor = document["device"] if kind in _DEVICES else (0, 0)
    return Entry(
        path=path,
        kind=kind,
        target=_string(document["target"]) if kind == "symlink" else "",
        mode=_integer(document["mode"], most=0o7777),
        uid=_integer(document["uid"], most=(1 << 32) - 2),
        gid=_integer(document["gid"], most=(1 << 32) - 2),
        mtime=_integer(document["mtime"], least=-_SIZE_MAX),
        xattrs=_xattrs(document["xattrs"]),
        device=(_integer(major, most=(1 << 12) - 1), _integer(minor, most=(1 << 20) - 1)),
        size=size,
        extents=extents,
        blob=_integer(document["blob"]) if extents else 0,
        offset=_integer(document["offset"]) if extents else 0,
    )


def _path(value: object) -> str:
    path = _string(value)
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{path!r} is no path in a tree")
    return path


def _string(value: object) -> str:
    if not isinstance(value, str) or b"\0" in os.fsencode(value):
        raise ValueError(f"{value!r} is not a string that the kernel takes")
    return value


def _xattrs(value: object) -> dict[str, bytes]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} are no extended attributes")
    return {_string(name): base64.b64decode(data, validate=True) for name, data in value.items()}


def _integer(value: object, *, least: int = 0, most: int = _SIZE_MAX) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r} is not an integer from {least} to {most}")
    return value


def _extents(value: list[list[int]], size: int) -> tuple[tuple[int, int], ...]:
    extents = tuple((_integer(offset), _integer(length, least=1)) for offset, length in value)
    end = 0
    for offset, length in extents:
        if offset < end or offset + length > size:
            raise ValueError(f"the extents {extents[:4]!r} do not lie in order in {size} bytes")
        end = offset + length
    return extents
