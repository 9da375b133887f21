"""The verdict of the seccomp filter, by a small interpreter of its BPF, and once by the kernel."""

import errno
import os
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.box import seccomp

ALLOW = 0x7FFF0000
NO_SUCH_CALL = 0x00050000 | errno.ENOSYS
NO_SUCH_PROTOCOL = 0x00050000 | errno.ENOPROTOOPT
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MPTCP = 262
machines = pytest.mark.parametrize("machine", ARCHES)


def verdict(machine: str, number: int, *arguments: int) -> int:
    """Run the filter over struct seccomp_data (man 2 seccomp)."""
    words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=iIQ6Q", number, ARCHES[machine], 0x400000, *words)
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    accumulator = 0
    at = 0
    while True:
        operation, if_true, if_false, constant = code[at]  # an end without a verdict is an IndexError
        at += 1
        if operation == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif operation == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += if_true if accumulator == constant else if_false
        elif operation == 0x06:  # BPF_RET | BPF_K
            return int(constant)
        else:
            raise AssertionError(f"{operation:#x} is not expected in this program")


@machines
@pytest.mark.parametrize("number", [425, 444, 445, 446])
def test_io_uring_and_landlock_are_as_if_the_kernel_had_none(machine: str, number: int) -> None:
    assert verdict(machine, number) == NO_SUCH_CALL
    assert verdict(machine, number, 1, 2, MPTCP) == NO_SUCH_CALL


@machines
def test_of_all_sockets_only_mptcp_is_refused(machine: str) -> None:
    socket = {"x86_64": 41, "aarch64": 198}[machine]
    for domain in (1, 2, 10, 16, 17):
        assert verdict(machine, socket, domain, 1, MPTCP) == NO_SUCH_PROTOCOL
        for protocol in (0, 1, 6, 17, 132, 261, 263):
            assert verdict(machine, socket, domain, 1, protocol) == ALLOW


@machines
def test_every_other_call_passes(machine: str) -> None:
    ours = {425, 444, 445, 446, seccomp.SOCKET[machine]}
    verdicts = {verdict(machine, number, 1, 2, MPTCP) for number in range(1000) if number not in ours}
    assert verdicts == {ALLOW}


@given(st.sampled_from(sorted(ARCHES)), st.integers(-1, 2**31 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_every_call_has_one_of_three_verdicts(machine: str, number: int, arguments: list[int]) -> None:
    assert verdict(machine, number, *arguments) in (ALLOW, NO_SUCH_CALL, NO_SUCH_PROTOCOL)


@machines
def test_every_way_through_the_program_ends(machine: str) -> None:
    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    assert code[-1][0] == 0x06
    for at, (operation, if_true, if_false, _) in enumerate(code):
        if operation == 0x15:
            assert at + 1 + max(if_true, if_false) < len(code)


def test_a_machine_that_nobody_tried_is_an_error() -> None:
    with pytest.raises(KeyError):
        seccomp.program("riscv64")


CHILD = """
import ctypes, os, socket
from criu_agent.box import seccomp
from criu_agent.linux import syscalls
syscalls.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
syscalls.seccomp_set_filter(seccomp.program(os.uname().machine))
libc = ctypes.CDLL(None, use_errno=True)
found = []
for number in (425, 444):
    found.append((libc.syscall(number, 0, 0, 0), ctypes.get_errno()))
try:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
except OSError as error:
    found.append((-1, error.errno))
socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
os.read(os.pipe()[0], 0)
print(found)
"""


def test_the_kernel_takes_the_program_and_agrees() -> None:
    if os.uname().machine not in ARCHES:
        pytest.skip(f"there is no filter for {os.uname().machine}")
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)
    assert done.stdout == f"{[(-1, errno.ENOSYS)] * 2 + [(-1, errno.ENOPROTOOPT)]}\n", done.stderr
