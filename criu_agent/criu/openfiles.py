"""The open files of all processes, from the image files.img: by CRIU's id, in words that a person knows them by."""

import socket
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from criu_agent.criu import messages_pb2 as pb
from criu_agent.criu.description import Endpoints, OpenFile
from criu_agent.criu.imagefile import Images, messages, wrong
from criu_agent.linux.sockets import STATES

_IMAGE = "files.img"
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
_ANONYMOUS = ("eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify")
_EXTERNAL = 16  # fd_types.EXT: a file of a plugin of CRIU's
_TYPES = {1: "stream", 2: "dgram", 3: "raw", 5: "seqpacket"}
_PROTOCOLS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp6", 136: "udplite"}
_NAMESPACES = {  # include/uapi/linux/sched.h
    0x00020000: "mnt",
    0x00000080: "time",
    0x02000000: "cgroup",
    0x04000000: "uts",
    0x08000000: "ipc",
    0x10000000: "user",
    0x20000000: "pid",
    0x40000000: "net",
}
_MASTER_MAJORS = range(128, 136)  # Unix98 pty masters (Documentation/admin-guide/devices.txt)


def text(data: bytes) -> str:
    """A name of the operating system, which may be any bytes."""
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """What the entries of files.img refer to, by CRIU's ids; unix sockets by inode."""

    entries: Mapping[int, pb.OpenFile]
    terminals: Mapping[int, pb.TtyInfo]
    memory: Mapping[int, str]
    unix: Mapping[int, pb.UnixSocket]


def read(images: Images) -> Mapping[int, OpenFile]:
    """Every open file by its id, also those that are no descriptor: programs, working directories, mapped files."""
    entries = {entry.id: entry for entry in messages(images, _IMAGE, pb.OpenFile)}
    infos = messages(images, "tty-info.img", pb.TtyInfo) if "tty-info.img" in images.sizes else ()
    inodes = messages(images, "memfd.img", pb.MemoryInode) if "memfd.img" in images.sizes else ()
    remaps = messages(images, "remap-fpath.img", pb.Remap) if "remap-fpath.img" in images.sizes else ()
    tables = _Tables(
        entries=entries,
        terminals={info.id: info for info in infos},
        memory={inode.inode_id: text(inode.name) for inode in inodes},
        unix={entry.unix.inode: entry.unix for entry in entries.values() if entry.HasField("unix")},
    )
    files = {number: _open_file(entry, tables) for number, entry in entries.items()}
    for number in {remap.file_id for remap in remaps} & files.keys():
        files[number] = replace(files[number], name=f"{files[number].name} (deleted)")
    return files


def _open_file(entry: pb.OpenFile, tables: _Tables) -> OpenFile:
    which = next((name for name in _READERS if entry.HasField(name)), None)
    if which is None:
        return OpenFile(kind="external" if entry.type == _EXTERNAL else f"type {entry.type}", name="")
    return _READERS[which](getattr(entry, which), tables)


def _regular(entry: pb.RegularFile, _tables: _Tables) -> OpenFile:
    kind = _KINDS.get(stat.S_IFMT(entry.mode), "file")
    offset = entry.position if kind in ("file", "block") else None
    return OpenFile(kind=kind, name=text(entry.name), flags=entry.flags, offset=offset)


def _inet(entry: pb.InetSocket, _tables: _Tables) -> OpenFile:
    protocol = _PROTOCOLS.get(entry.protocol, f"inet protocol {entry.protocol}")
    return _socket(
        entry,
        Endpoints(
            protocol=protocol,
            state=STATES.get(entry.state, str(entry.state)),
            local=_address(entry.local, entry.local_port),
            remote=_address(entry.remote, entry.remote_port),
        ),
    )


def _unix(entry: pb.UnixSocket, tables: _Tables) -> OpenFile:
    peer = tables.unix.get(entry.peer)
    return _socket(
        entry,
        Endpoints(
            protocol=f"unix {_TYPES.get(entry.type, entry.type)}",
            state=STATES.get(entry.state, str(entry.state)),
            local=_unix_name(entry.name),
            remote=_unix_name(peer.name) if peer else "",
            peer=entry.peer,
        ),
    )


def _netlink(entry: pb.NetlinkSocket, _tables: _Tables) -> OpenFile:
    local = str(entry.port) if entry.port else ""
    state = STATES.get(entry.state, str(entry.state))
    return _socket(entry, Endpoints(protocol=f"netlink {entry.protocol}", state=state, local=local, remote=""))


