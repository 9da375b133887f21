"""Everything that a plan is judged by, read from the kernel once."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from criu_agent.linux import proc, sockets
from criu_agent.linux.proc import Fd, MappedFile, Mount, Process
from criu_agent.linux.sockets import InetSocket, UnixSocket

MEMFD = "/memfd:"


@dataclass(frozen=True, kw_only=True)
class Ours:
    """What the judge must know of the process that will dump."""

    namespaces: Mapping[str, int]
    uid: int = 0
    gid: int = 0
    sys_resource: bool = True  # has CAP_SYS_RESOURCE


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A process tree, root first, and what it holds. Keys are pids of the host unless said otherwise.

    strangers are in the tree's pid namespace but not below its root, as what `exec` starts. mounts are by the
    inode of the mount namespace, sockets by their own inode. sealed are shared mappings of
    memfds that were opened for writing and sealed against it since, by pid and range.
    holders are the processes outside that have the other end of something, by its readlink text; programs has
    their names, and those of tracers, by pid.
    """

    ours: Ours
    processes: tuple[Process, ...]
    strangers: tuple[Process, ...] = ()
    fds: Mapping[int, tuple[Fd, ...]] = field(default_factory=dict)
    mappings: Mapping[int, tuple[MappedFile, ...]] = field(default_factory=dict)
    namespaces: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    mounts: Mapping[int, tuple[Mount, ...]] = field(default_factory=dict)
    inet: Mapping[int, InetSocket] = field(default_factory=dict)
    unix: Mapping[int, UnixSocket] = field(default_factory=dict)
    netlink_unread: Mapping[int, int] = field(default_factory=dict)
    sealed: frozenset[tuple[int, str]] = frozenset()
    holders: Mapping[str, int] = field(default_factory=dict)
    programs: Mapping[int, str] = field(default_factory=dict)
    memory: int = 0

    @property
    def root(self) -> Process:
        return self.processes[0]

    @property
    def own_network(self) -> bool:
        return self.namespaces[self.root.pid].get("net") != self.ours.namespaces.get("net")

    @property
    def network_of_others(self) -> bool:
        """Whether the tree has no say over its network: it is in a user namespace of its own, on our network."""
        return not self.own_network and self.namespaces[self.root.pid].get("user") != self.ours.namespaces.get("user")

    @cached_property
    def pids(self) -> frozenset[int]:
        return frozenset(process.pid for process in self.processes)

    @cached_property
    def socket_inodes(self) -> frozenset[int]:
        return frozenset(fd.inode for fd in self._all_fds() if stat.S_ISSOCK(fd.mode))

    @cached_property
    def pipe_ends(self) -> frozenset[tuple[str, int]]:
        """The ends of pipes and fifos in the tree: readlink text, and O_RDONLY or O_WRONLY."""
        ends: set[tuple[str, int]] = set()
        for fd in self._all_fds():
            if stat.S_ISFIFO(fd.mode):
                access = fd.flags & os.O_ACCMODE
                both = (os.O_RDONLY, os.O_WRONLY)
                ends |= {(fd.target, end) for end in both if access in (end, os.O_RDWR)}
        return frozenset(ends)

    @cached_property
    def pty_masters(self) -> frozenset[int]:
        """Numbers of the ptys whose master is in the tree."""
        found = (fd.detail("tty-index") for fd in self._all_fds())
        return frozenset(int(index) for index in found if index is not None)

    @cached_property
    def shared_files(self) -> frozenset[str]:
        """The paths of files that are mapped shared."""
        mappings = (mapping for table in self.mappings.values() for mapping in table)
        return frozenset(mapping.path for mapping in mappings if mapping.perms.endswith("s"))

    @cached_property
    def mount_ids(self) -> frozenset[int]:
        return frozenset(mount.id for table in self.mounts.values() for mount in table)

    @cached_property
    def pending_clients(self) -> frozenset[int]:
        """Unix sockets that wait to be accepted by a listener in the tree."""
        inside = (self.unix[inode] for inode in self.socket_inodes if inode in self.unix)
        return frozenset(inode for one in inside for inode in one.pending)

    @cached_property
    def _tcp_ends(self) -> frozenset[tuple[str, str]]:
        inside = (self.inet[inode] for inode in self.socket_inodes if inode in self.inet)
        return frozenset((one.local, one.remote) for one in inside if one.protocol == "tcp")

    def internal(self, one: InetSocket) -> bool:
        """Whether both ends of a TCP connection are in the tree."""
        return (one.remote, one.local) in self._tcp_ends

    def outside(self, target: str) -> str:
        """The process outside that holds `target`, as "name (pid N)"; "" when there is none."""
        pid = self.holders.get(target)
        return f"{self.programs[pid]} (pid {pid})" if pid is not None else ""

    def half_open(self) -> Iterator[str]:
        """What has its other end outside of the tree: readlink texts of that end."""
        for target, end in self.pipe_ends:
            if (target, os.O_RDONLY if end == os.O_WRONLY else os.O_WRONLY) not in self.pipe_ends:
                yield target
        for inode in self.socket_inodes & self.unix.keys():
            peer = self.unix[inode].peer
            if peer and peer not in self.socket_inodes:
                yield f"socket:[{peer}]"

    def _all_fds(self) -> Iterator[Fd]:
        return (fd for table in self.fds.values() for fd in table)


