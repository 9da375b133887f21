"""The system calls that Python's `os` does not have: one function each, named as its man page.

Every function raises OSError with the errno of the call. Sources: man 2 of each name, and the kernel's uapi
headers for the constants.
"""

import ctypes
import fcntl
import os
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)

# sched.h
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# sys/mount.h
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2

# linux/fs.h, linux/stat.h, linux/fcntl.h
RENAME_NOREPLACE = 0x1
RENAME_EXCHANGE = 0x2
STATX_BTIME = 0x800
STATX_MNT_ID = 0x1000
AT_NO_AUTOMOUNT = 0x800
AT_STATX_DONT_SYNC = 0x4000
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100

# linux/prctl.h, linux/seccomp.h, linux/filter.h
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

# asm-generic/ioctls.h
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431

SYS_CLONE = {"x86_64": 56, "aarch64": 220}
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def clone(flags: int) -> int:
    """Fork into new namespaces, all made at once: what unshare and fork cannot do for a user namespace.

    The pid of the child, 0 in the child. As after fork, but Python is not told: single-threaded callers only.
    """
    number = SYS_CLONE[os.uname().machine]
    words = [ctypes.c_long(word) for word in (flags | signal.SIGCHLD, 0, 0, 0, 0)]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    return _check(result, "clone")


def setns(fd: int, flags: int) -> None:
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """man 2 mount. The OSError names the target."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    _check(result, target)


def umount2(target: str, flags: int = 0) -> None:
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def pivot_root(new_root: str, put_old: str) -> None:
    number = SYS_PIVOT_ROOT[os.uname().machine]
    _check(
        _libc.syscall(ctypes.c_long(number), os.fsencode(new_root), os.fsencode(put_old)),
        f"pivot_root {new_root}",
    )


def renameat2(old_dir: int, old: str, new_dir: int, new: str, flags: int) -> None:
    """man 2 renameat2, names in directories that are given by descriptors. The OSError names the new one."""
    result = _libc.renameat2(
        ctypes.c_int(old_dir),
        os.fsencode(old),
        ctypes.c_int(new_dir),
        os.fsencode(new),
        ctypes.c_uint(flags),
    )
    _check(result, new)


def birth_time(path: str) -> int:
    """When the inode was made, in ns since 1970; 0 where its file system does not know. No link is followed."""
    facts = _statx(path, AT_SYMLINK_NOFOLLOW, STATX_BTIME)
    seconds, nanoseconds = struct.unpack_from("qI", facts, 80)
    return int(seconds * 1_000_000_000 + nanoseconds) if _has(facts, STATX_BTIME) else 0


def mount_id(path: str) -> int:
    """The number in mountinfo of the mount that the path lies on; 0 before Linux 5.8. No server is asked."""
    facts = _statx(path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_MNT_ID)
    (number,) = struct.unpack_from("Q", facts, 144)
    return int(number) if _has(facts, STATX_MNT_ID) else 0


def _statx(path: str, flags: int, mask: int) -> bytes:
    """The struct statx of man 2 statx."""
    buffer = ctypes.create_string_buffer(256)
    arguments = (ctypes.c_int(AT_FDCWD), os.fsencode(path), ctypes.c_int(flags), ctypes.c_uint(mask), buffer)
    _check(_libc.statx(*arguments), path)
    return buffer.raw


def _has(facts: bytes, field: int) -> bool:
    return bool(struct.unpack_from("I", facts, 0)[0] & field)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    words = [ctypes.c_ulong(word) for word in (arg2, arg3, arg4, arg5)]
    return _check(_libc.prctl(ctypes.c_int(option), *words), f"prctl {option}")


def seccomp_set_filter(program: bytes) -> None:
    """Install a classic BPF program of 8-byte instructions as a seccomp filter of this thread.

    Needs CAP_SYS_ADMIN or no_new_privs (man 2 seccomp).
    """
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: u16 number of instructions, padding, pointer
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(fprog))


def tee(source: int, target: int, length: int) -> int:
    """Copy up to `length` bytes from one pipe to another without taking them out; SPLICE_F_NONBLOCK."""
    _libc.tee.restype = ctypes.c_ssize_t
    nonblock = 0x02
    result: int = _libc.tee(
        ctypes.c_int(source), ctypes.c_int(target), ctypes.c_size_t(length), ctypes.c_uint(nonblock)
    )
    return _check(result, "tee")


def pty_number(master: int) -> int:
    """N of its slave, /dev/pts/N (man 3 ptsname, without the name of an instance of devpts)."""
    (number,) = struct.unpack("I", fcntl.ioctl(master, TIOCGPTN, bytes(4)))
    return int(number)


def unlock_pty(master: int) -> None:
    """Let its slave be opened (man 3 unlockpt)."""
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
