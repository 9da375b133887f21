"""The criu-agent of another host, over ssh: what a migrate asks of it. Its answers are read with care."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from criu_agent.errors import Failure, HostCannot, NotFound, Usage, by_code
from criu_agent.linux import process
from criu_agent.ops import ssh

_GO = b"go\n"  # supervisor.confirm
_ANSWER = 60.0  # seconds for a run that was told to go on to say that it does
_NO_PROGRAM = (126, 127)  # of the shell there
_AGAIN = 0.5  # seconds between two questions
_PERSIST = 20.0  # seconds that a host which cannot be reached is asked again
_RESTORING = 45.0  # seconds: a restore that waits for its word gives up before


@dataclass(frozen=True, kw_only=True)
class There:
    """The other host. store: the global options by which it opens the repository; places, and nothing secret.

    files: options of `restore`, for files there that have changed.
    """

    to: ssh.Destination
    store: tuple[str, ...]
    files: tuple[str, ...]
    check: Callable[[], None]  # raises when the user wants to stop

    @property
    def name(self) -> str:
        return self.to.host


def require_able(there: There) -> None:
    """Failure if criu-agent does not work there, saying what is missing."""
    done = _ask(there, ["--json", "doctor"], check=there.check)
    if done.code:
        findings = _json(done.stdout)
        missing = [
            f"{one.get('requirement')} ({one.get('detail')})"
            for one in (findings if isinstance(findings, list) else [])
            if isinstance(one, dict) and one.get("state") == "missing"
        ]
        if not missing:
            raise _failure(there, done)
        raise HostCannot(f"{there.name} cannot: {', '.join(missing)}", hint="criu-agent doctor there says the fixes")


def runs_there(there: There, run_id: str, snapshot: str) -> bool:
    """Whether the run came up there from that snapshot. A Failure if that cannot be found out."""
    deadline = time.monotonic() + _RESTORING
    while True:
        done = _ask_again(there, ["--json", "inspect", run_id])
        if done.code == NotFound.exit_code:
            return False
        if done.code:
            raise _failure(there, done)
        state = _state(there, _json(done.stdout))
        if state.get("restored") == snapshot:
            return True
        if not (state.get("state") == "restoring" and state.get("supervised")):
            return False
        if time.monotonic() > deadline:
            raise Failure(f"{there.name} is still restoring it")
        time.sleep(_AGAIN)


@dataclass(frozen=True, kw_only=True)
class Gone:
    """What it said when the run went on there: connections that were reset, and the snapshot of the files that were
    in the place of the run's, "" if there is none."""

    reset: list[dict[str, Any]]
    safety: str


class Restoration:
    """A restore there, which waits for our word before the run goes on. Left without it, it is undone there."""

    def __init__(self, there: There, run_id: str, snapshot: str) -> None:
        self._there = there
        self._said_go = False
        options = ["--detach", "--confirm", *there.files, "--at", snapshot]
        command = ["--json", *there.store, "restore", *options, run_id]
        self._conversation = ssh.Conversation(there.to, command, check=self._check)

    def _check(self) -> None:
        if not self._said_go:  # after that it is too late to change one's mind
            self._there.check()

    def __enter__(self) -> "Restoration":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException, trace: TracebackType | None) -> None:
        self._conversation.__exit__(kind, error, trace)

    def await_restored(self) -> None:
        """Everything is there, and stands still."""
        status = _json(self._conversation.line())
        if not isinstance(status, dict) or status.get("phase") != "restored":
            raise _failure(self._there, self._conversation.finish())

    def go(self) -> Gone:
        """Let it run. Of an error is not known whether it runs there."""
        self._said_go = True
        self._conversation.say(_GO)
        try:
            summary = _json(self._conversation.line(limit=_ANSWER))
        except TimeoutError as error:
            raise ssh.Unreachable(f"{self._there.name} did not answer: {error}") from error
        if not isinstance(summary, dict) or summary.get("message_type") != "summary":
            raise _failure(self._there, self._conversation.finish())
        reset = [one for one in summary.get("reset", []) if isinstance(one, dict)]
        return Gone(reset=reset, safety=str(summary.get("safety", "")))


def _ask_again(there: There, command: list[str]) -> process.Completed:
    """The same, for a while; the first time also if the user wants to stop: so much depends on the answer."""
    deadline = time.monotonic() + _PERSIST
    while True:
        try:
            return _ask(there, command, check=lambda: None)
        except ssh.Unreachable:
            if time.monotonic() > deadline:
                raise
        there.check()
        time.sleep(_AGAIN)


def _ask(there: There, command: list[str], *, check: Callable[[], None]) -> process.Completed:
    with ssh.Conversation(there.to, command, check=check) as conversation:
        done = conversation.finish()
    if done.code == ssh.OWN_FAILURE or done.code < 0:
        raise ssh.unreachable(there.to, done)
    if done.code in _NO_PROGRAM:
        raise _no_program(there, done)
    return done


def _no_program(there: There, done: process.Completed) -> HostCannot:
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return HostCannot(
        f"{there.name} has no {there.to.program}: {said[-1] if said else 'command not found'}",
        hint="install it there, or say where it is with --remote-program; --sudo for a user who is not root",
    )


def _failure(there: There, done: process.Completed) -> Failure:
    """The error that criu-agent reported there, as one of ours."""
    if done.code == ssh.OWN_FAILURE or done.code < 0:
        return ssh.unreachable(there.to, done)
    if done.code in _NO_PROGRAM:
        return _no_program(there, done)
    for line in reversed(done.stderr.splitlines()):
        report = _json(line)
        if isinstance(report, dict) and report.get("message_type") == "exit_error":
            kind = by_code(done.code)
            if kind is Usage:  # our command line is right for us
                return HostCannot(
                    f"criu-agent on {there.name} is of another version: {report.get('message')}",
                    hint="install the same version there",
                )
            return kind(f"on {there.name}: {report.get('message')}", hint=f"there: {report.get('hint')}")
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return Failure(f"on {there.name}: {said[-1] if said else f'exit status {done.code}'}")


def _state(there: There, documents: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    with suppress(LookupError, TypeError):
        state = documents[0]["state"]
        if isinstance(state, dict):
            return state
    raise Failure(f"{there.name} gave an answer that is none", hint="is it a criu-agent there?")


def _json(data: bytes) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
