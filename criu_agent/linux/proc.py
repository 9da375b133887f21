"""Facts about processes, as /proc tells them (man 5 proc, and filesystems/proc.rst of the kernel).

Nothing here judges. A process that ends while it is read is left out of a list; a function about a single
process raises ProcessLookupError. Pids are those of our own pid namespace unless a name says otherwise.
psutil is not used: for one tree it walks all processes of the host, and it knows neither fdinfo nor namespaces.
"""

import fcntl
import os
import re
import signal
import stat
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

NAMESPACES = (
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "pid_for_children",
    "time",
    "time_for_children",
    "user",
    "uts",
)
CAP_SYS_RESOURCE = 24  # linux/capability.h
_PF_EXITING = 0x4  # linux/sched.h
_GONE = (FileNotFoundError, ProcessLookupError)
_OCTAL = re.compile(r"\\([0-7]{3})")
_SHARED = re.compile(r"^\S+ \S{3}s \S+ \S+ ([0-9]+)", re.MULTILINE)  # a line of maps
_DELETED = " (deleted)"


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process. state is the letter of /proc/PID/stat, seccomp 0 none, 1 strict, 2 filter; sizes in bytes.

    private is what it has in memory or swap for itself: a dump has it once for each process, even after a fork.
    """

    pid: int
    box_pid: int  # in the innermost pid namespace that it is in
    ppid: int
    comm: str
    argv: tuple[str, ...]
    state: str
    tracer_pid: int
    uids: tuple[int, ...]  # real, effective, saved
    gids: tuple[int, ...]
    seccomp: int
    rss: int
    private: int

    @property
    def uid(self) -> int:
        return self.uids[0]


@dataclass(frozen=True, kw_only=True)
class Fd:
    """An open file descriptor: where it points to (readlink), the inode behind it (stat), and its fdinfo.

    size is what is allocated for the file, in bytes. protocol is what the kernel calls a socket's protocol:
    "TCP", "MPTCP", "UNIX-STREAM", "AF_VSOCK"; "" when it is no socket. info are the lines of fdinfo that only
    some kinds of file have.
    """

    number: int
    target: str
    mode: int
    device: int
    inode: int
    rdev: int
    links: int
    size: int
    flags: int
    pos: int
    mnt_id: int
    protocol: str = ""
    info: tuple[str, ...] = ()

    @property
    def deleted(self) -> bool:
        return self.target.endswith(_DELETED)

    def detail(self, key: str) -> str | None:
        """The value of the first line of fdinfo that begins with "key:"; None without one."""
        for line in self.info:
            name, _, value = line.partition(":")
            if name == key:
                return value.strip()
        return None


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A line of mountinfo. root is the part of the file system that is mounted, device its "major:minor"."""

    id: int
    parent: int
    device: str
    root: str
    point: str
    fstype: str
    source: str


@dataclass(frozen=True, kw_only=True)
class MappedFile:
    """A part of the memory that is backed by a file. range is its name in /proc/PID/map_files."""

    range: str
    perms: str  # "r-xp", with "s" at the end for shared
    device: str
    inode: int
    path: str


def start_time(pid: int) -> int:
    """When the process began, in clock ticks since boot: with the boot id it tells a pid from its reuse."""
    # The name of the program is in brackets and may itself contain brackets and blanks.
    return int(_of(pid, "stat").rpartition(")")[2].split()[19])


def is_ending(pid: int) -> bool:
    """Whether the process is gone, has a SIGKILL to come, or exits: PID 1 does so until all of its namespace has."""
    try:
        flags = int(_of(pid, "stat").rpartition(")")[2].split()[6])
        pending = int(_status(pid)["SigPnd"], 16)
    except _GONE:
        return True
    return bool(flags & _PF_EXITING or pending >> (signal.SIGKILL - 1) & 1)


def comm(pid: int) -> str:
    """The name of the program, "?" when it is gone."""
    try:
        return _of(pid, "comm").rstrip("\n")
    except ProcessLookupError:
        return "?"


def process(pid: int) -> Process:
    status = _status(pid)
    argv = _of(pid, "cmdline").split("\0")[:-1]
    return Process(
        pid=pid,
        box_pid=int(status["NSpid"].split()[-1]),
        ppid=int(status["PPid"]),
        comm=comm(pid),
        argv=tuple(argv),
        state=status["State"][0],
        tracer_pid=int(status["TracerPid"]),
        uids=tuple(int(uid) for uid in status["Uid"].split()[:3]),
        gids=tuple(int(gid) for gid in status["Gid"].split()[:3]),
        seccomp=int(status.get("Seccomp", "0")),
        rss=_bytes(status, "VmRSS"),
        private=_bytes(status, "RssAnon") + _bytes(status, "VmSwap"),
    )


def environment(pid: int) -> dict[str, str]:
    """The environment that it was started with. OSError if it is gone."""
    pairs = (one.partition("=") for one in _read(f"/proc/{pid}/environ").split("\0"))
    return {key: value for key, equals, value in pairs if equals}


