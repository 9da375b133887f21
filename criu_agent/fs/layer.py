"""Unpack a layer of a container image over those below it, and nothing outside of them.

The rules are those of OCI (image-spec, layer.md): an entry replaces what is there, `.wh.NAME` removes NAME of the
layers below, `.wh..wh..opq` everything that they have in that directory.
"""

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from criu_agent.errors import Corrupt, Failure, NoSpace
from criu_agent.fs import beneath

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
# Not trusted.*: what overlayfs keeps there says where else in a file system something lies.
_KEPT = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
_DEPTH = 256  # directories in one another
_HEADER = 1 << 20  # bytes of one extended header, which tarfile reads as a whole
_BLOCK = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What the kernel says when a name leads through something that is no directory of ours, or is no name.
_FORGED = (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL)


class Quota:
    """What is left of the bytes and files that all layers of an image may have together."""

    def __init__(self, *, size: int = 64 << 30, count: int = 2_000_000) -> None:
        self._size, self._count = size, count

    def take(self, size: int) -> None:
        self._size -= size
        self._count -= 1
        if self._size < 0 or self._count < 0:
            raise Corrupt("the container image is larger than any that is unpacked: 64 GiB, or 2,000,000 files")


def unpack(layer: IO[bytes], root: Path, quota: Quota) -> None:
    """Unpack the tar file `layer`, which can seek, over the tree at `root`.

    Corrupt for one that breaks a rule, Failure if this file system cannot hold it. On either, what was made so far
    is there: the caller owns `root` and removes it.
    """
    with _translated(""):
        for member in _members(layer):  # first: they are about the layers below, wherever they stand in this one
            with _translated(member.name):
                _white_out(root, member)
        directories: dict[str, tarfile.TarInfo] = {}
        with opened(layer) as tar:
            for member in _each(tar):
                path = _path(member.name)
                if path.rpartition("/")[2].startswith(_WHITEOUT):
                    continue
                quota.take(member.size)
                with _translated(member.name):
                    _make(root, path, member, tar)
                if member.isdir():
                    directories[path] = member
                else:
                    directories.pop(path, None)
        # Last: to make a file in a directory changes the directory's time, and a default ACL on it the file's mode.
        for path, member in directories.items():
            with _translated(member.name), _parent(root, path) as (at, name):
                _dress(at, name, member)


def opened(file: IO[bytes]) -> tarfile.TarFile:
    """The tar file in a file that can seek, to be read."""
    return tarfile.open(fileobj=_Bounded(file), mode="r:", errorlevel=2)  # type: ignore[call-overload,no-any-return]


class _Bounded:
    """A file of which nobody reads much at once: tarfile takes in a whole extended header, however long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int) -> bytes:
        if size > _HEADER:
            raise Corrupt("the container image has a header that is too long")
        return self._file.read(size)


def _members(layer: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    layer.seek(0)
    with opened(layer) as tar:
        yield from _each(tar)
    layer.seek(0)


def _each(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """As the file has them; none is kept in memory."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield member


def _path(name: str) -> str:
    """The path in the root that a name in a layer means: "./etc/x" and "/etc/x" are "etc/x"."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or len(parts) > _DEPTH:
        raise Corrupt(f"the container image has a file {name[:200]!r}, which would lie outside of it")
    return "/".join(parts)


@contextmanager
def _parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the directory that `path` is in, and its name there. No link is followed."""
    parent, name = beneath.split(path)
    with beneath.directory(root, parent) as at:
        yield at, name


def _white_out(root: Path, member: tarfile.TarInfo) -> None:
    parent, name = beneath.split(_path(member.name))
    if not name.startswith(_WHITEOUT):
        return
    with suppress(FileNotFoundError), beneath.directory(root, parent) as at:
        if name == _OPAQUE:
            for one in os.listdir(at):
                _remove(at, one)
        elif not name.startswith(_WHITEOUT * 2):  # those are notes of aufs to itself
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in ("", ".", ".."):
                raise Corrupt(f"the container image has a whiteout {member.name!r} of nothing")
            _remove(at, hidden)


