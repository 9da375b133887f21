"""One restore: a request to `criu swrk`, whose stages arrive as synchronous notifications.

By RPC, since only there are orphan_pts_master, which hands us the master of the restored terminal, and
rst_sibling, which makes the restored root our child (lab/criu.md sections 8, 9 and 12).
"""

import array
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from criu_agent import log
from criu_agent.criu import command, explain, messages_pb2
from criu_agent.errors import Failure, HostCannot, Timeout
from criu_agent.linux import process

_LOG_FILE = "criu-restore.log"
_LOG_LEVEL = 4  # names the address of a port that is taken


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is restored, and onto what. inherit maps CRIU's key of a descriptor to ours.

    limit: seconds until a restore that does not end is given up; a truncated image loops for ever.
    """

    criu: Path
    images: Path
    work: Path
    root: Path
    externals: Sequence[str]
    inherit: Sequence[tuple[str, int]]
    keep_connections: bool
    network_lock: command.NetworkLock
    limit: float


@dataclass(kw_only=True)
class Restored:
    """The restored tree: its root as a pid of the host, and the masters of its terminals by pty number order.

    While it is built, what is there so far: root_pid is 0 until there is one.
    """

    root_pid: int = 0
    masters: list[int] = field(default_factory=list)


def restore(
    request: Request,
    *,
    place: Callable[[int], None],
    kill: Callable[[], None],
    at_stage: Callable[[str, Restored], None],
) -> Restored:
    """Restore the tree; returns when it runs.

    place(pid) moves CRIU, and so everything that it makes, into the run's cgroup before it does anything.
    kill() ends everything in there.
    at_stage(name, restored) is called at every stage of CRIU, with what there is so far; the tree does not run
    before `pre-resume` has returned, and never if it raises: CRIU itself goes on whatever `pre-resume` says, and
    what it holds would run when it is killed, so the tree ends before CRIU is let go of.
    """
    with ExitStack() as undo:
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(channel.close)
        undo.callback(theirs.close)
        images_fd, work_fd = (_open_directory(path, undo) for path in (request.images, request.work))
        (request.work / _LOG_FILE).unlink(missing_ok=True)
        keep = [theirs.fileno(), images_fd, work_fd, *(fd for _, fd in request.inherit)]
        try:
            # Without groups: CRIU leaves its own to a process that had none (restore_creds in criu/pie/restorer.c).
            criu = process.spawn([str(request.criu), "swrk", str(theirs.fileno())], pass_fds=keep, groups=[])
        except OSError as error:
            raise HostCannot(
                f"cannot run {request.criu}: {error.strerror}", hint="install it with scripts/install-criu"
            ) from error
        theirs.close()
        undo.callback(_reap, criu)
        place(criu.pid)
        _send(request, channel, _message(request, images_fd, work_fd))
        try:
            return _serve(request, channel, at_stage)
        except BaseException:
            kill()
            raise


def _serve(request: Request, channel: socket.socket, at_stage: Callable[[str, Restored], None]) -> Restored:
    """Answer notifications until the result comes."""
    restored = Restored()
    deadline = time.monotonic() + request.limit
    while True:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data, ancillary, _, _ = channel.recvmsg(1 << 20, socket.CMSG_SPACE(64))
        except TimeoutError as error:
            raise Timeout(
                f"the restore did not end within {request.limit:.0f} s",
                hint=f"see {request.work / _LOG_FILE}; another snapshot may work",
            ) from error
        except ConnectionError as error:
            raise _failure(request) from error
        if not data:
            raise _failure(request)
        for _, _, raw in ancillary:
            restored.masters += array.array("i", raw[: len(raw) - len(raw) % 4])
        response = messages_pb2.Response.FromString(data)
        if response.type == messages_pb2.NOTIFY:
            log.debug("restore stage %s", response.notify.script)
            restored.root_pid = response.notify.pid or restored.root_pid
            began = time.monotonic()
            at_stage(response.notify.script, restored)
            deadline += time.monotonic() - began  # CRIU waited for us meanwhile
            _send(request, channel, messages_pb2.Request(type=messages_pb2.NOTIFY, notify_success=True))
        elif response.success:
            restored.root_pid = response.restore.pid
            return restored
        else:
            raise _failure(request)


def _send(request: Request, channel: socket.socket, message: messages_pb2.Request) -> None:
    try:
        channel.send(message.SerializeToString())
    except ConnectionError as error:  # CRIU has ended
        raise _failure(request) from error


def _message(request: Request, images_fd: int, work_fd: int) -> messages_pb2.Request:
    lock = messages_pb2.NFTABLES if request.network_lock == "nftables" else messages_pb2.SKIP
    options = messages_pb2.Options(
        images_dir_fd=images_fd,
        work_dir_fd=work_fd,
        log_file=_LOG_FILE,
        log_level=_LOG_LEVEL,
        root=str(request.root),
        external=list(request.externals),
        inherit_fd=[messages_pb2.InheritFd(key=key, fd=fd) for key, fd in request.inherit],
        manage_cgroups_mode=messages_pb2.IGNORE,
        notify_scripts=True,
        rst_sibling=True,
        orphan_pts_master=True,
        file_locks=True,
        link_remap=True,
        ghost_limit=command.GHOST_LIMIT,
        network_lock=lock,
    )
    if request.keep_connections:
        options.tcp_established = True
    else:
        options.tcp_close = True
    return messages_pb2.Request(type=messages_pb2.RESTORE, opts=options)


def _open_directory(path: Path, undo: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    undo.callback(os.close, fd)
    return fd


def _reap(criu: "process.Process[bytes]") -> None:
    """CRIU ends by itself when it is done; one that failed or hangs has died with the cgroup, before this."""
    try:
        criu.wait(timeout=5)
    except process.TimeoutExpired:
        criu.kill()  # a restore may be killed: the tree that it builds has not run yet
        criu.wait()


def _failure(request: Request) -> Failure:
    path = request.work / _LOG_FILE
    text = path.read_text(errors="replace") if path.exists() else ""
    return explain.as_failure(explain.explain(text, verb="restore"), agent_state="not running")
