"""Small files of the host that decide what root believes: whose they are, and replacing them whole."""

import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection
from pathlib import Path

from criu_agent.errors import Failure, NoSpace

ROOT: frozenset[int] = frozenset({0})
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a fifo must not hold us
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def read_unwritable(path: Path, limit: int, *, owners: Collection[int] = ROOT) -> bytes | None:
    """The content of a file that only its owner can have written, None if there is no such file.

    Failure, naming what is wrong, if it or a directory above it belongs to somebody who is neither root nor in
    `owners` (uids), or can be written by others, or if it has more than `limit` bytes. Each component is opened below
    the one that was checked.
    """
    *parents, name = path.resolve().parts
    fd = os.open(parents[0], _DIRECTORY)
    try:
        reached = Path(parents[0])
        _check_directory(fd, reached, owners)
        for part in parents[1:]:
            above, fd, reached = fd, os.open(part, _DIRECTORY, dir_fd=fd), reached / part
            os.close(above)
            _check_directory(fd, reached, owners)
        data = read_checked(os.open(name, _FILE, dir_fd=fd), lambda found: _check_file(path, found, owners), limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(data) > limit:
        raise Failure(f"{path} has more than {limit} bytes")
    return data


def read_checked(fd: int, check: Callable[[os.stat_result], None], limit: int) -> bytes:
    """At most one byte more than `limit` of the file, once `check` did not raise; fd is closed in any case."""
    try:
        check(os.fstat(fd))
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit + 1)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Make `data` the content of the file, in one step and durably. OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        create(temporary, data, mode)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def create(path: Path, data: bytes, mode: int) -> None:
    """Make the file, which must not be there, durably. FileExistsError, or another OSError: then it is not there."""
    fd = os.open(path, _NEW, mode)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(fd)
        _sync(path.parent)
    except OSError:
        path.unlink()
        raise


def not_written(path: Path, error: OSError) -> Failure:
    """The error for a file of this host that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for {path}", hint="free some space there")
    return Failure(f"cannot write {path}: {error.strerror}")


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_directory(fd: int, path: Path, owners: Collection[int]) -> None:
    """One with the sticky bit may be writable by others: what is in it they can neither rename nor remove."""
    found = os.fstat(fd)
    _check(path, found, owners, sticky=bool(found.st_mode & stat.S_ISVTX))


def _check_file(path: Path, found: os.stat_result, owners: Collection[int]) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Failure(f"{path} is not a regular file")
    _check(path, found, owners)


def _check(path: Path, found: os.stat_result, owners: Collection[int], *, sticky: bool = False) -> None:
    if found.st_uid not in {0, *owners}:
        raise Failure(f"{path} belongs to uid {found.st_uid}", hint=f"chown root {path}")
    if found.st_mode & _OTHERS_WRITE and not sticky:
        raise Failure(f"{path} can be written by others", hint=f"chmod go-w {path}")