def _remove(at: int, name: str) -> None:
    if _is_directory(at, name):
        shutil.rmtree(name, dir_fd=at)
    else:
        os.unlink(name, dir_fd=at)


def _is_directory(at: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def _make(root: Path, path: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    if not path:
        if not member.isdir():
            raise Corrupt("the container image has a root that is no directory")
        return
    if (member.ischr() or member.isblk()) and path.startswith("dev/"):
        return  # the box has a /dev of its own
    _make_parents(root, path)
    with _parent(root, path) as (at, name):
        if member.islnk():
            _link(root, _path(member.linkname), at, name, path)
            return
        with suppress(FileNotFoundError):
            if member.isdir() and _is_directory(at, name):
                return
            _remove(at, name)
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=at)
            return
        _make_other(at, name, member, tar)
        _dress(at, name, member)


def _make_parents(root: Path, path: str) -> None:
    """Directories that the image has no entries for, as docker makes them."""
    parents = path.split("/")[:-1]
    for end in range(1, len(parents) + 1):
        with _parent(root, "/".join(parents[:end])) as (at, name), suppress(FileExistsError):
            os.mkdir(name, dir_fd=at)
            os.chmod(name, 0o755, dir_fd=at)  # noqa: S103 - whatever the umask is


def _link(root: Path, target: str, at: int, name: str, path: str) -> None:
    if target == path:
        raise Corrupt(f"the container image has a hard link {path!r} to itself")
    with _parent(root, target) as (beside, old):
        if _is_directory(beside, old):
            raise Corrupt(f"the container image has a hard link {path!r} to a directory")
        with suppress(FileNotFoundError):
            _remove(at, name)
        os.link(old, name, src_dir_fd=beside, dst_dir_fd=at, follow_symlinks=False)


def _make_other(at: int, name: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    if member.isreg():
        _write(at, name, member, tar)
    elif member.issym():
        os.symlink(member.linkname, name, dir_fd=at)
    elif member.isfifo():
        os.mkfifo(name, 0o600, dir_fd=at)
    else:
        kind = "a device" if member.isdev() else f"of the unknown type {member.type!r}"
        raise Corrupt(f"{member.name} of the container image is {kind}, which is not unpacked")


def _write(at: int, name: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    content = tar.extractfile(member)
    left = member.size
    with open(os.open(name, _CREATE, 0o600, dir_fd=at), "wb") as file:
        while content and left:
            data = content.read(min(left, _BLOCK))
            if not data:
                raise Corrupt(f"a layer of the container image ends within {member.name!r}")
            left -= file.write(data)


def _dress(at: int, name: str, member: tarfile.TarInfo) -> None:
    """Owner, mode, attributes, time: in this order, since chown takes away setuid and capabilities."""
    os.chown(name, member.uid, member.gid, dir_fd=at, follow_symlinks=False)
    if not member.issym():
        os.chmod(name, member.mode & 0o7777, dir_fd=at)
    for key, value in member.pax_headers.items():
        xattr = key.removeprefix(_XATTR)
        if xattr != key and (xattr.startswith("user.") or xattr in _KEPT):
            data = value.encode("utf-8", "surrogateescape")
            os.setxattr(beneath.by_proc(at, name), xattr, data, follow_symlinks=False)
    time = int(member.mtime * 1_000_000_000)
    os.utime(name, ns=(time, time), dir_fd=at, follow_symlinks=False)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    where = f": {name[:200]!r}" if name else ""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space where CRIU_AGENT_STATE_DIR is"
            raise NoSpace("there is no room for the container image", hint=hint) from error
        if error.errno in _FORGED:
            raise Corrupt(f"a layer of the container image is no good{where}: {error.strerror}") from error
        raise Failure(f"cannot unpack the container image{where}: {error.strerror}") from error
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise Corrupt(f"a layer of the container image is no good{where}: {error}") from error
