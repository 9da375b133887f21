"""A store in a local directory: one file (0600) per object, in directories (0700).

An object appears whole or not at all: it is written to a temporary file in `.tmp`, synced, linked to its
name, and the directory of the name is synced. link(2) fails when the name is taken: so `put` is create-only.

Large objects that lie aligned in memory are written around the page cache: they are packs, which are read once in a
while or never again. For 220 MB in packs of 16 MiB that took 0.17 s and 0.06 s of CPU time, against 0.32 s and 0.35 s
through the page cache.

Whoever writes holds a shared flock on `.tmp`; whoever gets it alone knows that no writer lives, and removes
what killed ones left. No clock and no pid is asked.

A register is replaced by rename(2), which compares nothing: so whoever swaps or deletes holds an exclusive flock
on `.swap` from the comparison to the change. Each call opens that file anew, and so threads exclude each other too.
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from criu_agent import log
from criu_agent.errors import Corrupt, Failure, NoSpace, NotFound
from criu_agent.store.base import NAME, REGISTER_LIMIT, check_register, components

_TEMPORARY = ".tmp"
_SWAP_LOCK = ".swap"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a fifo must not hold us
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PART = 1 << 20  # bytes that are written at a time around the page cache


class FileStore:
    def __init__(self, root: Path) -> None:
        """The store in the directory `root`, which the first `put` makes if it is not there."""
        self.root = root
        with self._translated(""), suppress(FileNotFoundError):
            _sweep(root / _TEMPORARY)

    def get(self, name: str, limit: int, *, offset: int = 0) -> bytes:
        *parents, last = components(name)
        try:
            with self._translated(name), self._directory(parents) as directory:
                fd = os.open(last, _READ, dir_fd=directory)
                with open(fd, "rb") as file:
                    if not stat.S_ISREG(os.fstat(fd).st_mode):
                        raise Corrupt(f"{self.root / name} is not a regular file")
                    file.seek(offset)
                    return file.read(limit)
        except FileNotFoundError as error:
            raise NotFound(f"there is no object {name} in {self.root}") from error

    def put(self, name: str, data: bytes | memoryview) -> bool:
        last = components(name)[-1]
        with self._writing(name) as (directory, temporary):
            made = _create(data, temporary, directory, last)
            os.fsync(directory)
            return made

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        check_register(new)
        if old is None:
            return self.put(name, new)
        last = components(name)[-1]
        with self._writing(name) as (directory, temporary), self._swap_lock():
            try:
                found = self.get(name, REGISTER_LIMIT + 1)
            except NotFound:
                return False
            if found != old:
                return False
            _replace(new, temporary, directory, last)
            os.fsync(directory)
            return True

    def list(self, prefix: str) -> dict[str, int]:
        parent = prefix.rpartition("/")[0]
        try:
            with self._translated(prefix):
                return dict(sorted(found for found in self._walk(parent) if found[0].startswith(prefix)))
        except FileNotFoundError:
            return {}

    def delete(self, name: str) -> None:
        *parents, last = components(name)
        with (
            suppress(FileNotFoundError),
            self._translated(name),
            self._directory(parents) as directory,
        ):
            with self._swap_lock():
                os.unlink(last, dir_fd=directory)
            os.fsync(directory)

    def _walk(self, parent: str) -> Iterator[tuple[str, int]]:
        with self._directory(components(parent) if parent else []) as directory:
            with os.scandir(directory) as found:
                entries = list(found)
            for entry in entries:
                name = f"{parent}/{entry.name}" if parent else entry.name
                if not NAME.fullmatch(entry.name):
                    continue
                if entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        yield name, entry.stat(follow_symlinks=False).st_size
                elif entry.is_dir(follow_symlinks=False):
                    yield from self._walk(name)

    @contextmanager
    def _writing(self, name: str) -> Iterator[tuple[int, int]]:
        """Descriptors of the name's directory and of `.tmp`, both made if need be, the latter with its flock."""
        parents = components(name)[:-1]
        with self._translated(name):
            self._make([_TEMPORARY])
            self._make(parents)
            with self._directory(parents) as directory, self._directory([_TEMPORARY]) as temporary:
                fcntl.flock(temporary, fcntl.LOCK_SH)
                yield directory, temporary

    @contextmanager
    def _swap_lock(self) -> Iterator[None]:
        with self._directory([]) as root:
            fd = os.open(_SWAP_LOCK, _LOCK, 0o600, dir_fd=root)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _directory(self, parts: Sequence[str]) -> Iterator[int]:
        """A descriptor of root/parts..., where no part is a symbolic link."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                parent, fd = fd, os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(parent)
            yield fd
        finally:
            os.close(fd)

    def _make(self, parts: Sequence[str]) -> None:
        """mkdir -p of root/parts..., each new name synced in its parent."""
        for depth in range(len(parts), -1, -1):
            try:
                with self._directory(parts[:depth]):
                    break
            except FileNotFoundError:
                continue
        else:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            depth = 0
        for made in range(depth, len(parts)):
            with self._directory(parts[:made]) as directory:
                with suppress(FileExistsError):  # another thread or process was quicker
                    os.mkdir(parts[made], 0o700, dir_fd=directory)
                os.fsync(directory)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _failure(self.root, name, error) from error


def _failure(root: Path, name: str, error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left in the repository {root}", hint="free some space, or name another one with -r")
    hint = {
        errno.EACCES: "run it as root, or name a repository of your own with -r",
        errno.EROFS: "name a repository on a writable file system with -r",
        errno.EPERM: "the repository needs a file system with hard links; name another one with -r",
    }
    where = root / name if name else root
    return Failure(f"cannot use {where}: {error.strerror}", hint=hint.get(error.errno or 0, ""))


def _create(data: bytes | memoryview, temporary: int, directory: int, name: str) -> bool:
    """Write data durably to a temporary file and give it its name. False if the name is taken."""
    with _unfinished(data, temporary) as unfinished:
        try:
            os.link(unfinished, name, src_dir_fd=temporary, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            return False
    return True


def _replace(data: bytes, temporary: int, directory: int, name: str) -> None:
    """Write data durably to a temporary file, which takes the place of the one of that name."""
    with _unfinished(data, temporary) as unfinished:
        os.rename(unfinished, name, src_dir_fd=temporary, dst_dir_fd=directory)


@contextmanager
def _unfinished(data: bytes | memoryview, temporary: int) -> Iterator[str]:
    """The name of a temporary file with that content, synced; gone in the end unless it was renamed."""
    unfinished = secrets.token_hex(16)
    fd = os.open(unfinished, _CREATE, 0o600, dir_fd=temporary)
    try:
        try:
            _write(fd, memoryview(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        yield unfinished
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=temporary)


def _write(fd: int, data: memoryview) -> None:
    """All of it to the empty file."""
    if len(data) >= _PART:
        data = data[_write_directly(fd, data) :]
    while data:
        data = data[os.write(fd, data) :]


def _write_directly(fd: int, data: memoryview) -> int:
    """As many whole parts as can be written around the page cache: how many bytes that were."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    done = 0
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        while len(data) - done >= _PART:
            count = os.write(fd, data[done : done + _PART])
            done += count
            if count < _PART:  # what follows is not aligned
                break
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        log.debug("the repository's file system has no direct writes, or not of this memory")
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return done


def _sweep(temporary: Path) -> None:
    fd = os.open(temporary, _DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with os.scandir(fd) as found:
            names = [entry.name for entry in found]
        for name in names:
            log.info("removing %s, left by a writer that was killed", temporary / name)
            os.unlink(name, dir_fd=fd)
    except BlockingIOError:
        return  # somebody is writing: the next one to open the store looks again
    except OSError as error:
        log.warning("cannot remove what is left in %s: %s", temporary, error)  # no reason not to read
    finally:
        os.close(fd)
