"""What was typed into a terminal and not yet read: CRIU leaves it behind, we do not.

It lies in the line discipline and can only be read through the slave. The tree is frozen meanwhile, so nobody sees
that the terminal is switched to raw mode for a moment. What was read is put back as if typed again, without echo: by
TIOCSTI, since what is written to the master is processed some time later, when the echo may be on again.
"""

import fcntl
import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from criu_agent.linux import syscalls

_MOST = 4096  # N_TTY_BUF_SIZE: no line discipline holds more
# Everything that would act on a byte again that was acted upon when it was typed, or show it a second time.
_INPUT_FLAGS = termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON | termios.IXOFF
_LOCAL_FLAGS = termios.ISIG | termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ECHONL | termios.IEXTEN
_IFLAG, _LFLAG, _CC = 0, 3, 6  # of the list that tcgetattr gives
_MEANINGFUL = (termios.VERASE, termios.VKILL, termios.VEOL, termios.VEOL2, termios.VWERASE)


def peek(root_pid: int, master: int) -> bytes:
    """The unread input of the terminal whose master is ours and whose slave is in the box of root_pid."""
    with _slave(root_pid, master) as slave:
        with _changed(slave, canonical=False):
            data = _drain(slave)
        if data:
            _type(slave, data)
    return data


def put(root_pid: int, master: int, data: bytes) -> None:
    """Give unread input to a terminal that was made anew, before its programs run."""
    if data:
        with _slave(root_pid, master) as slave:
            _type(slave, data)


def _type(slave: int, data: bytes) -> None:
    flags = termios.tcgetattr(slave)
    if flags[_LFLAG] & termios.ICANON:
        data = data.replace(b"\0", flags[_CC][termios.VEOF])  # as the kernel keeps a ^D that nobody has read yet
    with _changed(slave, canonical=None):
        for byte in data:
            fcntl.ioctl(slave, termios.TIOCSTI, bytes([byte]))


@contextmanager
def _slave(root_pid: int, master: int) -> Iterator[int]:
    number = syscalls.pty_number(master)
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(f"/proc/{root_pid}/root/dev/pts/{number}", flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _changed(slave: int, *, canonical: bool | None) -> Iterator[None]:
    """The terminal as a plain queue of bytes; canonical None leaves line mode as it is, so that lines stay lines.

    The mode itself must not be switched with bytes in the queue: the kernel takes them for a finished line then.
    """
    before = termios.tcgetattr(slave)
    after = termios.tcgetattr(slave)
    after[_IFLAG] &= ~_INPUT_FLAGS
    after[_LFLAG] &= ~_LOCAL_FLAGS
    if canonical is False:
        after[_LFLAG] &= ~termios.ICANON
    if before[_LFLAG] & termios.ICANON:
        # In line mode VMIN and VTIME are VEOF and VEOL on some machines: only what edits a line is switched off.
        for index in _MEANINGFUL:
            after[_CC][index] = b"\x00"
        if canonical is False:
            after[_CC][termios.VMIN], after[_CC][termios.VTIME] = 0, 0
    termios.tcsetattr(slave, termios.TCSANOW, after)
    try:
        yield
    finally:
        termios.tcsetattr(slave, termios.TCSANOW, before)


def _drain(slave: int) -> bytes:
    found = bytearray()
    while True:
        try:
            data = os.read(slave, _MOST)
        except BlockingIOError:
            return bytes(found)
        if not data:
            return bytes(found)
        found += data