def cwd(pid: int) -> str:
    """Its working directory, as it sees it; "" if it is gone."""
    return _link(f"/proc/{pid}/cwd")


def tree(root_pid: int) -> list[Process]:
    """The process and all its descendants, parents first. ProcessLookupError when the root is gone.

    A process whose parent dies while we walk may be missed: only a frozen tree is exact.
    """
    found = [process(root_pid)]
    pending = deque(children(root_pid))
    while pending:
        pid = pending.popleft()
        try:
            found.append(process(pid))
        except ProcessLookupError:
            continue
        pending.extend(children(pid))
    return found


def children(pid: int) -> list[int]:
    """Children of all threads of the process; none when it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except _GONE:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            found += [int(child) for child in _of(pid, f"task/{thread}/children").split()]
        except ProcessLookupError:
            continue
    return found


def sessions_of_terminals(processes: Iterable[Process]) -> dict[int, tuple[int, int]]:
    """Of each controlling terminal of a session leader among them: its session and its foreground process group.

    Keys are device numbers, the values pids of the innermost pid namespace; 0 for a group without a process.
    """
    groups: dict[int, int] = {}
    leaders: list[tuple[int, int, int]] = []
    for one in processes:
        # State, ppid, pgrp, session, tty_nr, tpgid come after the name of the program, which may contain blanks.
        group, session, terminal, foreground = map(int, _of(one.pid, "stat").rpartition(")")[2].split()[2:6])
        groups[group] = int(_status(one.pid)["NSpgid"].split()[-1])
        if session == one.pid and terminal:
            leaders.append((terminal, one.box_pid, foreground))
    return {terminal: (session, groups.get(foreground, 0)) for terminal, session, foreground in leaders}


def capabilities(pid: int) -> int:
    """The effective capabilities as bits."""
    return int(_status(pid)["CapEff"], 16)


def has_sys_resource(pid: int) -> bool:
    """Whether it has CAP_SYS_RESOURCE, without which CRIU cannot read the limits of another user's process."""
    return bool(capabilities(pid) >> CAP_SYS_RESOURCE & 1)


def fds(pid: int) -> list[Fd]:
    """The open descriptors in order; none when the process is gone or a zombie."""
    try:
        numbers = sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return []
    found: list[Fd] = []
    for number in numbers:
        try:
            found.append(_fd(pid, number))
        except OSError:  # closed meanwhile, or of a process with more capabilities than ours
            continue
    return found


def _fd(pid: int, number: int) -> Fd:
    path = f"/proc/{pid}/fd/{number}"
    target = os.readlink(path)
    facts = os.stat(path)
    common: dict[str, str] = {}
    info: list[str] = []
    for line in _lines(_of(pid, f"fdinfo/{number}")):
        key, _, value = line.partition(":")
        if key in ("pos", "flags", "mnt_id", "ino"):
            common[key] = value.strip()
        else:
            info.append(line)
    protocol = _protocol(path) if stat.S_ISSOCK(facts.st_mode) else ""
    return Fd(
        number=number,
        target=target,
        mode=facts.st_mode,
        device=facts.st_dev,
        inode=facts.st_ino,
        rdev=facts.st_rdev,
        links=facts.st_nlink,
        size=facts.st_blocks * 512,
        flags=int(common["flags"], 8),
        pos=int(common["pos"]),
        mnt_id=int(common["mnt_id"]),
        protocol=protocol,
        info=tuple(info),
    )


def _protocol(path: str) -> str:
    return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode()


def namespaces(pid: int) -> dict[str, int]:
    """Inode numbers of the namespaces by the names in /proc/PID/ns; those that cannot be read are left out.

    0 stands for a pid_for_children that has no process yet: the kernel gives it no name before.
    """
    found = {name: inode for name in NAMESPACES if (inode := _namespace(pid, name))}
    # A zombie has left all but its user and pid namespace. Asked last: the process may have ended during this.
    if "pid_for_children" not in found and _namespace(pid, "mnt"):
        found["pid_for_children"] = 0
    return found


def _namespace(pid: int, name: str) -> int:
    """Inode number of one namespace; 0 for none that can be read."""
    try:
        return int(os.readlink(f"/proc/{pid}/ns/{name}").partition("[")[2][:-1])
    except OSError:
        return 0


def mounts(pid: int) -> list[Mount]:
    """The mount table that the process sees; none when it is gone or a zombie."""
    try:
        lines = _lines(_of(pid, "mountinfo"))
    except OSError:  # EINVAL for a zombie
        return []
    return [_mount(line) for line in lines]


def _mount(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    number, parent, device, root, point, *_ = left.split(" ")
    fstype, source, *_ = right.split(" ")
    return Mount(
        id=int(number),
        parent=int(parent),
        device=device,
        root=_unescape(root),
        point=_unescape(point),
        fstype=fstype,
        source=_unescape(source),
    )


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def maps(pid: int) -> list[MappedFile]:
    """The file-backed parts of the memory; anonymous memory, heap, stack and vdso are left out."""
    try:
        lines = _lines(_of(pid, "maps"))
    except OSError:
        return []
    found: list[MappedFile] = []
    for line in lines:
        # "7f5c...-7f5c... r-xp 00000000 fe:00 1234   /path": the path begins at column 73, or later if wide.
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4] != "0":
            span, perms, _, device, inode, path = fields
            found.append(MappedFile(range=span, perms=perms, device=device, inode=int(inode), path=path))
    return found


