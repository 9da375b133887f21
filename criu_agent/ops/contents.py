"""What is in a snapshot of a repository: its processes, its files, and their bytes.

Its files are what the run wrote, the upper layer of its overlay, and the directories that it writes through to, each
at its path in the box. What it only read of the host is in no snapshot.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from criu_agent.criu.describe import describe
from criu_agent.criu.description import Description
from criu_agent.criu.imagefile import Images
from criu_agent.criu.memory import Memory, changed_pages
from criu_agent.errors import Corrupt, Failure, NotFound
from criu_agent.fs.beneath import split
from criu_agent.fs.content import Data
from criu_agent.fs.entry import LINK, Entry, moved, resolved
from criu_agent.fs.rebuild import entries
from criu_agent.model import Blob, Contents, Snapshot, Tree
from criu_agent.ops import saved
from criu_agent.repo.reading import Reader
from criu_agent.repo.repository import Repository
from criu_agent.repo.specs import has_processes

LAYER = "upper"
_PIECE = 4 << 20  # bytes that are read at once
_WHOLE = 16 << 20  # bytes of a blob that is read whole: it has many files, which are wanted one after the other
_HINT = "`criu-agent ls SNAP` lists its files; what the run only read is in no snapshot"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Files of a snapshot by their paths, in the order of the index; tree has the blobs of all."""

    reader: Reader
    tree: Tree
    entries: Mapping[str, Entry]


def description(repository: Repository, snapshot: Snapshot) -> Description:
    """The processes of a snapshot, if it has any. Of its memory only arguments and environment are read."""
    if not has_processes(snapshot.manifest):
        return Description(processes={})
    return describe(images(repository, snapshot), snapshot.manifest.host.page_size)


def memory(repository: Repository, snapshot: Snapshot, pid: int) -> Memory:
    """The memory of a process of a snapshot; nothing of it is read yet."""
    return Memory(images(repository, snapshot), pid, snapshot.manifest.host.page_size)


def images(repository: Repository, snapshot: Snapshot) -> Images:
    """CRIU's images of a snapshot; nothing of them is read yet."""
    contents = repository.contents(snapshot)
    reader = repository.reader(snapshot, contents)

    def read(name: str, offset: int, length: int) -> bytes:
        return reader.pread(contents.images[name], offset, length)

    sizes = {name: blob.size for name, blob in contents.images.items()}
    return Images(sizes=sizes, read=read)


def layer(repository: Repository, snapshot: Snapshot) -> Layer:
    """All files of a snapshot, by their paths in the box without the first slash. Corrupt as `files_of`."""
    contents = repository.contents(snapshot)
    reader = repository.reader(snapshot, contents)
    trees = {"": contents.trees[LAYER]} if LAYER in contents.trees else {}
    trees |= {path[1:]: contents.trees[key] for key, path in saved.layers(snapshot.manifest) if key in contents.trees}
    trees |= {one.path[1:]: tree for tree, one in through(contents, saved.captured(snapshot.manifest))}
    if not trees:
        raise Corrupt("the snapshot has no files: its layer is missing")
    found: dict[str, Entry] = {}
    blobs: tuple[Blob, ...] = ()
    for below, one in trees.items():
        for entry in files_of(reader, one).entries.values():
            here = moved(entry, below, blobs=len(blobs))
            found[here.path] = here
        blobs += one.blobs
    return Layer(reader=reader, tree=Tree(index=next(iter(trees.values())).index, blobs=blobs), entries=found)


def through(contents: Contents, captured: Mapping[str, saved.Captured]) -> Iterator[tuple[Tree, saved.Captured]]:
    """The trees of what is written through. Corrupt if one is missing."""
    for name, one in captured.items():
        if name not in contents.trees:
            raise Corrupt(f"the snapshot is changed: it has no files of {one.path}")
        yield contents.trees[name], one


def files_of(reader: Reader, tree: Tree) -> Layer:
    """The files of one tree, the root at "". Corrupt for an index that breaks a rule of the format."""
    found: dict[str, Entry] = {}
    for entry in entries(reader.stream(tree.index)):
        if entry.path in found or (entry.kind == LINK and _kind(found, entry.target) in ("", "directory")):
            raise Corrupt(f"the index of a tree is changed: {entry.path!r} is there twice, or links to no file")
        if entry.path and _kind(found, split(entry.path)[0]) != "directory":
            raise Corrupt(f"the index of a tree is changed: {entry.path!r} is in no directory")
        if entry.blob >= len(tree.blobs) and entry.extents:
            raise Corrupt(f"the index of a tree is changed: the data of {entry.path!r} are in no blob")
        found[entry.path] = entry
    return Layer(reader=reader, tree=tree, entries=found)


def _kind(found: Mapping[str, Entry], path: str) -> str:
    return resolved(found, path).kind if path in found else ""


