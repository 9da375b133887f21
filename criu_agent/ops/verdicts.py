"""What becomes of one descriptor or mapping at a checkpoint: pure functions from facts to a verdict.

What CRIU 4.1 refuses was read in its source (files.c, files-reg.c, sk-*.c, pidfd.c, proc_parse.c, memfd.c) and
tried, see tests/root/test_plan_on_host.py.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from criu_agent.criu.command import GHOST_LIMIT
from criu_agent.linux.proc import Fd, MappedFile
from criu_agent.linux.sockets import InetSocket, UnixSocket
from criu_agent.model import Action
from criu_agent.ops.facts import MEMFD, Facts


@dataclass(frozen=True, kw_only=True)
class Verdict:
    action: Action
    reason: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Plugs:
    """What the run plugs in again at a restore: CRIU's external keys ("mnt[/sys]"), and pipes by inode.

    written: what is written through to the host, mount point to what it is.
    """

    externals: frozenset[str] = frozenset()
    pipes: frozenset[int] = frozenset()
    written: Mapping[str, str] = field(default_factory=dict)


def keep(reason: str) -> Verdict:
    return Verdict(action="keep", reason=reason)


def refuse(reason: str, fix: str) -> Verdict:
    return Verdict(action="refuse", reason=reason, fix=fix)


_ANON_KEPT = {
    "[eventfd]": "its counter is kept",
    "[eventpoll]": "it watches the same descriptors again",
    "[signalfd]": "its mask is kept",
    "[timerfd]": "its timer goes on",
    "inotify": "it watches the same files again; events not yet read are dropped",
    "[fanotify]": "it watches the same files again; events not yet read are dropped",
}
_IN_A_RUN = "start the program with criu-agent run, where the kernel answers that it has none"
_ANON_FIX = {
    "[io_uring]": f"{_IN_A_RUN}, or set UV_USE_IO_URING=0 for Node",
    "[landlock-ruleset]": f"{_IN_A_RUN}: after a restore the restriction would be gone",
    "[perf_event]": "end the profiler that has it open",
    "[userfaultfd]": "end the program that has it open; a browser or JVM may have an option for it",
    "bpf-map": "end the tracer that has it open",
    "bpf-prog": "end the tracer that has it open",
}
_SOCKETS = frozenset({"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PACKET"})
_SOCKET_FIX = {
    "MPTCP": f"{_IN_A_RUN}, or set GODEBUG=multipathtcp=0 for Go",
    "MPTCPv6": f"{_IN_A_RUN}, or set GODEBUG=multipathtcp=0 for Go",
    "AF_VSOCK": "close the vsock connection, or use TCP",
    "PING": "end the ping",
    "PINGv6": "end the ping",
}
# "major:minor" of the device nodes that a box has
_DEVICES = frozenset({"1:3", "1:5", "1:7", "1:8", "1:9", "1:11", "5:0", "5:2"})
_TUN = "10:200"
_DEVICE_MEMORY_KEPT = ("/dev/zero", "/dev/shm/", "/dev/hugepages/")  # noqa: S108 - compared, not used
_PTY_MASTERS = range(128, 136)
_PTY_SLAVES = range(136, 144)
_PIDFD_THREAD = os.O_EXCL
_NAMESPACE_FILE = re.compile(r"[a-z_]+:\[\d+\]$")


def of_fd(fd: Fd, facts: Facts, plugs: Plugs) -> Verdict:
    if stat.S_ISSOCK(fd.mode):
        return _socket(fd, facts, plugs)
    if stat.S_ISFIFO(fd.mode):
        return _pipe(fd, facts, plugs)
    if stat.S_ISCHR(fd.mode):
        return _device(fd, facts)
    if fd.target.startswith("anon_inode:"):
        return _anonymous(fd, facts)
    return _file(fd, facts, plugs)


def _anonymous(fd: Fd, facts: Facts) -> Verdict:
    kind = fd.target.removeprefix("anon_inode:")
    if kind == "[pidfd]":
        return _pidfd(fd, facts)
    if kind in _ANON_KEPT:
        return keep(_ANON_KEPT[kind])
    return refuse("CRIU cannot dump it", _ANON_FIX.get(kind, "close it, or end the program that has it open"))


def _pidfd(fd: Fd, facts: Facts) -> Verdict:
    pid = int(fd.detail("Pid") or -1)
    if fd.flags & _PIDFD_THREAD:
        return refuse("CRIU cannot dump the pidfd of a thread", "close it")
    if pid > 0 and pid not in facts.pids:
        return refuse(f"it is for process {pid}, which is outside of the tree", "close it")
    return keep("it stays on the same process")


def _device(fd: Fd, facts: Facts) -> Verdict:
    major, minor = os.major(fd.rdev), os.minor(fd.rdev)
    if fd.mnt_id not in facts.mount_ids:
        return _leaked()
    if major in _PTY_SLAVES:
        number = (major - _PTY_SLAVES.start) * 256 + minor
        inside = number in facts.pty_masters
        return keep("its master is in the tree" if inside else "the console: the terminal is given a new master")
    if f"{major}:{minor}" == _TUN and facts.own_network:
        return keep("the network device comes back with the run's network")
    if major in _PTY_MASTERS or f"{major}:{minor}" in _DEVICES:
        return keep("opened again")
    return refuse("CRIU cannot dump a device of this kind", "close it before the checkpoint")


def _leaked() -> Verdict:
    return refuse(
        "it was opened outside of the run and leaked into it", "start the program with that descriptor closed"
    )


def _file(fd: Fd, facts: Facts, plugs: Plugs) -> Verdict:
    if f"file[{fd.mnt_id:x}:{fd.inode:x}]" in plugs.externals:
        return Verdict(action="re-plug", reason="the run opens it again")
    if fd.target.startswith(MEMFD):
        return keep("its content goes into the image")
    if _NAMESPACE_FILE.match(fd.target):
        return keep("a namespace of the tree")
    if fd.target.startswith("/secretmem"):
        return refuse("CRIU cannot read secret memory (memfd_secret)", "end the program that has it open")
    if not fd.target.startswith("/"):
        return refuse("CRIU cannot dump a file of this kind", "close it before the checkpoint")
    if fd.mnt_id not in facts.mount_ids:
        return _leaked()
    if fd.deleted and fd.links == 0:
        return _deleted(fd)
    lock = fd.detail("lock")
    if lock is not None and "POSIX" in lock and fd.target in facts.shared_files:
        # CRIU takes the locks first and maps the files then, by descriptors that it closes again; and a process that
        # closes any descriptor of a file loses its locks on it (man 2 fcntl). Met with SQLite's write-ahead log.
        reason = "opened again at its offset; it is mapped too, and a restore loses the lock that is held on it"
        return Verdict(action="reset", reason=reason)
    return keep(f"opened again at its offset{', with its lock' if lock is not None else ''}")


def _deleted(fd: Fd) -> Verdict:
    if fd.size > GHOST_LIMIT:
        return refuse(
            f"it is deleted, and its {fd.size} bytes are more than the limit of {GHOST_LIMIT}",
            "give the file a name, or close it",
        )
    return keep("deleted: its content goes into the image")


def _pipe(fd: Fd, facts: Facts, plugs: Plugs) -> Verdict:
    if fd.inode in plugs.pipes:
        return Verdict(action="re-plug", reason="the supervisor has the other end")
    if fd.flags & os.O_DIRECT:
        return refuse("CRIU cannot dump a pipe in packet mode (O_DIRECT)", "close it before the checkpoint")
    if {(fd.target, os.O_RDONLY), (fd.target, os.O_WRONLY)} <= facts.pipe_ends:
        return keep("both ends are in the tree; what is in it is kept")
    outside = facts.outside(fd.target)
    if outside:
        return Verdict(action="close", reason=f"its other end is with {outside}: a restore finds it closed")
    return keep("its other end is closed already")


def _socket(fd: Fd, facts: Facts, plugs: Plugs) -> Verdict:
    if fd.protocol in ("UNIX", "UNIX-STREAM"):
        return _unix(fd, facts, plugs)
    if fd.protocol == "NETLINK":
        if facts.netlink_unread.get(fd.inode, 0):
            return refuse("CRIU cannot dump a netlink socket with unread messages", "try again in a moment")
        return keep("bound again")
    if fd.protocol not in _SOCKETS:
        return refuse(
            f"CRIU cannot dump {fd.protocol or 'unknown'} sockets", _SOCKET_FIX.get(fd.protocol, "close it")
        )
    one = facts.inet.get(fd.inode)
    return of_connection(one, facts) if one else keep("opened again")


def of_connection(one: InetSocket, facts: Facts) -> Verdict:
    """The verdict on a TCP or UDP socket with an address."""
    if one.protocol == "udp":
        lost = f"; {one.receive_queue} bytes not yet read are lost" if one.receive_queue else ""
        return keep(f"bound again{lost}")
    if one.state == "listen":
        lost = f"; {one.receive_queue} connections not yet accepted are reset" if one.receive_queue else ""
        return keep(f"listens again{lost}")
    if one.state == "close":
        return keep("bound again")
    if facts.network_of_others:
        # man 7 tcp, TCP_REPAIR: CAP_NET_ADMIN in the user namespace that the network belongs to.
        return Verdict(action="reset", reason="a run in a user namespace of its own cannot take it up again")
    if facts.internal(one):
        return keep("both ends are in the tree; what is in flight is kept")
    return keep("kept when restored on this host from the newest snapshot")


def _unix(fd: Fd, facts: Facts, plugs: Plugs) -> Verdict:
    one = facts.unix.get(fd.inode)
    if f"unix[{fd.inode}]" in plugs.externals:
        return Verdict(action="re-plug", reason="the run connects it again")
    if one is None:
        return keep("it appeared while the plan was made")
    if one.state == "listen":
        return keep("listens again")
    if one.peer in facts.socket_inodes:
        return keep("both ends are in the tree; what is in flight is kept")
    if one.peer:
        return _unix_to(facts.outside(f"socket:[{one.peer}]"))
    if one.peer == 0 and one.type != "dgram" and one.shutdown != 3:
        return _unix_pending(one, facts)
    return keep("not connected" if one.peer is None else "its other end is closed already")


def _unix_to(outside: str) -> Verdict:
    # Nobody holds the other end: it is on its way through a socket (SCM_RIGHTS), which CRIU follows.
    if not outside:
        return keep("its other end is in flight between processes of the tree")
    return refuse(
        f"it is connected to {outside} outside of the run",
        "end that connection, or start that program in the run too",
    )


def _unix_pending(one: UnixSocket, facts: Facts) -> Verdict:
    if one.inode not in facts.pending_clients:
        return refuse("it waits for a program outside of the run to accept it", "end that connection")
    if one.send_queue:
        return refuse("it has sent before it was accepted, and CRIU cannot keep that", "try again in a moment")
    return keep("it waits again to be accepted")


def of_mapping(pid: int, mapping: MappedFile, facts: Facts) -> Verdict | None:
    """The verdict on a mapped file that CRIU cannot carry; None for all others, which are kept."""
    if mapping.path.startswith(("anon_inode:", "/secretmem")):
        return refuse("CRIU cannot dump memory of this kind", "end the program, or have it unmap it")
    if mapping.path.startswith("/dev/") and not mapping.path.startswith(_DEVICE_MEMORY_KEPT):
        return refuse("CRIU cannot dump the memory of a device", "end the program that uses it")
    if (pid, mapping.range) in facts.sealed:
        # The dump passes, but the restore maps first and seals then, which the kernel does not allow.
        return refuse(
            "it is mapped and sealed against writing: the restore would fail", "unmap it, or end the program"
        )
    return None