def gather(root_pid: int, *, known: frozenset[str] = frozenset()) -> Facts:
    """Read all about the tree. ProcessLookupError when it is gone.

    known are readlink texts ("pipe:[12]") whose other end need not be looked for on the host.
    """
    processes = tuple(proc.tree(root_pid))
    pids = [process.pid for process in processes]
    fds = {pid: tuple(proc.fds(pid)) for pid in pids}
    mappings = {pid: tuple(proc.maps(pid)) for pid in pids}
    namespaces = {pid: proc.namespaces(pid) for pid in pids}
    inodes = frozenset(fd.inode for table in fds.values() for fd in table if fd.protocol)
    networks = _one_for_each(namespaces, "net").values()
    facts = Facts(
        ours=_ours(),
        processes=processes,
        strangers=tuple(_strangers(namespaces[root_pid], frozenset(pids))),
        fds=fds,
        mappings=mappings,
        namespaces=namespaces,
        mounts={inode: tuple(proc.mounts(pid)) for inode, pid in _one_for_each(namespaces, "mnt").items()},
        inet={
            one.inode: one
            for pid in networks
            for one in (*sockets.tcp(pid, inodes=inodes), *sockets.udp(pid, inodes=inodes))
        },
        unix={inode: one for pid in networks for inode, one in sockets.unix_peers(pid).items()},
        netlink_unread={inode: size for pid in networks for inode, size in sockets.netlink_unread(pid).items()},
        sealed=frozenset(_sealed(mappings)),
        memory=proc.image_size(processes, fds=fds, mappings=mappings),
    )
    holders = proc.holders(set(facts.half_open()) - known, besides=facts.pids)
    named = {*holders.values(), *(process.tracer_pid for process in processes)}
    return replace(facts, holders=holders, programs={pid: proc.comm(pid) for pid in named})


def _ours() -> Ours:
    me = os.getpid()
    return Ours(
        namespaces=proc.namespaces(me),
        uid=os.getuid(),
        gid=os.getgid(),
        sys_resource=proc.has_sys_resource(me),
    )


def _strangers(root: Mapping[str, int], tree: frozenset[int]) -> Iterator[Process]:
    if "pid" not in root or root["pid"] == proc.namespaces(os.getpid())["pid"]:
        return
    for pid in proc.members(root["pid"]):
        if pid not in tree:
            try:
                yield proc.process(pid)
            except ProcessLookupError:
                continue


def _one_for_each(namespaces: Mapping[int, Mapping[str, int]], kind: str) -> dict[int, int]:
    """The first process in each namespace of that kind, by the namespace's inode."""
    found: dict[int, int] = {}
    for pid, names in namespaces.items():
        if kind in names:
            found.setdefault(names[kind], pid)
    return found


def _sealed(mappings: Mapping[int, tuple[MappedFile, ...]]) -> Iterator[tuple[int, str]]:
    for pid, table in mappings.items():
        for mapping in table:
            memfd = mapping.path.startswith(MEMFD) and mapping.perms.endswith("s")
            if memfd and proc.write_sealed(pid, mapping):
                yield pid, mapping.range
