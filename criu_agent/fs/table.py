"""The table of files: what a snapshot has of each file of its trees, so that the next one reads only what changed.

A local file (docs/format.md T). It may be lost or be of another snapshot: then everything is read, nothing else.
"""

import base64
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from criu_agent import log
from criu_agent.fs import listing
from criu_agent.fs.entry import LINK, PAGE, Entry
from criu_agent.fs.scan import Found
from criu_agent.model import Part, Tree
from criu_agent.store.document import from_json, to_json, version_line

_LINE = version_line("files", 1)
_CHECKED = len(_LINE) + 32  # from here on everything is under the checksum
_HEADER = struct.Struct("<32sI")


class Row(NamedTuple):
    """blob and first page of a file's data in its tree; more: JSON of what lstat does not say, b"" for nothing."""

    blob: int
    first: int
    more: bytes


Rows = Mapping[bytes, Row]  # by the files' lines (fs.listing)


def write(path: Path, snapshot_id: str, trees: Mapping[str, Iterable[bytes]]) -> None:
    """Replace the file. trees: the `rows` of each tree of that snapshot, by its name."""
    parts = {name: b"".join(rows) for name, rows in trees.items()}
    names = to_json([[name, len(part)] for name, part in parts.items()])
    data = b"".join([_HEADER.pack(bytes.fromhex(snapshot_id), len(names)), names, *parts.values()])
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.writelines([_LINE, blake3(data).digest(), data])
    new.rename(path)  # not synced: a file that a power cut tore fails its checksum


def read(path: Path, snapshot_id: str) -> dict[str, Rows]:
    """What `write` wrote for that snapshot, by tree; empty if the file is not there, not whole, or of another one."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        log.debug("no table of files: %s", error)
        return {}
    if data[: len(_LINE)] != _LINE or len(data) < _CHECKED + _HEADER.size:
        log.info("%s is no table of files", path)
        return {}
    if data[len(_LINE) : _CHECKED] != blake3(data[_CHECKED:]).digest():
        log.info("%s is damaged", path)
        return {}
    of, length = _HEADER.unpack_from(data, _CHECKED)
    if of.hex() != snapshot_id:
        log.info("%s is of snapshot %s", path, of.hex())
        return {}
    start = _CHECKED + _HEADER.size
    found: dict[str, Rows] = {}
    at = start + length
    for name, size in from_json(bytes(data[start:at]), str(path)):
        found[name] = _rows(bytes(data[at : at + size]))
        at += size
    return found


def _rows(data: bytes) -> dict[bytes, Row]:
    words = data.split(b"\0")
    rows: dict[bytes, Row] = {}
    for said, line in zip(words[0::2], words[1::2], strict=False):
        blob, first, more = said.split(b" ", 2)
        rows[line] = Row(int(blob), int(first), more)
    return rows


def rows(files: Iterable[Found], is_settled: Callable[[bytes], bool]) -> Iterator[bytes]:
    """The rows of a tree that was saved. What is not settled is read again next time whatever its line says."""
    named: dict[str, Entry] = {}
    for one in files:
        entry = named[one.entry.target] if one.entry.kind == LINK else one.entry
        if entry.kind not in (LINK, "directory"):
            named[one.entry.path] = entry
        if is_settled(one.line):
            yield b"%d %d %s\0%s\0" % (entry.blob, entry.offset // PAGE, _more(entry), one.line)


def known(rows: Rows, tree: Tree) -> Callable[[bytes], Found | None]:
    """Says what the snapshot has of the file with a line. tree: that of the snapshot that has these rows."""

    def find(line: bytes) -> Found | None:
        row = rows.get(line)
        if row is None:
            return None
        entry = _entry(line, from_json(row.more, "the table of files") if row.more else {})
        if not entry.extents:
            return Found(line, entry)
        return Found(line, entry, Part(tree.blobs[row.blob], row.first, entry.pages))

    return find


def _more(entry: Entry) -> bytes:
    said: dict[str, Any] = {}
    if entry.target:
        said["target"] = entry.target
    if entry.xattrs:
        said["xattrs"] = {name: base64.b64encode(value).decode() for name, value in entry.xattrs.items()}
    if entry.device != (0, 0):
        said["device"] = entry.device
    if entry.kind == "file" and entry.extents != _whole(entry.size):
        said["extents"] = entry.extents
    return to_json(said) if said else b""


def _entry(line: bytes, more: dict[str, Any]) -> Entry:
    """It is our own, or it would have no checksum: the format is not checked again."""
    facts = listing.facts(line)
    is_file = facts.kind == "file"
    whole = _whole(facts.size) if is_file else ()
    extents = tuple((offset, length) for offset, length in more["extents"]) if "extents" in more else whole
    major, minor = more.get("device", (0, 0))
    return Entry(
        path=facts.path,
        kind=facts.kind,
        target=more.get("target", ""),
        mode=facts.mode,
        uid=facts.uid,
        gid=facts.gid,
        mtime=facts.mtime,
        xattrs={name: base64.b64decode(value) for name, value in more.get("xattrs", {}).items()},
        device=(major, minor),
        size=facts.size if is_file else 0,
        extents=extents,
    )


def _whole(size: int) -> tuple[tuple[int, int], ...]:
    return ((0, size),) if size else ()
