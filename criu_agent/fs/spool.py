"""Where the data of files are copied to while their owner is frozen, when he is to run on."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from criu_agent.errors import Failure, NoSpace
from criu_agent.fs.entry import PAGE, Entry
from criu_agent.fs.scan import Looking

_NOT_BETWEEN = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Spool:
    """Where data are copied to, those of a file one after the other from the start of a block on."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        self._directory = directory
        with self._failing():
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - see close
        self.fd = self._file.fileno()
        self._end = 0

    def close(self) -> None:
        self._file.close()

    def copy(self, looking: Looking, entry: Entry) -> int:
        """Copy the data of a file: where they begin."""
        at, name = looking.at(entry.path)
        # NONBLOCK: should it be a fifo by now, it must not hold us
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Failure(f"{self._root / entry.path} was replaced while it was captured")
            # at a block's start file systems with reflinks can share the data instead of copying it
            start = end = -(-self._end // PAGE) * PAGE
            with self._failing():
                for offset, length in entry.extents:
                    _copy(fd, offset, self.fd, end, length)
                    end += length
        finally:
            os.close(fd)
        self._end = end
        return start

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"cannot copy the files of {self._root} to {self._directory}: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(message, hint=f"free some space in {self._directory}") from error
            raise Failure(message) from error


def _copy(source: int, offset: int, target: int, at: int, length: int) -> None:
    while length:
        try:
            count = os.copy_file_range(source, target, length, offset, at)
        except OSError as error:
            if error.errno not in _NOT_BETWEEN:
                raise
            os.lseek(target, at, os.SEEK_SET)
            count = os.sendfile(target, source, offset, length)
        if not count:
            raise Failure("a file became shorter while it was captured")
        offset, at, length = offset + count, at + count, length - count
