"""The seccomp filter of the box: what CRIU cannot carry is answered as if the kernel did not have it.

Programs fall back by themselves then (libuv without io_uring, Go without MPTCP), where the real thing would
make every checkpoint fail, or, for Landlock, would be gone after a restore without a word
(lab/criu.md section 6). CRIU dumps and restores the filter itself.
"""

import errno
import struct

# linux/bpf_common.h, linux/filter.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# linux/seccomp.h: struct seccomp_data and the return values
_DATA_NR = 0
_DATA_ARG2 = 32
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000

IPPROTO_MPTCP = 262
# System calls since Linux 5.1 have one number on every architecture (asm-generic/unistd.h).
IO_URING_SETUP = 425
LANDLOCK = (444, 445, 446)  # create_ruleset, add_rule, restrict_self
SOCKET = {"x86_64": 41, "aarch64": 198}


def program(machine: str) -> bytes:
    """The filter as BPF instructions of 8 bytes for `uname -m`; KeyError for a machine that we do not know.

    Numbers are compared without the architecture word: io_uring and Landlock have the same numbers everywhere,
    and the 32-bit call with the number of the 64-bit socket() (dup's) has a third argument of 262 only by accident.
    """
    no_such_call = _ret(_RET_ERRNO | errno.ENOSYS)
    unavailable = [IO_URING_SETUP, *LANDLOCK]
    code = [_load(_DATA_NR)]
    for number in unavailable:
        code += [_skip_unless_equal(number, 1), no_such_call]
    code += [
        _skip_unless_equal(SOCKET[machine], 3),
        _load(_DATA_ARG2),
        _skip_unless_equal(IPPROTO_MPTCP, 1),
        _ret(_RET_ERRNO | errno.ENOPROTOOPT),  # what a kernel with net.mptcp.enabled=0 says
        _ret(_RET_ALLOW),
    ]
    return b"".join(code)


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", _LOAD, 0, 0, offset)


def _skip_unless_equal(value: int, count: int) -> bytes:
    return struct.pack("HBBI", _JUMP_EQUAL, 0, count, value)


def _ret(value: int) -> bytes:
    return struct.pack("HBBI", _RETURN, 0, 0, value)
