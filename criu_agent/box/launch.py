"""Start a command in a new box: from fork to exec of PID 1.

The caller must be single-threaded here and in a mount namespace of its own. PID 1 is dumb-init; it is our direct
child, so that waitpid gives the true status. Order matters:

1. unshare(CLONE_NEWPID), fork, and setns back: a direct child that is PID 1, while later children
   (criu, hooks) stay in the host's pid namespace;
2. in the child: cgroup, the other namespaces, mounts, pivot_root;
3. setsid only now: a session leader from outside the pid namespace cannot be dumped;
4. the terminal is opened inside, since outside its mount would not be found by a dump (lab/criu.md sections 2 and
   12), and by the command alone, as the leader of a session of its own: CRIU asks the first process that has it open
   for its session, so PID 1 must not have it, and gives it back to a session leader only. With tini, which leaves the
   command in PID 1's session, a restored shell had no job control;
5. seccomp last but exec, since it would be in the way of none of the above but is inherited from here on;
6. PID 1 is the command's user, too: no process of such a run is more than that, but for what programs with a
   set-user-ID bit do.
"""

import array
import errno
import fcntl
import json
import os
import pwd
import signal
import socket
import stat
import struct
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from criu_agent.box import mounts, seccomp, tools
from criu_agent.box.cgroup import Cgroup
from criu_agent.box.layout import Layout
from criu_agent.errors import Failure, ToolFailed, by_code
from criu_agent.linux import syscalls

_NAMESPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
# The command's own: a session leader that opens a terminal gets it as its controlling one (man 4 tty).
_ON_CONSOLE = ("-c", 'exec "$@" 0<>/dev/pts/0 1>&0 2>&0', "sh")
_TTY_GROUP = 5  # Debian's group tty, as in the devpts mount options


@dataclass(frozen=True, kw_only=True)
class Command:
    """What runs in the box. user is "uid:gid"; stdio are the child's ends of three pipes, None for a terminal.
    no_new_privs as in prctl(2).

    A standard input of -1 means /dev/null. window is (rows, columns) of the terminal at the start.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: str
    user: str
    stdio: tuple[int, int, int] | None
    window: tuple[int, int] = (24, 80)
    no_new_privs: bool = False


@dataclass(frozen=True, kw_only=True)
class Started:
    """root_pid is PID 1 of the box as the host sees it; master the pty's master, or None with pipes."""

    root_pid: int
    master: int | None


def start(layout: Layout, command: Command, cgroup: Cgroup, mount_point: Path) -> Started:
    """Start the command; returns when it has been executed.

    CommandNotFound, NotExecutable or ToolFailed when it cannot be, and nothing is left then.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        fork = _fork_into_user_namespace if layout.user_namespace else _fork
        with fork(layout, mount_point) as pid:
            if pid == 0:
                ours.close()  # else the child would not see the end of the channel when we are gone
                _child(layout, command, mount_point, theirs)  # never returns
            theirs.close()
            cgroup.add(pid)
            ours.send(b"go")
            return _await_exec(ours, pid)


@contextmanager
def _fork(_layout: Layout, _mount_point: Path) -> Iterator[int]:
    """A direct child that is PID 1 of a new pid namespace; our later children stay in ours."""
    own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid:
            syscalls.setns(own_pid_namespace, syscalls.CLONE_NEWPID)
        yield pid
    finally:
        os.close(own_pid_namespace)


@contextmanager
def _fork_into_user_namespace(layout: Layout, mount_point: Path) -> Iterator[int]:
    """The same in a new user namespace, where users have the numbers that they have on the host.

    CRIU needs all namespaces to belong to the user namespace, so they are made at once; and the kernel refuses the
    overlay's options inside, so it is mounted before (lab/criu.md section 13).
    """
    mounts.mount_root(layout, mount_point)
    try:
        everything = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID | _NAMESPACES
        pid = syscalls.clone(everything)
        if pid:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text("0 0 65536\n")
        yield pid
    finally:
        mounts.unmount_root(layout, mount_point)


def _await_exec(channel: socket.socket, pid: int) -> Started:
    """Read what the child reports: the pty's master, an error, or the end of the channel, which exec closes."""
    master: int | None = None
    while True:
        data, ancillary, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(4))
        if not data:
            return Started(root_pid=pid, master=master)
        report = json.loads(data)
        for _, _, raw in ancillary:
            master = array.array("i", raw)[0]
        if "message" in report:
            os.waitpid(pid, 0)
            if master is not None:
                os.close(master)
            raise by_code(report["code"])(report["message"], hint=report["hint"])


