"""Open what lies in a tree without ever leaving it: no link is followed, no path is too long, at any depth."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def joined(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def split(path: str) -> tuple[str, str]:
    """The directory and the last component of a path in a tree; the root's is "." in "" ."""
    parent, _, name = path.rpartition("/")
    return parent, name or "."


@contextmanager
def directory(root: Path, path: str) -> Iterator[int]:
    """A descriptor of the directory `path` in the tree at `root`, each component opened with O_NOFOLLOW."""
    fd = os.open(root, _DIRECTORY)
    try:
        for part in path.split("/") if path else ():
            parent, fd = fd, os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(parent)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def file(root: Path, path: str) -> Iterator[int]:
    """A descriptor to read the file `path` in the tree at `root`; "" is the root, if that is a file."""
    root, path = (root, path) if path else (root.parent, root.name)
    parent, name = split(path)
    with directory(root, parent) as at:
        # NONBLOCK: should it be a fifo by now, it must not hold us
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    try:
        yield fd
    finally:
        os.close(fd)


def by_proc(at: int, name: str) -> str:
    """A path to `name` in the directory `at`, for the calls that take no descriptor of a directory (xattr)."""
    return f"/proc/self/fd/{at}/{name}"
