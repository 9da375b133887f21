"""Start processes. The only module that may: every argv is logged, no shell is ever involved."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from criu_agent import config, log

DEVNULL = subprocess.DEVNULL
PIPE = subprocess.PIPE
Process = subprocess.Popen
TimeoutExpired = subprocess.TimeoutExpired


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a process ended. code is its exit status, or minus the signal that ended it."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        return self.code == 0


def run(
    argv: Sequence[str],
    *,
    input: bytes = b"",
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Completed:
    """Run argv to its end and collect what it said. timeout in seconds; TimeoutError when it is over.

    Without env it has of ours what a tool needs (config.tool_environment). A program that is not installed raises
    FileNotFoundError, as exec does.
    """
    log.debug("+ %s", " ".join(argv))
    try:
        done = subprocess.run(
            list(argv), input=input, capture_output=True, timeout=timeout, env=_or_tools(env), cwd=cwd, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]} took longer than {timeout:g} s") from error
    return Completed(argv=tuple(argv), code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[Any] | None = DEVNULL,
    stdout: int | IO[Any] | None = DEVNULL,
    stderr: int | IO[Any] | None = DEVNULL,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    new_session: bool = True,
    groups: Sequence[int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start argv and return at once. By default it has its own session, so that no terminal signals it.

    Without env it has of ours what a tool needs. groups: its supplementary ones; ours by default.
    """
    log.debug("+ %s &", " ".join(argv))
    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        env=_or_tools(env),
        cwd=cwd,
        start_new_session=new_session,
        extra_groups=groups,
    )


def _or_tools(env: Mapping[str, str] | None) -> Mapping[str, str]:
    return config.tool_environment() if env is None else env


def exit_status(child: "subprocess.Popen[bytes]") -> int:
    """Wait for a child; its status as a shell shows it, 128+N for a signal."""
    code = child.wait()
    return code if code >= 0 else 128 - code
