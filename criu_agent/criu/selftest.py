"""Does this CRIU dump and restore a process on this host? It is tried on a shell that waits in a read.

The shell has a network socket: since Linux 6.16 a CRIU before 4.2 can dump none.

A version number or `criu check` say what could work; this is what `doctor` believes.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from criu_agent.criu import command, explain
from criu_agent.errors import HostCannot
from criu_agent.linux import process

_SHELL = "n=20; echo ready; read -r more; echo $((n + more))"
_PATIENCE = 20.0  # seconds for each step; it takes milliseconds, but on a busy machine
_CRIU_LIMIT = 60.0  # seconds; a dump or restore of this size takes a tenth of one


def round_trip(criu: Path, directory: Path) -> None:
    """Dump a small process into the empty `directory`, restore it and see it go on with its memory.

    HostCannot with CRIU's own first error line when it does not. No process is left either way.
    """
    os.mkfifo(directory / "in")
    pid = _dump(criu, directory)
    _restore(criu, directory, pid)
    try:
        with _open(directory / "in") as fifo:
            fifo.write(b"22\n")
            _await(directory / "out", "42")
    finally:
        # It is our child until we wait for it, so the pid cannot be another's by now.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _dump(criu: Path, directory: Path) -> int:
    with (
        _open(directory / "in") as fifo,
        (directory / "out").open("wb") as out,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused,
    ):
        argv = ["sh", "-c", _SHELL]
        shell = process.spawn(argv, stdin=fifo, stdout=out, cwd=str(directory), pass_fds=[unused.fileno()])
    try:
        _await(directory / "out", "ready")
        argv = command.dump(  # the product's own: a CRIU that lacks one of its options is of no use
            criu,
            pid=shell.pid,
            images=directory,
            work=directory,
            log_file="dump.log",
            externals=[],
            stage_script=Path("/bin/true"),
            leave_running=False,
            network_lock="skip",
        )
        _run(argv, directory / "dump.log")
    finally:
        shell.kill()
        shell.wait()  # before it is reaped its pid is not free
    return shell.pid


def _open(fifo: Path) -> IO[bytes]:
    """Open it for both directions, so that no side blocks in open, nor ever reads an end of file."""
    return open(os.open(fifo, os.O_RDWR | os.O_CLOEXEC), "r+b", buffering=0)


def _restore(criu: Path, directory: Path, pid: int) -> None:
    argv = [str(criu), "restore"]
    argv += ["--images-dir", str(directory), "--log-file", "restore.log"]
    argv += ["--restore-detached", "--restore-sibling"]  # our child again, so that we reap it
    argv += ["--no-default-config", "--manage-cgroups=ignore", "--shell-job"]  # as at the dump
    _run(argv, directory / "restore.log")
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError as error:
        raise HostCannot("criu restore restored nothing", hint="run scripts/install-criu") from error


def _run(argv: list[str], log: Path) -> None:
    done = process.run(argv, timeout=_CRIU_LIMIT)
    if not done.ok:
        said = log.read_text(errors="replace") if log.exists() else done.stderr.decode(errors="replace")
        why = explain.first_error(said) or f"it ended with {done.code}"
        raise HostCannot(f"criu {argv[1]} failed: {why}", hint="run scripts/install-criu")


def _await(path: Path, text: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if text in path.read_text():
                return
        time.sleep(0.002)
    raise HostCannot(f"the process never wrote {text!r}", hint="run it again on a host with less load")