def shared_inodes(pid: int) -> set[int]:
    """The inodes of files that the process has mapped shared, whatever it may do there at the moment."""
    try:
        lines = _of(pid, "maps")
    except OSError:
        return set()
    return set(map(int, _SHARED.findall(lines)))


def write_sealed(pid: int, mapping: MappedFile) -> bool:
    """Whether a mapped memfd is sealed against writing (F_SEAL_WRITE, man 2 fcntl) but was opened for it.

    The link in map_files has the permissions that the mapped file was opened with (man 5 proc).
    """
    path = f"/proc/{pid}/map_files/{mapping.range}"
    try:
        if not os.lstat(path).st_mode & stat.S_IWUSR:
            return False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # unmapped meanwhile
        return False
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)
    except OSError:  # EINVAL: a file that cannot have seals
        return False
    finally:
        os.close(fd)


def memory_to_dump(root_pid: int) -> int:
    """Bytes that an image of the tree takes at most: what the processes have each, and what they share once.

    Shared are deleted files and memfds, open or mapped, and the tmpfs of the box, which CRIU packs as well.
    """
    processes = tree(root_pid)
    return image_size(
        processes,
        fds={one.pid: fds(one.pid) for one in processes},
        mappings={one.pid: maps(one.pid) for one in processes},
    )


def image_size(
    processes: Sequence[Process],
    *,
    fds: Mapping[int, Sequence[Fd]],
    mappings: Mapping[int, Sequence[MappedFile]],
) -> int:
    """`memory_to_dump` for who has read the tree, its descriptors and mappings (by pid) already."""
    shared: dict[tuple[int, int], int] = {}
    for one in processes:
        shared |= {(fd.device, fd.inode): fd.size for fd in fds[one.pid] if fd.deleted}
        shared |= dict(_deleted_mappings(one.pid, mappings[one.pid]))
    private = sum(one.private for one in processes)
    return private + sum(shared.values()) + _tmpfs(processes[0].pid)


def _deleted_mappings(pid: int, mappings: Sequence[MappedFile]) -> Iterator[tuple[tuple[int, int], int]]:
    seen: set[tuple[str, int]] = set()
    for mapping in mappings:
        key = (mapping.device, mapping.inode)
        if key in seen or not mapping.path.endswith(_DELETED):
            continue
        seen.add(key)
        try:
            facts = os.stat(f"/proc/{pid}/map_files/{mapping.range}")
        except OSError:
            continue
        yield (facts.st_dev, facts.st_ino), facts.st_blocks * 512


def _tmpfs(root_pid: int) -> int:
    """Bytes in the tmpfs that the tree has mounted. Those that we see, too, are the host's, and in no image."""
    used: dict[str, int] = {}
    ours = {mount.device for mount in mounts(os.getpid())}
    for mount in mounts(root_pid):
        if mount.fstype != "tmpfs" or mount.root != "/" or mount.device in ours:
            continue
        try:
            facts = os.statvfs(f"/proc/{root_pid}/root{mount.point}")
        except OSError:
            continue
        used[mount.device] = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    return sum(used.values())


def pids() -> list[int]:
    """Every process that we can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def members(pid_namespace: int) -> list[int]:
    """The processes in a pid namespace, by its inode number."""
    wanted = f"pid:[{pid_namespace}]"
    return [pid for pid in pids() if _link(f"/proc/{pid}/ns/pid") == wanted]


def holders(targets: Collection[str], *, besides: Collection[int]) -> dict[str, int]:
    """Which process, but for `besides`, has a descriptor open on each target ("socket:[12]", a path).

    It walks all descriptors of the host, so it is for the few cases in which a name is worth it.
    """
    found: dict[str, int] = {}
    if not targets:
        return found
    for pid in pids():
        if pid in besides:
            continue
        for target in _targets(pid):
            if target in targets:
                found.setdefault(target, pid)
    return found


def _targets(pid: int) -> Iterable[str]:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    return (_link(f"/proc/{pid}/fd/{number}") for number in numbers)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _status(pid: int) -> dict[str, str]:
    pairs = (line.partition(":") for line in _lines(_of(pid, "status")))
    return {key: value.strip() for key, _, value in pairs}


def _bytes(status: dict[str, str], key: str) -> int:
    return int(status.get(key, "0 kB").split()[0]) * 1024


def _lines(text: str) -> list[str]:
    """str.splitlines would also cut at what may be in a name: form feeds, U+2028 and others."""
    return text.split("\n")[:-1]


def _of(pid: int, name: str) -> str:
    try:
        return _read(f"/proc/{pid}/{name}")
    except _GONE as error:
        raise ProcessLookupError(f"process {pid} is gone") from error


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return os.fsdecode(file.read() or b"")
