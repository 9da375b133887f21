"""Files, where Python's own functions are not enough."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from criu_agent.errors import Failure
from criu_agent.linux import process

_LIMIT = 3600.0  # seconds


def make_private(path: Path) -> None:
    """Make a directory, and those above it that are missing, for their owner alone, whatever the umask is.

    pathlib gives those above it the modes that the umask leaves: with 002 or 000 others could write there.
    """
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for one in reversed(missing):
        try:
            one.mkdir(mode=0o700)
        except FileExistsError:
            if not one.is_dir():  # another process was quicker
                raise


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the only one in a directory of ours, which is made if need be; others that come here wait."""
    make_private(directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it; one that is not there is no error. Failure if something is left.

    By rm(1): shutil.rmtree calls itself for each level, and what an agent made may have any depth.
    """
    done = process.run(["rm", "-rf", "--one-file-system", "--", str(path)], timeout=_LIMIT)
    if not done.ok:
        said = done.stderr.decode(errors="replace").splitlines()
        raise Failure(f"cannot remove {path}: {said[0] if said else done.code}", hint="is something mounted there?")
