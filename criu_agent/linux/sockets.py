"""The sockets of a network namespace, asked for through one of the processes in it.

TCP, UDP and netlink come from /proc/PID/net, which shows the process's namespace without entering it. Who a
unix socket is connected to is only told by sock_diag (man 7 sock_diag), over a netlink socket made inside the
namespace. That is done by hand here: importing pyroute2 takes 0.12 s, more than the rest of a plan.
"""

import os
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from criu_agent.linux import syscalls

# include/net/tcp_states.h; unix sockets use the same numbers
STATES = {
    0x01: "established",
    0x02: "syn-sent",
    0x03: "syn-recv",
    0x04: "fin-wait-1",
    0x05: "fin-wait-2",
    0x06: "time-wait",
    0x07: "close",
    0x08: "close-wait",
    0x09: "last-ack",
    0x0A: "listen",
    0x0B: "closing",
    0x0C: "new-syn-recv",
}

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_UDIAG_SHOW_NAME_PEER_ICONS_RQLEN = 0x01 | 0x04 | 0x08 | 0x10
_UNIX_DIAG_NAME = 0
_UNIX_DIAG_PEER = 2
_UNIX_DIAG_ICONS = 3
_UNIX_DIAG_RQLEN = 4
_UNIX_DIAG_SHUTDOWN = 6
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBHIII8s")  # struct unix_diag_req
_MESSAGE = struct.Struct("=BBBBI8s")  # struct unix_diag_msg
_TYPES = {1: "stream", 2: "dgram", 5: "seqpacket"}


@dataclass(frozen=True, kw_only=True)
class InetSocket:
    """A TCP or UDP socket that has an address: "1.2.3.4:80" or "[::1]:80"; remote is "" without a peer.

    An IPv4 address of an IPv6 socket is given as IPv4. Queues are bytes, but the receive queue of a listening
    socket is the number of connections that wait to be accepted.
    """

    protocol: Literal["tcp", "udp"]
    local: str
    remote: str
    state: str
    inode: int
    receive_queue: int
    send_queue: int


@dataclass(frozen=True, kw_only=True)
class UnixSocket:
    """A unix socket. peer is the inode that it is connected to, 0 if that has no descriptor (yet), None without.

    pending are the inodes of clients that wait to be accepted; bits of shutdown: 1 reading, 2 writing has ended.
    """

    inode: int
    type: str
    state: str
    name: str  # a path, "@abstract", or ""
    peer: int | None
    pending: tuple[int, ...]
    shutdown: int
    send_queue: int


def tcp(pid: int, *, inodes: Collection[int] | None = None) -> list[InetSocket]:
    """TCP sockets of the process's network namespace, or those of them with these inodes."""
    return [*_inet(pid, "tcp", "tcp", inodes), *_inet(pid, "tcp6", "tcp", inodes)]


def udp(pid: int, *, inodes: Collection[int] | None = None) -> list[InetSocket]:
    """UDP sockets, as `tcp`. An unconnected one has the state "close"."""
    return [*_inet(pid, "udp", "udp", inodes), *_inet(pid, "udp6", "udp", inodes)]


def _inet(
    pid: int, table: str, protocol: Literal["tcp", "udp"], inodes: Collection[int] | None
) -> Iterator[InetSocket]:
    for line in _table(pid, table):
        _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
        # 0 is a connection without a descriptor, such as one in TIME_WAIT.
        if inode == "0" or (inodes is not None and int(inode) not in inodes):
            continue
        send, _, receive = queues.partition(":")
        yield InetSocket(
            protocol=protocol,
            local=_address(local),
            remote="" if remote.endswith(":0000") else _address(remote),
            state=STATES[int(state, 16)],
            inode=int(inode),
            receive_queue=int(receive, 16),
            send_queue=int(send, 16),
        )


def _table(pid: int, name: str) -> list[str]:
    """The lines of /proc/PID/net/NAME but for its head; none when the process is gone or there is no IPv6."""
    try:
        with open(f"/proc/{pid}/net/{name}", encoding="ascii", errors="replace") as file:
            return file.read().splitlines()[1:]
    except OSError:
        return []


def _address(text: str) -> str:
    """ "0100007F:0050" is 127.0.0.1:80: words of 32 bits in the byte order of the host, a port in hex."""
    words, _, port = text.partition(":")
    raw = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    if raw.startswith(bytes(10) + b"\xff\xff"):
        raw = raw[12:]
    if len(raw) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, raw)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]:{int(port, 16)}"


def netlink_unread(pid: int) -> dict[int, int]:
    """Bytes in the receive queue of each netlink socket of the process's network namespace, by inode."""
    fields = (line.split() for line in _table(pid, "netlink"))
    return {int(field[9]): int(field[4]) for field in fields}


def unix_peers(pid: int) -> dict[int, UnixSocket]:
    """All unix sockets of the process's network namespace by inode; none when the process is gone."""
    try:
        with _diag_socket(pid) as diag:
            body = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_NAME_PEER_ICONS_RQLEN, b"\xff" * 8)
            head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
            diag.send(head + body)
            return {one.inode: one for one in map(_unix, _messages(diag))}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def _diag_socket(pid: int) -> socket.socket:
    """A sock_diag socket inside the network namespace of the process.

    A socket stays where it was made, so this thread is in that namespace for the time of one call only.
    """
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.sameopenfile(theirs, ours):
            return _open_diag()
        syscalls.setns(theirs, syscalls.CLONE_NEWNET)
        try:
            return _open_diag()
        finally:
            syscalls.setns(ours, syscalls.CLONE_NEWNET)
    finally:
        os.close(theirs)
        os.close(ours)


def _open_diag() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)


def _messages(diag: socket.socket) -> Iterator[bytes]:
    """The bodies of the answers until the kernel says that it is done; OSError with the errno it gives."""
    while True:
        data = diag.recv(1 << 17)
        at = 0
        while at < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            body = data[at + _HEADER.size : at + length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", body)
                raise OSError(-code, os.strerror(-code), "sock_diag")
            yield body
            at += _aligned(length)


def _unix(body: bytes) -> UnixSocket:
    _, kind, state, _, inode, _ = _MESSAGE.unpack_from(body)
    attributes = dict(_attributes(body[_MESSAGE.size :]))
    peer = attributes.get(_UNIX_DIAG_PEER)
    icons = attributes.get(_UNIX_DIAG_ICONS, b"")
    name = os.fsdecode(attributes.get(_UNIX_DIAG_NAME, b""))
    return UnixSocket(
        inode=inode,
        type=_TYPES.get(kind, str(kind)),
        state=STATES.get(state, str(state)),
        name="@" + name[1:] if name.startswith("\0") else name,
        peer=struct.unpack("=I", peer)[0] if peer else None,
        pending=struct.unpack(f"={len(icons) // 4}I", icons),
        shutdown=attributes.get(_UNIX_DIAG_SHUTDOWN, b"\0")[0],
        send_queue=struct.unpack("=II", attributes.get(_UNIX_DIAG_RQLEN, bytes(8)))[1],
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind, data[at + 4 : at + length]
        at += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