def data(files: Layer) -> Data:
    """The data of any of its files. It is quick for files that are asked for in their order."""

    @lru_cache(maxsize=2)
    def whole(number: int) -> bytes:
        return b"".join(files.reader.stream(files.tree.blobs[number]))

    def read(entry: Entry) -> Iterator[bytes]:
        if files.tree.blobs[entry.blob].size > _WHOLE:
            yield from _data(files, entry)
        else:
            yield whole(entry.blob)[entry.offset : entry.offset + entry.length]

    return read


def is_whiteout(entry: Entry) -> bool:
    """Whether it only says that the run removed a file of the host (Documentation/filesystems/overlayfs.rst)."""
    return entry.kind == "character" and entry.device == (0, 0)


def in_layer(path: str) -> str:
    """The path in a layer that a user means: "/root//x/" and "tmp/../root/x" are "root/x". No link is followed."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def find(files: Layer, path: str) -> Entry:
    """The entry that a user's path means. NotFound if the layer has none, or only that it was removed."""
    name = in_layer(path)
    if name not in files.entries:
        raise NotFound(f"the snapshot has no file {path}", hint=_HINT)
    entry = resolved(files.entries, name)
    if is_whiteout(entry):
        raise NotFound(f"{path} was removed by the run", hint=_HINT)
    return entry


def listed(entries: Mapping[str, Entry], path: str, *, recursive: bool) -> list[str]:
    """The paths below the directory that a user means, or directly in it, parents first; of a file its own.

    A directory of the host's that the run only wrote something below is none of the entries.
    """
    name = in_layer(path)
    below = f"{name}/" if name else ""
    inside = [one for one in entries if one and one.startswith(below)]
    if name not in entries and not inside:
        raise NotFound(f"the snapshot has no file {path}", hint=_HINT)
    if name in entries and entries[name].kind != "directory":
        return [name]
    found = [one for one in inside if recursive or "/" not in one[len(below) :]]
    return sorted(found, key=lambda one: one.split("/"))


def file_bytes(files: Layer, path: str) -> Iterator[bytes]:
    """The content of a regular file, in pieces. Failure for anything else, before the first is asked for."""
    entry = find(files, path)
    if entry.kind == "directory":
        raise Failure(f"{path} is a directory", hint="name one file; criu-agent ls SNAP DIRECTORY lists them")
    if entry.kind == "symlink":
        raise Failure(f"{path} is a symbolic link to {entry.target}", hint="name the file that it leads to")
    if entry.kind != "file":
        raise Failure(f"{path} is a {entry.kind} and has no content")
    return _content(files, entry)


def image_bytes(repository: Repository, snapshot: Snapshot, name: str) -> Iterator[bytes]:
    """One of CRIU's images, in pieces. NotFound, with the names that there are, before the first is asked for."""
    contents = repository.contents(snapshot)
    if name not in contents.images:
        raise NotFound(f"the snapshot has no image {name}", hint=f"it has {', '.join(contents.images)}")
    return repository.reader(snapshot, contents).stream(contents.images[name])


def same_content(before: Layer, after: Layer, old: Entry, new: Entry) -> bool:
    """Whether two files with equal extents have the same bytes in them. They are read only if the blobs differ."""
    if not old.extents:
        return True
    if old.offset == new.offset and _located(before, old) == _located(after, new):
        return True
    pairs = zip(_data(before, old), _data(after, new), strict=True)
    return all(one == other for one, other in pairs)


def _located(files: Layer, entry: Entry) -> list[tuple[str, int, int]]:
    return files.reader.located(files.tree.blobs[entry.blob])


def pages_that_changed(repository: Repository, before: Snapshot, after: Snapshot) -> Callable[[int, int, int], int]:
    """How many pages of a process (pid) between two addresses are not the same in two snapshots of one page size."""
    sides = [
        lru_cache(maxsize=1)(partial(memory, repository, one))  # of a process all regions are asked for in a row
        for one in (before, after)
    ]

    def count(pid: int, start: int, end: int) -> int:
        return changed_pages(sides[0](pid), sides[1](pid), start, end, after.manifest.host.page_size)

    return count


def _data(files: Layer, entry: Entry) -> Iterator[bytes]:
    """The bytes of a file besides its holes, in pieces whose lengths follow from its size."""
    blob, end = files.tree.blobs[entry.blob], entry.offset + entry.length
    for at in range(entry.offset, end, _PIECE):
        length = min(_PIECE, end - at)
        piece = files.reader.pread(blob, at, length)
        if len(piece) != length:
            raise Corrupt(f"the index of a tree is changed: {entry.path!r} has more data than its blob")
        yield piece


def _content(files: Layer, entry: Entry) -> Iterator[bytes]:
    """All bytes of a file, holes as zeros."""
    blob = files.tree.blobs[entry.blob] if entry.extents else None
    end, at = 0, entry.offset
    for offset, length in (*entry.extents, (entry.size, 0)):
        yield from _zeros(offset - end)
        if blob is not None:
            part = replace(entry, offset=at, extents=((0, length),))
            yield from _data(files, part)
        end, at = offset + length, at + length


def _zeros(length: int) -> Iterator[bytes]:
    whole, rest = divmod(length, _PIECE)
    yield from (bytes(_PIECE) for _ in range(whole))
    yield bytes(rest)
