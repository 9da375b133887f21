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