def _packet(entry: pb.PacketSocket, _tables: _Tables) -> OpenFile:
    endpoints = Endpoints(protocol=f"packet {entry.protocol:#x}", state="", local="", remote="")
    return OpenFile(kind="socket", name="", flags=entry.flags, endpoints=endpoints)


def _socket(entry: pb.InetSocket | pb.UnixSocket | pb.NetlinkSocket, endpoints: Endpoints) -> OpenFile:
    return OpenFile(kind="socket", name="", flags=entry.flags, inode=entry.inode, endpoints=endpoints)


def _pipe(entry: pb.PipeFile, _tables: _Tables) -> OpenFile:
    return OpenFile(kind="pipe", name="", flags=entry.flags, inode=entry.pipe_id)


def _fifo(entry: pb.FifoFile, tables: _Tables) -> OpenFile:
    if entry.file_id not in tables.entries:
        raise wrong(_IMAGE, f"has a fifo of the file {entry.file_id}, which is missing")
    return replace(_regular(tables.entries[entry.file_id].regular, tables), kind="fifo", offset=None)


def _terminal(entry: pb.TerminalFile, tables: _Tables) -> OpenFile:
    info = tables.terminals.get(entry.info_id)
    if info is None:
        raise wrong(_IMAGE, f"has the terminal {entry.info_id}, which is missing")
    major, minor = (info.rdev >> 8) & 0xFFF, info.rdev & 0xFF | (info.rdev >> 12) & 0xFFF00  # new_encode_dev()
    name = f"{major}:{minor}"
    if info.HasField("pty"):
        name = f"/dev/ptmx of {info.pty.index}" if major in _MASTER_MAJORS else f"/dev/pts/{info.pty.index}"
    return OpenFile(kind="terminal", name=name, flags=entry.flags)


def _memory(entry: pb.MemoryFile, tables: _Tables) -> OpenFile:
    name = tables.memory.get(entry.inode_id)
    if name is None:
        raise wrong(_IMAGE, f"has the memory file {entry.inode_id}, which is missing")
    # CRIU takes what is mapped shared and anonymous for a memfd of this name, which the kernel gives it.
    shown = name if name == "/dev/zero" else f"/memfd:{name}"
    return OpenFile(kind="memfd", name=shown, flags=entry.flags, offset=entry.position)


def _namespace(entry: pb.NamespaceFile, _tables: _Tables) -> OpenFile:
    name = _NAMESPACES.get(entry.clone_flag, f"{entry.clone_flag:#x}")
    return OpenFile(kind="namespace", name=name, flags=entry.flags)


def _pidfd(entry: pb.PidFile, _tables: _Tables) -> OpenFile:
    return OpenFile(kind="pidfd", name=f"process {entry.pid}", flags=entry.flags)


def _anonymous(kind: str, entry: pb.AnonymousFile, _tables: _Tables) -> OpenFile:
    return OpenFile(kind=kind, name="", flags=entry.flags)


# By the field of the message that says what it is; a fifo has two entries, and this one is found by its id.
_READERS: Mapping[str, Callable[[Any, _Tables], OpenFile]] = {
    "regular": _regular,
    "inet": _inet,
    "unix": _unix,
    "netlink": _netlink,
    "packet": _packet,
    "pipe": _pipe,
    "fifo": _fifo,
    "terminal": _terminal,
    "memory": _memory,
    "namespace": _namespace,
    "pidfd": _pidfd,
    **{kind: partial(_anonymous, kind) for kind in _ANONYMOUS},
}


def _address(words: Sequence[int], port: int) -> str:
    """ "127.0.0.1:80", "[::1]:80", or "" without a port; an IPv4 address of an IPv6 socket is given as IPv4."""
    if not port:
        return ""
    raw = struct.pack(f"<{len(words)}I", *words)
    if raw.startswith(bytes(10) + b"\xff\xff"):
        raw = raw[12:]
    if len(raw) not in (4, 16):
        raise wrong(_IMAGE, f"has an address of {len(raw)} bytes")
    if len(raw) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, raw)}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]:{port}"


def _unix_name(name: bytes) -> str:
    return "@" + text(name[1:]) if name.startswith(b"\0") else text(name.rstrip(b"\0"))
