"""What is in a snapshot of a process tree: values only. `describe` makes them from CRIU's images.

Names and arguments are bytes of the operating system as str, with surrogateescape (PEP 383). Pids are the box's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Of a socket: what it is connected to, or bound to.

    protocol is "tcp", "udp", "unix stream", "netlink 0", ...; addresses are "1.2.3.4:80", "[::1]:80", a path,
    "@abstract" or "". peer is the inode of the unix socket at the other end, 0 for none.
    """

    protocol: str
    state: str
    local: str
    remote: str
    peer: int = 0


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """An open file description (man 2 open), which several descriptors may share.

    inode tells pipes and sockets apart, which have no name; it is another one after each restore. offset is None for
    what has none.
    """

    kind: str  # "file", "directory", "character", "pipe", "socket", "tty", "eventfd", ...
    name: str
    flags: int = 0  # of open(2)
    offset: int | None = None
    inode: int = 0
    endpoints: Endpoints | None = None


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    fd: int
    close_on_exec: bool
    file: OpenFile


@dataclass(frozen=True, kw_only=True)
class Region:
    """A mapping of memory, as in /proc/PID/maps. name is a path, "[heap]", "[stack]", "[vdso]", ... or ""."""

    start: int
    end: int
    prot: int  # PROT_* of mmap(2)
    flags: int  # MAP_* of mmap(2)
    name: str
    offset: int  # in the file
    stored: int  # bytes of it that are in the images; all else is zeros or in the file

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a process executes: what it has since its last execve(2), which `identity` tells apart from another."""

    exe: str
    argv: tuple[str, ...]
    environment: tuple[str, ...] = field(repr=False)  # "NAME=VALUE" as it was given; setenv(3) does not change it
    identity: tuple[int, int]  # where its code and its stack begin, which is random


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process. program is None for a zombie, which has nothing but its place in the tree."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    comm: str
    state: str  # "running", "stopped", "zombie"
    threads: int
    uid: int = 0  # effective, as the box sees it
    gid: int = 0
    cwd: str = ""
    root: str = ""
    program: Program | None = None
    descriptors: tuple[Descriptor, ...] = ()
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Description:
    processes: Mapping[int, Process]  # by pid