def _child(layout: Layout, command: Command, mount_point: Path, channel: socket.socket) -> None:
    """The child's whole life before exec. Whatever goes wrong is reported, and ends it with _exit."""
    try:
        if not channel.recv(16):  # go: we are in our cgroup, and have the user ids of the namespace
            os._exit(ToolFailed.exit_code)
        _enter(layout, command, mount_point)
        _attach_stdio(command, channel)
        executable_check(command)
        _become_init(command)
    except Failure as error:
        _report(channel, {"message": error.message, "hint": error.hint, "code": error.exit_code})
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        text = f"cannot set up the box: {error.strerror}{where}"
        _report(channel, {"message": text, "hint": "criu-agent doctor", "code": ToolFailed.exit_code})
    except Exception as error:  # noqa: BLE001 - without a word the parent would take our end for the exec
        text = f"internal error: {error!r}"
        _report(channel, {"message": text, "hint": "please report it", "code": ToolFailed.exit_code})
    finally:
        os._exit(ToolFailed.exit_code)


def _report(channel: socket.socket, report: Mapping[str, object]) -> None:
    channel.send(json.dumps(report).encode())


def _enter(layout: Layout, command: Command, mount_point: Path) -> None:
    umask = os.umask(0o022)  # what we make is for every user of the box, also where root's umask is 077
    if layout.user_namespace:
        # What came from outside is locked: only a mount of our own can become the root.
        syscalls.mount(str(mount_point), str(mount_point), "", syscalls.MS_BIND | syscalls.MS_REC)
    else:
        syscalls.unshare(_NAMESPACES)
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        mounts.mount_root(layout, mount_point)
    mounts.mount_inside(mount_point, layout, int(command.user.partition(":")[0]))
    mounts.pivot(mount_point)
    os.umask(umask)
    os.setsid()
    try:
        os.chdir(command.workdir)
    except OSError as error:
        raise ToolFailed(
            f"cannot change to the working directory {command.workdir}: {error.strerror}",
            hint="name one that exists with --workdir",
        ) from error


def _attach_stdio(command: Command, channel: socket.socket) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for number, fd in enumerate(command.stdio or (null, null, null)):
        os.dup2(null if fd < 0 else fd, number)
    if command.stdio is None:
        open_pty(command, channel)
    # exec closes the channel: that is how the parent learns that it came so far.
    keep = channel.fileno()
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 20)


def open_pty(command: Command, channel: socket.socket) -> str:
    """Make a pty on the box's devpts and send its master away; the path of its slave."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    syscalls.unlock_pty(master)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *command.window, 0, 0))
    slave = f"/dev/pts/{syscalls.pty_number(master)}"
    os.chown(slave, int(command.user.partition(":")[0]), _TTY_GROUP)
    socket.send_fds(channel, [b"{}"], [master])
    return slave


def executable_check(command: Command) -> None:
    """Say it before the box runs if the command cannot be executed, as a shell would: 127 or 126."""
    name = command.argv[0]
    if "/" in name:
        candidates = [name]
    else:
        search = command.env.get("PATH", os.defpath)
        candidates = [f"{directory or '.'}/{name}" for directory in search.split(":") if name]
    found = [path for path in candidates if _exists(path)]
    if not found:
        raise by_code(127)(f"{name}: command not found", hint="is it on PATH, and not below /tmp or /run?")
    executable = [path for path in found if _is_executable(path)]
    if not executable:
        raise by_code(126)(f"{found[0]} cannot be executed", hint=f"chmod +x {found[0]}")
    interpreter = _interpreter(executable[0])
    if interpreter and not _exists(interpreter):
        raise by_code(127)(
            f"{executable[0]}: its interpreter {interpreter} was not found",
            hint=f"see the first line of {executable[0]}",
        )


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.EACCES
    return True


def _is_executable(path: str) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)


def _become_init(command: Command) -> None:
    restore_signals()
    syscalls.seccomp_set_filter(seccomp.program(os.uname().machine))
    command_line = command.argv if command.stdio else (*tools.argv(tools.SHELL), *_ON_CONSOLE, *command.argv)
    argv = as_user(command, (*tools.argv(mounts.INIT), "--", *command_line))
    os.execve(argv[0], argv, dict(command.env))  # noqa: S606 - that is what it is for


def _interpreter(path: str) -> str:
    """The interpreter that the first line of a script names; "" for what is no script."""
    with open(path, "rb") as file:
        start = file.read(256)
    if not start.startswith(b"#!"):
        return ""
    words = start[2:].split(b"\n")[0].split()
    return os.fsdecode(words[0]) if words else ""


def restore_signals() -> None:
    """As a shell would start it: Python ignores SIGPIPE, and an ignored signal stays ignored across exec."""
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def as_user(command: Command, argv: Sequence[str]) -> list[str]:
    """argv, run with the user and groups of the command and no more privileges than they give."""
    uid, _, gid = command.user.partition(":")
    options = ["--no-new-privs"] if command.no_new_privs else []
    if (uid, gid) != ("0", "0"):
        options += [f"--reuid={uid}", f"--regid={gid}", _groups(int(uid)), "--inh-caps=-all"]
    return [*tools.argv(tools.SETPRIV), *options, "--", *argv] if options else list(argv)


def _groups(uid: int) -> str:
    try:
        pwd.getpwuid(uid)
    except KeyError:  # a number without a name has no groups either
        return "--clear-groups"
    return "--init-groups"
