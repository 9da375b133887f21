"""ssh to another host: one fixed command there, what it says line by line, and how it ended.

Nobody is asked anything, no unknown host is trusted, nothing is forwarded. What the command is given on its command
line can be read by everybody there: no secret is ever among it.
"""

import os
import re
import select
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from criu_agent import config as configuration
from criu_agent.errors import Failure, HostCannot, Usage
from criu_agent.linux import process

OWN_FAILURE = 255  # ssh's exit status for what is not the command's
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,15})?")
_PROGRAM = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.+-]{0,254}")
_FILE = re.compile(r"/[A-Za-z0-9_/.,+@:=-]{1,1023}")  # ssh splits at blanks, and expands % and ~
_CONNECT = 10  # seconds for the connection
_ALIVE = 5  # seconds; a host that says nothing for three times as long is taken for gone
_LONGEST = 8 << 20  # bytes of standard output that are read; what we ask for is thousands at most
_KEPT = 64 << 10  # bytes of standard error that are kept
_TICK = 0.1  # seconds until a wish to stop is noticed
_LAST = 2.0  # seconds that ssh is given to end


class Unreachable(Failure):
    """ssh could not connect, or the connection broke: what the command did, if anything, is not known."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where, as whom, and what criu-agent is called there. "" and None: what ssh itself would take."""

    host: str
    user: str = ""
    port: int | None = None
    identity: str = ""
    known_hosts: str = ""
    program: str = "criu-agent"
    sudo: bool = False


def destination(
    where: str,
    *,
    port: int | None = None,
    identity: str = "",
    known_hosts: str = "",
    program: str = "criu-agent",
    sudo: bool = False,
) -> Destination:
    """From [user@]host and options. Usage for anything that ssh or a shell could take for something else."""
    user, at, host = where.rpartition("@")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if at and not _USER.fullmatch(user):
        raise Usage(f"{user!r} is not the name of a user", hint="give the target as user@host")
    if not _HOST.fullmatch(host):
        raise Usage(f"{host!r} is not the name of a host", hint="give the target as user@host")
    if not _PROGRAM.fullmatch(program):
        raise Usage(f"{program!r} is not a program", hint="give --remote-program a name or a path without blanks")
    for option, path in (("--identity", identity), ("--known-hosts", known_hosts)):
        if path and not (_FILE.fullmatch(path) and os.path.isfile(path)):  # noqa: PTH113 - a str that ssh gets
            raise Usage(f"{path!r} cannot be used as {option}", hint="give the path of a file, without blanks")
    return Destination(
        host=host, user=user, port=port, identity=identity, known_hosts=known_hosts, program=program, sudo=sudo
    )


def argv(to: Destination, command: Sequence[str]) -> list[str]:
    """The ssh command that runs criu-agent with those arguments there."""
    words = ["ssh", "-T"]  # no terminal there: what it says must come as it is
    words += ["-o", "BatchMode=yes"]  # nobody is there to be asked
    words += ["-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"]
    words += ["-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "ClearAllForwardings=yes"]
    words += ["-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none"]
    words += ["-o", "ControlMaster=no", "-o", "ControlPath=none"]  # a shared connection dies with its owner
    words += ["-o", f"ConnectTimeout={_CONNECT}", "-o", "ConnectionAttempts=1"]
    words += ["-o", f"ServerAliveInterval={_ALIVE}", "-o", "ServerAliveCountMax=3", "-o", "TCPKeepAlive=yes"]
    words += ["-o", "LogLevel=ERROR"]
    if to.port:
        words += ["-p", str(to.port)]
    if to.identity:
        words += ["-i", to.identity, "-o", "IdentitiesOnly=yes"]
    if to.known_hosts:
        words += ["-o", f"UserKnownHostsFile={to.known_hosts}", "-o", "GlobalKnownHostsFile=none"]
    if to.user:
        words += ["-l", to.user]
    sudo = ["sudo", "-n", "--"] if to.sudo else []
    # One word: ssh would join several with blanks, and the shell there take them apart again.
    return [*words, "--", to.host, shlex.join([*sudo, to.program, *command])]


class Conversation:
    """A command that runs there; with its end the connection is gone, and whatever of it still waits for our word.

    check() is called all the time while we wait: what it raises ends the waiting.
    """

    def __init__(self, to: Destination, command: Sequence[str], *, check: Callable[[], None]) -> None:
        self._check = check
        # A session of its own: Ctrl-C is for us, who know what is to be undone.
        pipe = process.PIPE
        try:
            self._ssh = process.spawn(
                argv(to, command),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=configuration.environment(),  # of the agent, and what it asks passwords with
                new_session=True,
            )
        except FileNotFoundError as error:
            raise HostCannot("there is no ssh on this host", hint="apt-get install openssh-client") from error
        self._out, self._err = bytearray(), bytearray()
        self._open: set[IO[bytes]] = {pipe for pipe in (self._ssh.stdout, self._ssh.stderr) if pipe is not None}

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._ssh.poll() is None:
                self._ssh.send_signal(number)
                try:
                    self._ssh.wait(timeout=_LAST)
                except process.TimeoutExpired:
                    continue
        for pipe in (self._ssh.stdin, self._ssh.stdout, self._ssh.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # it has something for ssh that it never took
                    continue

    def say(self, line: bytes) -> None:
        """Give it a line on standard input. Unreachable if the connection has gone."""
        try:
            if self._ssh.stdin is not None:
                self._ssh.stdin.write(line)
                self._ssh.stdin.flush()
        except BrokenPipeError as error:
            raise Unreachable("the connection was lost") from error

    def line(self, *, limit: float | None = None) -> bytes:
        """The next line that it prints; b"" when there are no more. TimeoutError after `limit` seconds."""
        deadline = None if limit is None else time.monotonic() + limit
        while b"\n" not in self._out and self._ssh.stdout in self._open:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {limit:g} s")
            self._read()
        end = self._out.find(b"\n") + 1 or len(self._out)
        line = bytes(self._out[:end])
        del self._out[:end]
        return line

    def finish(self) -> process.Completed:
        """Wait for its end; the rest of what it printed."""
        while self._open:
            self._read()
        while self._ssh.poll() is None:
            self._check()
            time.sleep(_TICK / 10)
        return process.Completed(
            argv=tuple(self._ssh.args),  # type: ignore[arg-type]  # the list that it was made with
            code=self._ssh.returncode,
            stdout=bytes(self._out),
            stderr=bytes(self._err),
        )

    def _read(self) -> None:
        self._check()
        ready, _, _ = select.select(list(self._open), [], [], _TICK)
        for pipe in ready:
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                self._open.discard(pipe)
            elif pipe is self._ssh.stdout:
                self._out += data
                if len(self._out) > _LONGEST:
                    raise Failure("the other host says more than it was asked for", hint="is it a criu-agent there?")
            else:
                self._err = (self._err + data)[-_KEPT:]


def unreachable(to: Destination, done: process.Completed) -> Unreachable:
    """The error for what ssh could not do, in its own last words."""
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    reason = said[-1] if said else f"ssh ended with status {done.code}"
    hint = f"try: ssh {shlex.quote(f'{to.user}@{to.host}' if to.user else to.host)} true"
    if "Host key verification failed" in reason:
        changed = any("has changed" in line or "IDENTIFICATION HAS CHANGED" in line for line in said)
        reason = f"{'another' if changed else 'an unknown'} host key ({reason.rstrip('.').lower()})"
        hint = "compare its key with the one that you know, and put it into known_hosts, or give --known-hosts"
    return Unreachable(f"cannot reach {to.host}: {reason}", hint=hint)
