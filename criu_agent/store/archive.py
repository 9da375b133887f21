"""One file that is a store: what `export` writes and `import` reads (docs/format.md, "An exported file").

The objects are encrypted and signed where they come from; the checksums here are against damage.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, Self

from blake3 import blake3

from criu_agent.errors import Failure, NoSpace, NotFound
from criu_agent.store import archive_index as layout
from criu_agent.store.base import components

_PIECE = 1 << 20  # bytes that are read at once
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a fifo must not hold us
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # FAT, exFAT, some of FUSE


def write(path: Path, objects: Iterable[tuple[str, bytes]], *, overwrite: bool = False) -> None:
    """Make the file `path` (0600) of `objects`, names to bytes: whole and durable on return, or not at all.

    Failure if something has that name and `overwrite` is false, or if what has it is no regular file.
    """
    _refuse_taken(path, overwrite=overwrite)
    unfinished = path.parent / f".criu-agent-{secrets.token_hex(8)}"
    with _translated(path):
        fd = os.open(unfinished, _CREATE, 0o600)
    try:
        with open(fd, "wb", buffering=0) as out:
            write_to(out, objects, what=str(path))
            with _translated(path):
                os.fsync(fd)
        with _translated(path):
            _give_name(unfinished, path, overwrite=overwrite)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def write_to(out: BinaryIO, objects: Iterable[tuple[str, bytes]], *, what: str = "standard output") -> None:
    """Write an archive to `out`, which is never asked to seek: a pipe will do. `what` names it in errors."""
    index = layout.IndexWriter()
    _put(out, layout.LINE, what)
    for name, data in objects:
        index.add(name, data)
        _put(out, data, what)
    _put(out, index.finish(), what)
    with _translated(what):
        out.flush()


class ArchiveStore:
    """The archive in the file `path`, a store that is only read. Close it, or use it in `with`.

    NotFound, Corrupt, HostCannot (another version). An object is checked whole when any part of it is first read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked = set[str]()
        self._fd = _open(path)
        try:
            self._places = self._opened()
        except BaseException:
            self.close()
            raise

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        components(name)
        place = self._places.get(name)
        if place is None:
            raise NotFound(f"there is no object {name} in {self.path}")
        end = max(offset, min(offset + limit, place.length))
        if name in self._checked:
            return self._read(place.offset + offset, end - offset)
        hasher, wanted = blake3(), bytearray()
        for at in range(0, place.length, _PIECE):
            piece = self._read(place.offset + at, min(_PIECE, place.length - at))
            hasher.update(piece)
            wanted += piece[max(0, offset - at) : max(0, end - at)]
        if hasher.digest() != place.checksum:
            raise layout.changed(str(self.path), f"its object {name} is not what was written")
        self._checked.add(name)
        return bytes(wanted)

    def put(self, name: str, data: bytes | memoryview) -> bool:
        self._refuse(name)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        self._refuse(name)

    def list(self, prefix: str) -> dict[str, int]:
        return {name: place.length for name, place in self._places.items() if name.startswith(prefix)}

    def delete(self, name: str) -> None:
        self._refuse(name)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _opened(self) -> dict[str, layout.Place]:
        """The checks of the format, in its order; no more is read than it allows."""
        status, what = os.fstat(self._fd), str(self.path)
        if not stat.S_ISREG(status.st_mode):
            raise Failure(f"{what} is not a regular file", hint="save what comes from a pipe as a file first")
        line = layout.first_line(self._read(0, min(layout.MAX_LINE, status.st_size)), what)
        last_at = status.st_size - len(line)
        layout.check_lines(line, self._read(last_at, len(line)) if last_at >= len(line) else b"", what)
        trailer_at = last_at - layout.TRAILER_SIZE
        if trailer_at < len(line):
            raise layout.changed(what, "its trailer is missing")
        trailer = layout.read_trailer(self._read(trailer_at, layout.TRAILER_SIZE), trailer_at, what)
        return layout.read_index(self._read(trailer.index_at, trailer_at - trailer.index_at), trailer, what)

    def _read(self, offset: int, length: int) -> bytes:
        """Exactly so many bytes; by pread, since several threads read."""
        pieces: list[bytes] = []
        while length:
            with _translated(self.path):
                piece = os.pread(self._fd, length, offset)
            if not piece:
                raise layout.changed(str(self.path), "it became shorter while it was read")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _refuse(self, name: str) -> NoReturn:
        components(name)
        raise Failure(f"the archive {self.path} is read-only", hint=f"take it in with: import -i {self.path}")


def _open(path: Path) -> int:
    try:
        return os.open(path, _READ)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise _failure(path, error) from error


def _taken(path: Path) -> Failure:
    return Failure(f"{path} is there already", hint="name another file, or remove it first")


def _refuse_taken(path: Path, *, overwrite: bool) -> None:
    with _translated(path), suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not overwrite:
            raise _taken(path)
        if not stat.S_ISREG(mode):  # a rename would put a file in the place of a device
            raise Failure(f"{path} is not a regular file", hint="name another file, or - for standard output")


def _give_name(unfinished: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite or not _linked(unfinished, path):
        unfinished.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _linked(unfinished: Path, path: Path) -> bool:
    """Give it its name by link(2), which is sure to replace nothing. False where a file system has no links."""
    try:
        path.hardlink_to(unfinished)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _refuse_taken(path, overwrite=False)
        return False
    unfinished.unlink()
    return True


def _put(out: BinaryIO, data: bytes, what: str) -> None:
    view = memoryview(data)
    with _translated(what):
        while view:
            view = view[out.write(view) :]


@contextmanager
def _translated(what: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(what, error) from error


def _failure(what: Path | str, error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for {what}", hint="free some space, or name a file on another file system")
    hint = {
        errno.EACCES: "run it as root, or name a file that you may use",
        errno.EFBIG: "that file system takes no file so large: name one on another file system",
        errno.EIO: "the disk cannot read or write it: look at dmesg",
        errno.ENOENT: "make its directory first",
        errno.EROFS: "name a file on a writable file system",
    }
    return Failure(f"cannot use {what}: {error.strerror}", hint=hint.get(error.errno or 0, ""))
