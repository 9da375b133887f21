from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMPTY: _ClassVar[Type]
    RESTORE: _ClassVar[Type]
    NOTIFY: _ClassVar[Type]

class CgroupMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IGNORE: _ClassVar[CgroupMode]

class NetworkLock(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IPTABLES: _ClassVar[NetworkLock]
    NFTABLES: _ClassVar[NetworkLock]
    SKIP: _ClassVar[NetworkLock]
EMPTY: Type
RESTORE: Type
NOTIFY: Type
IGNORE: CgroupMode
IPTABLES: NetworkLock
NFTABLES: NetworkLock
SKIP: NetworkLock

class InheritFd(_message.Message):
    __slots__ = ("key", "fd")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    key: str
    fd: int
    def __init__(self, key: _Optional[str] = ..., fd: _Optional[int] = ...) -> None: ...

class Options(_message.Message):
    __slots__ = ("images_dir_fd", "tcp_established", "shell_job", "file_locks", "log_level", "log_file", "notify_scripts", "root", "work_dir_fd", "link_remap", "rst_sibling", "inherit_fd", "manage_cgroups_mode", "ghost_limit", "external", "orphan_pts_master", "tcp_close", "network_lock")
    IMAGES_DIR_FD_FIELD_NUMBER: _ClassVar[int]
    TCP_ESTABLISHED_FIELD_NUMBER: _ClassVar[int]
    SHELL_JOB_FIELD_NUMBER: _ClassVar[int]
    FILE_LOCKS_FIELD_NUMBER: _ClassVar[int]
    LOG_LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOG_FILE_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_SCRIPTS_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    WORK_DIR_FD_FIELD_NUMBER: _ClassVar[int]
    LINK_REMAP_FIELD_NUMBER: _ClassVar[int]
    RST_SIBLING_FIELD_NUMBER: _ClassVar[int]
    INHERIT_FD_FIELD_NUMBER: _ClassVar[int]
    MANAGE_CGROUPS_MODE_FIELD_NUMBER: _ClassVar[int]
    GHOST_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    ORPHAN_PTS_MASTER_FIELD_NUMBER: _ClassVar[int]
    TCP_CLOSE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LOCK_FIELD_NUMBER: _ClassVar[int]
    images_dir_fd: int
    tcp_established: bool
    shell_job: bool
    file_locks: bool
    log_level: int
    log_file: str
    notify_scripts: bool
    root: str
    work_dir_fd: int
    link_remap: bool
    rst_sibling: bool
    inherit_fd: _containers.RepeatedCompositeFieldContainer[InheritFd]
    manage_cgroups_mode: CgroupMode
    ghost_limit: int
    external: _containers.RepeatedScalarFieldContainer[str]
    orphan_pts_master: bool
    tcp_close: bool
    network_lock: NetworkLock
    def __init__(self, images_dir_fd: _Optional[int] = ..., tcp_established: _Optional[bool] = ..., shell_job: _Optional[bool] = ..., file_locks: _Optional[bool] = ..., log_level: _Optional[int] = ..., log_file: _Optional[str] = ..., notify_scripts: _Optional[bool] = ..., root: _Optional[str] = ..., work_dir_fd: _Optional[int] = ..., link_remap: _Optional[bool] = ..., rst_sibling: _Optional[bool] = ..., inherit_fd: _Optional[_Iterable[_Union[InheritFd, _Mapping]]] = ..., manage_cgroups_mode: _Optional[_Union[CgroupMode, str]] = ..., ghost_limit: _Optional[int] = ..., external: _Optional[_Iterable[str]] = ..., orphan_pts_master: _Optional[bool] = ..., tcp_close: _Optional[bool] = ..., network_lock: _Optional[_Union[NetworkLock, str]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("type", "opts", "notify_success")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OPTS_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    type: Type
    opts: Options
    notify_success: bool
    def __init__(self, type: _Optional[_Union[Type, str]] = ..., opts: _Optional[_Union[Options, _Mapping]] = ..., notify_success: _Optional[bool] = ...) -> None: ...

class RestoreResult(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class Notification(_message.Message):
    __slots__ = ("script", "pid")
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    script: str
    pid: int
    def __init__(self, script: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("type", "success", "restore", "notify", "cr_errno", "cr_errmsg")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_FIELD_NUMBER: _ClassVar[int]
    CR_ERRNO_FIELD_NUMBER: _ClassVar[int]
    CR_ERRMSG_FIELD_NUMBER: _ClassVar[int]
    type: Type
    success: bool
    restore: RestoreResult
    notify: Notification
    cr_errno: int
    cr_errmsg: str
    def __init__(self, type: _Optional[_Union[Type, str]] = ..., success: _Optional[bool] = ..., restore: _Optional[_Union[RestoreResult, _Mapping]] = ..., notify: _Optional[_Union[Notification, _Mapping]] = ..., cr_errno: _Optional[int] = ..., cr_errmsg: _Optional[str] = ...) -> None: ...

class DumpStats(_message.Message):
    __slots__ = ("freezing_time", "frozen_time", "memdump_time", "memwrite_time")
    FREEZING_TIME_FIELD_NUMBER: _ClassVar[int]
    FROZEN_TIME_FIELD_NUMBER: _ClassVar[int]
    MEMDUMP_TIME_FIELD_NUMBER: _ClassVar[int]
    MEMWRITE_TIME_FIELD_NUMBER: _ClassVar[int]
    freezing_time: int
    frozen_time: int
    memdump_time: int
    memwrite_time: int
    def __init__(self, freezing_time: _Optional[int] = ..., frozen_time: _Optional[int] = ..., memdump_time: _Optional[int] = ..., memwrite_time: _Optional[int] = ...) -> None: ...

class Stats(_message.Message):
    __slots__ = ("dump",)
    DUMP_FIELD_NUMBER: _ClassVar[int]
    dump: DumpStats
    def __init__(self, dump: _Optional[_Union[DumpStats, _Mapping]] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("type", "id", "timer", "tty")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMER_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    type: int
    id: int
    timer: TimerFile
    tty: TtyFile
    def __init__(self, type: _Optional[int] = ..., id: _Optional[int] = ..., timer: _Optional[_Union[TimerFile, _Mapping]] = ..., tty: _Optional[_Union[TtyFile, _Mapping]] = ...) -> None: ...

class TimerFile(_message.Message):
    __slots__ = ("ticks", "value_s", "value_ns", "interval_s", "interval_ns")
    TICKS_FIELD_NUMBER: _ClassVar[int]
    VALUE_S_FIELD_NUMBER: _ClassVar[int]
    VALUE_NS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_NS_FIELD_NUMBER: _ClassVar[int]
    ticks: int
    value_s: int
    value_ns: int
    interval_s: int
    interval_ns: int
    def __init__(self, ticks: _Optional[int] = ..., value_s: _Optional[int] = ..., value_ns: _Optional[int] = ..., interval_s: _Optional[int] = ..., interval_ns: _Optional[int] = ...) -> None: ...

class TtyFile(_message.Message):
    __slots__ = ("id", "tty_info_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    TTY_INFO_ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    tty_info_id: int
    def __init__(self, id: _Optional[int] = ..., tty_info_id: _Optional[int] = ...) -> None: ...

class TtyInfo(_message.Message):
    __slots__ = ("id", "sid", "pgrp", "rdev", "pty")
    ID_FIELD_NUMBER: _ClassVar[int]
    SID_FIELD_NUMBER: _ClassVar[int]
    PGRP_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    PTY_FIELD_NUMBER: _ClassVar[int]
    id: int
    sid: int
    pgrp: int
    rdev: int
    pty: Pty
    def __init__(self, id: _Optional[int] = ..., sid: _Optional[int] = ..., pgrp: _Optional[int] = ..., rdev: _Optional[int] = ..., pty: _Optional[_Union[Pty, _Mapping]] = ...) -> None: ...

class Pty(_message.Message):
    __slots__ = ("index",)
    INDEX_FIELD_NUMBER: _ClassVar[int]
    index: int
    def __init__(self, index: _Optional[int] = ...) -> None: ...

class PstreeEntry(_message.Message):
    __slots__ = ("pid", "ppid", "pgid", "sid", "threads")
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    PGID_FIELD_NUMBER: _ClassVar[int]
    SID_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    ppid: int
    pgid: int
    sid: int
    threads: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pid: _Optional[int] = ..., ppid: _Optional[int] = ..., pgid: _Optional[int] = ..., sid: _Optional[int] = ..., threads: _Optional[_Iterable[int]] = ...) -> None: ...

class Core(_message.Message):
    __slots__ = ("x86", "task", "thread")
    X86_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    THREAD_FIELD_NUMBER: _ClassVar[int]
    x86: CoreX86
    task: CoreTask
    thread: CoreThread
    def __init__(self, x86: _Optional[_Union[CoreX86, _Mapping]] = ..., task: _Optional[_Union[CoreTask, _Mapping]] = ..., thread: _Optional[_Union[CoreThread, _Mapping]] = ...) -> None: ...

class CoreX86(_message.Message):
    __slots__ = ("floating_point",)
    FLOATING_POINT_FIELD_NUMBER: _ClassVar[int]
    floating_point: FloatingPoint
    def __init__(self, floating_point: _Optional[_Union[FloatingPoint, _Mapping]] = ...) -> None: ...

class FloatingPoint(_message.Message):
    __slots__ = ("xsave",)
    XSAVE_FIELD_NUMBER: _ClassVar[int]
    xsave: Xsave
    def __init__(self, xsave: _Optional[_Union[Xsave, _Mapping]] = ...) -> None: ...

class Xsave(_message.Message):
    __slots__ = ("in_use",)
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    in_use: int
    def __init__(self, in_use: _Optional[int] = ...) -> None: ...

class CoreTask(_message.Message):
    __slots__ = ("state", "comm")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMM_FIELD_NUMBER: _ClassVar[int]
    state: int
    comm: bytes
    def __init__(self, state: _Optional[int] = ..., comm: _Optional[bytes] = ...) -> None: ...

class CoreThread(_message.Message):
    __slots__ = ("credentials",)
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    credentials: Credentials
    def __init__(self, credentials: _Optional[_Union[Credentials, _Mapping]] = ...) -> None: ...

class Credentials(_message.Message):
    __slots__ = ("euid", "egid")
    EUID_FIELD_NUMBER: _ClassVar[int]
    EGID_FIELD_NUMBER: _ClassVar[int]
    euid: int
    egid: int
    def __init__(self, euid: _Optional[int] = ..., egid: _Optional[int] = ...) -> None: ...

class Ids(_message.Message):
    __slots__ = ("files_id",)
    FILES_ID_FIELD_NUMBER: _ClassVar[int]
    files_id: int
    def __init__(self, files_id: _Optional[int] = ...) -> None: ...

class FsEntry(_message.Message):
    __slots__ = ("cwd_id", "root_id")
    CWD_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    cwd_id: int
    root_id: int
    def __init__(self, cwd_id: _Optional[int] = ..., root_id: _Optional[int] = ...) -> None: ...

class FdEntry(_message.Message):
    __slots__ = ("id", "flags", "type", "fd")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    id: int
    flags: int
    type: int
    fd: int
    def __init__(self, id: _Optional[int] = ..., flags: _Optional[int] = ..., type: _Optional[int] = ..., fd: _Optional[int] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("start_code", "start_stack", "start_brk", "brk", "arg_start", "arg_end", "env_start", "env_end", "exe_id", "vmas")
    START_CODE_FIELD_NUMBER: _ClassVar[int]
    START_STACK_FIELD_NUMBER: _ClassVar[int]
    START_BRK_FIELD_NUMBER: _ClassVar[int]
    BRK_FIELD_NUMBER: _ClassVar[int]
    ARG_START_FIELD_NUMBER: _ClassVar[int]
    ARG_END_FIELD_NUMBER: _ClassVar[int]
    ENV_START_FIELD_NUMBER: _ClassVar[int]
    ENV_END_FIELD_NUMBER: _ClassVar[int]
    EXE_ID_FIELD_NUMBER: _ClassVar[int]
    VMAS_FIELD_NUMBER: _ClassVar[int]
    start_code: int
    start_stack: int
    start_brk: int
    brk: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    exe_id: int
    vmas: _containers.RepeatedCompositeFieldContainer[Vma]
    def __init__(self, start_code: _Optional[int] = ..., start_stack: _Optional[int] = ..., start_brk: _Optional[int] = ..., brk: _Optional[int] = ..., arg_start: _Optional[int] = ..., arg_end: _Optional[int] = ..., env_start: _Optional[int] = ..., env_end: _Optional[int] = ..., exe_id: _Optional[int] = ..., vmas: _Optional[_Iterable[_Union[Vma, _Mapping]]] = ...) -> None: ...

class Vma(_message.Message):
    __slots__ = ("start", "end", "offset", "object_id", "prot", "flags", "status")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PROT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    offset: int
    object_id: int
    prot: int
    flags: int
    status: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., offset: _Optional[int] = ..., object_id: _Optional[int] = ..., prot: _Optional[int] = ..., flags: _Optional[int] = ..., status: _Optional[int] = ...) -> None: ...

class PagemapHead(_message.Message):
    __slots__ = ("pages_id",)
    PAGES_ID_FIELD_NUMBER: _ClassVar[int]
    pages_id: int
    def __init__(self, pages_id: _Optional[int] = ...) -> None: ...

class PagemapEntry(_message.Message):
    __slots__ = ("vaddr", "compat_nr_pages", "in_parent", "flags", "nr_pages")
    VADDR_FIELD_NUMBER: _ClassVar[int]
    COMPAT_NR_PAGES_FIELD_NUMBER: _ClassVar[int]
    IN_PARENT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    NR_PAGES_FIELD_NUMBER: _ClassVar[int]
    vaddr: int
    compat_nr_pages: int
    in_parent: bool
    flags: int
    nr_pages: int
    def __init__(self, vaddr: _Optional[int] = ..., compat_nr_pages: _Optional[int] = ..., in_parent: _Optional[bool] = ..., flags: _Optional[int] = ..., nr_pages: _Optional[int] = ...) -> None: ...

class OpenFile(_message.Message):
    __slots__ = ("type", "id", "regular", "inet", "namespace", "packet", "netlink", "eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify", "unix", "fifo", "pipe", "terminal", "memory", "pidfd")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REGULAR_FIELD_NUMBER: _ClassVar[int]
    INET_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    NETLINK_FIELD_NUMBER: _ClassVar[int]
    EVENTFD_FIELD_NUMBER: _ClassVar[int]
    EVENTPOLL_FIELD_NUMBER: _ClassVar[int]
    SIGNALFD_FIELD_NUMBER: _ClassVar[int]
    TIMERFD_FIELD_NUMBER: _ClassVar[int]
    INOTIFY_FIELD_NUMBER: _ClassVar[int]
    FANOTIFY_FIELD_NUMBER: _ClassVar[int]
    UNIX_FIELD_NUMBER: _ClassVar[int]
    FIFO_FIELD_NUMBER: _ClassVar[int]
    PIPE_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PIDFD_FIELD_NUMBER: _ClassVar[int]
    type: int
    id: int
    regular: RegularFile
    inet: InetSocket
    namespace: NamespaceFile
    packet: PacketSocket
    netlink: NetlinkSocket
    eventfd: AnonymousFile
    eventpoll: AnonymousFile
    signalfd: AnonymousFile
    timerfd: AnonymousFile
    inotify: AnonymousFile
    fanotify: AnonymousFile
    unix: UnixSocket
    fifo: FifoFile
    pipe: PipeFile
    terminal: TerminalFile
    memory: MemoryFile
    pidfd: PidFile
    def __init__(self, type: _Optional[int] = ..., id: _Optional[int] = ..., regular: _Optional[_Union[RegularFile, _Mapping]] = ..., inet: _Optional[_Union[InetSocket, _Mapping]] = ..., namespace: _Optional[_Union[NamespaceFile, _Mapping]] = ..., packet: _Optional[_Union[PacketSocket, _Mapping]] = ..., netlink: _Optional[_Union[NetlinkSocket, _Mapping]] = ..., eventfd: _Optional[_Union[AnonymousFile, _Mapping]] = ..., eventpoll: _Optional[_Union[AnonymousFile, _Mapping]] = ..., signalfd: _Optional[_Union[AnonymousFile, _Mapping]] = ..., timerfd: _Optional[_Union[AnonymousFile, _Mapping]] = ..., inotify: _Optional[_Union[AnonymousFile, _Mapping]] = ..., fanotify: _Optional[_Union[AnonymousFile, _Mapping]] = ..., unix: _Optional[_Union[UnixSocket, _Mapping]] = ..., fifo: _Optional[_Union[FifoFile, _Mapping]] = ..., pipe: _Optional[_Union[PipeFile, _Mapping]] = ..., terminal: _Optional[_Union[TerminalFile, _Mapping]] = ..., memory: _Optional[_Union[MemoryFile, _Mapping]] = ..., pidfd: _Optional[_Union[PidFile, _Mapping]] = ...) -> None: ...

class RegularFile(_message.Message):
    __slots__ = ("flags", "position", "name", "mode")
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    flags: int
    position: int
    name: bytes
    mode: int
    def __init__(self, flags: _Optional[int] = ..., position: _Optional[int] = ..., name: _Optional[bytes] = ..., mode: _Optional[int] = ...) -> None: ...

class InetSocket(_message.Message):
    __slots__ = ("inode", "family", "type", "protocol", "state", "local_port", "remote_port", "flags", "local", "remote")
    INODE_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PORT_FIELD_NUMBER: _ClassVar[int]
    REMOTE_PORT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    inode: int
    family: int
    type: int
    protocol: int
    state: int
    local_port: int
    remote_port: int
    flags: int
    local: _containers.RepeatedScalarFieldContainer[int]
    remote: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, inode: _Optional[int] = ..., family: _Optional[int] = ..., type: _Optional[int] = ..., protocol: _Optional[int] = ..., state: _Optional[int] = ..., local_port: _Optional[int] = ..., remote_port: _Optional[int] = ..., flags: _Optional[int] = ..., local: _Optional[_Iterable[int]] = ..., remote: _Optional[_Iterable[int]] = ...) -> None: ...

class NamespaceFile(_message.Message):
    __slots__ = ("clone_flag", "flags")
    CLONE_FLAG_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    clone_flag: int
    flags: int
    def __init__(self, clone_flag: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class PacketSocket(_message.Message):
    __slots__ = ("protocol", "flags")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    flags: int
    def __init__(self, protocol: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class NetlinkSocket(_message.Message):
    __slots__ = ("inode", "protocol", "state", "flags", "port")
    INODE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    inode: int
    protocol: int
    state: int
    flags: int
    port: int
    def __init__(self, inode: _Optional[int] = ..., protocol: _Optional[int] = ..., state: _Optional[int] = ..., flags: _Optional[int] = ..., port: _Optional[int] = ...) -> None: ...

class AnonymousFile(_message.Message):
    __slots__ = ("flags",)
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    flags: int
    def __init__(self, flags: _Optional[int] = ...) -> None: ...

class UnixSocket(_message.Message):
    __slots__ = ("inode", "type", "state", "flags", "peer", "name")
    INODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    inode: int
    type: int
    state: int
    flags: int
    peer: int
    name: bytes
    def __init__(self, inode: _Optional[int] = ..., type: _Optional[int] = ..., state: _Optional[int] = ..., flags: _Optional[int] = ..., peer: _Optional[int] = ..., name: _Optional[bytes] = ...) -> None: ...

class FifoFile(_message.Message):
    __slots__ = ("pipe_id", "file_id")
    PIPE_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    pipe_id: int
    file_id: int
    def __init__(self, pipe_id: _Optional[int] = ..., file_id: _Optional[int] = ...) -> None: ...

class PipeFile(_message.Message):
    __slots__ = ("pipe_id", "flags")
    PIPE_ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    pipe_id: int
    flags: int
    def __init__(self, pipe_id: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class TerminalFile(_message.Message):
    __slots__ = ("info_id", "flags")
    INFO_ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    info_id: int
    flags: int
    def __init__(self, info_id: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class MemoryFile(_message.Message):
    __slots__ = ("flags", "position", "inode_id")
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    flags: int
    position: int
    inode_id: int
    def __init__(self, flags: _Optional[int] = ..., position: _Optional[int] = ..., inode_id: _Optional[int] = ...) -> None: ...

class PidFile(_message.Message):
    __slots__ = ("flags", "pid")
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    flags: int
    pid: int
    def __init__(self, flags: _Optional[int] = ..., pid: _Optional[int] = ...) -> None: ...

class MemoryInode(_message.Message):
    __slots__ = ("name", "inode_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INODE_ID_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    inode_id: int
    def __init__(self, name: _Optional[bytes] = ..., inode_id: _Optional[int] = ...) -> None: ...

class Remap(_message.Message):
    __slots__ = ("file_id",)
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    file_id: int
    def __init__(self, file_id: _Optional[int] = ...) -> None: ...

class MountPoint(_message.Message):
    __slots__ = ("deleted", "ext_key")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    EXT_KEY_FIELD_NUMBER: _ClassVar[int]
    deleted: bool
    ext_key: str
    def __init__(self, deleted: _Optional[bool] = ..., ext_key: _Optional[str] = ...) -> None: ...
