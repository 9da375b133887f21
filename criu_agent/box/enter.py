"""Run one more command in a box that is there: `python -m criu_agent.box.enter FD`, for `criu-agent exec`.

A process of its own, since entering a mount namespace is for single-threaded processes and for good. It reads its
orders from the socket FD (one JSON document), enters, opens a terminal in the box if one is wanted and sends its
master back, forks the command, and ends with its status. The command is a guest: no descendant of the box's
PID 1, so that CRIU does not dump it.
"""

import array
import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from criu_agent.box.cgroup import Cgroup
from criu_agent.box.launch import Command, as_user, executable_check, open_pty, restore_signals
from criu_agent.errors import Failure, ToolFailed
from criu_agent.linux import process, syscalls

_PATIENCE = 10.0  # seconds for what takes a tenth of one: the supervisor's loop waits meanwhile
_NAMESPACES = {
    "user": syscalls.CLONE_NEWUSER,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "net": syscalls.CLONE_NEWNET,
    "pid": syscalls.CLONE_NEWPID,
    "time": syscalls.CLONE_NEWTIME,  # CRIU makes one, so that the clocks of a restored run go on
    "mnt": syscalls.CLONE_NEWNS,
}


def spawn(*, root_pid: int, cgroup: Cgroup, command: Command) -> tuple["process.Process[bytes]", int | None]:
    """Start the command beside the box's PID 1; the process to wait for, and the terminal's master if it has one.

    The process ends with the command's status, 128+N for a signal, or 125 to 127 when it could not be run
    (the reason is on its standard error, or on the terminal).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders = {
        "root_pid": root_pid,
        "cgroup": str(cgroup.path),
        "argv": command.argv,
        "env": dict(command.env),
        "workdir": command.workdir,
        "user": command.user,
        "no_new_privs": command.no_new_privs,
        "terminal": command.stdio is None,
        "window": command.window,
    }
    with ours, theirs:
        argv = [sys.executable, "-P", "-m", "criu_agent.box.enter", str(theirs.fileno())]
        stdin, stdout, stderr = command.stdio or (process.DEVNULL,) * 3
        guest = process.spawn(
            argv,
            stdin=process.DEVNULL if stdin < 0 else stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        ours.settimeout(_PATIENCE)
        try:
            ours.send(json.dumps(orders).encode())
            return guest, None if command.stdio is not None else _receive_master(ours)
        except BaseException as error:
            guest.kill()
            guest.wait()
            if isinstance(error, OSError):
                raise ToolFailed(f"cannot start the command in the box: {error.strerror or error}") from error
            raise


def _receive_master(channel: socket.socket) -> int:
    data, ancillary, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(4))
    if not ancillary:
        raise ToolFailed(data.decode() or "the command could not be started in the box")
    return int(array.array("i", ancillary[0][2])[0])


def main() -> NoReturn:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    orders = json.loads(channel.recv(1 << 20))
    command = Command(
        argv=tuple(orders["argv"]),
        env=orders["env"],
        workdir=orders["workdir"],
        user=orders["user"],
        stdio=None if orders["terminal"] else (0, 1, 2),
        window=tuple(orders["window"]),
        no_new_privs=orders["no_new_privs"],
    )
    try:
        _enter(orders)
        os._exit(_run(command, channel))
    except OSError as error:
        message = f"cannot enter the box: {error.strerror}"
        with suppress(OSError):
            channel.send(message.encode())
        os._exit(ToolFailed.exit_code)


def _enter(orders: Mapping[str, Any]) -> None:
    Cgroup(Path(orders["cgroup"])).add(0)
    root = f"/proc/{orders['root_pid']}/ns"
    there = set(os.listdir(root))  # a kernel may have no time namespaces
    fds = {name: os.open(f"{root}/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES if name in there}
    for name, fd in fds.items():
        if not Path(f"/proc/self/ns/{name}").samefile(f"{root}/{name}"):  # one's own user namespace is refused
            syscalls.setns(fd, _NAMESPACES[name])
    os.chdir("/")


def _run(command: Command, channel: socket.socket) -> int:
    pid = os.fork()  # the child is the first of us in the box's pid namespace
    if pid == 0:
        _child(command, channel)
    channel.close()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _child(command: Command, channel: socket.socket) -> NoReturn:
    code = ToolFailed.exit_code
    try:
        os.setsid()
        if command.stdio is None:
            slave = os.open(open_pty(command, channel), os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(slave, number)
        os.chdir(command.workdir)
        executable_check(command)
        restore_signals()
        argv = as_user(command, command.argv)
        os.execvpe(argv[0], argv, dict(command.env))  # noqa: S606 - that is what it is for
    except Failure as error:
        code = error.exit_code
        os.write(2, f"criu-agent: {error.message}\n".encode())
    except OSError as error:
        os.write(2, f"criu-agent: cannot run {command.argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
