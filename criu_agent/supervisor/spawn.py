"""Start the supervisor of a run and wait until it says that the run is up. For the CLI."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from criu_agent.config import Config, child_environment
from criu_agent.errors import Interrupted, ToolFailed, by_code
from criu_agent.linux import process


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """A restored run waits for the word on `fd` before it goes on; restored() is called when it is that far."""

    fd: int
    restored: Callable[[], None]


def bring_up(
    config: Config, run_id: str, options: Sequence[str] = (), *, confirm: Confirm | None = None
) -> dict[str, Any]:
    """Start it; returns when the run is up, with what it says of a restore (ops.restore.Restored).

    Raises what kept it from coming up; nothing of it is left then. Ctrl-C is passed on, and the supervisor undoes
    what it has made so far.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    argv = [sys.executable, "-P", "-m", "criu_agent.supervisor", run_id, "--ready", str(writer)]
    argv += ["--starter", str(os.getpid()), *options]
    pass_fds = [writer, *config.descriptors]
    if confirm is not None:
        argv += ["--confirm", str(confirm.fd)]
        pass_fds.append(confirm.fd)
    with open(reader, "rb") as ready, _Interrupts.passed_on() as interrupts:
        # "/" as the directory: a supervisor must not keep a file system busy that the user wants to unmount.
        supervisor = process.spawn(argv, pass_fds=pass_fds, env=child_environment(config), cwd="/")
        os.close(writer)
        interrupts.go_to(supervisor)
        answer = ready.readline()
        if confirm is not None and b'"restored"' in answer and not interrupts.came:
            confirm.restored()
            answer = ready.readline()
    if interrupts.came:  # the supervisor gave up; or the run came up all the same, and is stopped now
        supervisor.wait()
        raise Interrupted("interrupted", agent_state="not running")
    if not answer:
        code = supervisor.wait()
        raise ToolFailed(
            f"the supervisor ended with status {code} before the run was up",
            hint=f"see {config.runs / run_id / 'supervisor.log'}",
        )
    reply = json.loads(answer)
    if reply["message_type"] != "ready":
        supervisor.wait()
        raise by_code(reply["code"])(reply["message"], hint=reply["hint"], agent_state=reply["agent_state"])
    # It outlives us: Popen would warn about a child that nobody waited for.
    supervisor.returncode = 0
    return dict(reply)


class _Interrupts:
    """Ctrl-C while a supervisor is started. It must not be lost in between: nobody would tell the supervisor."""

    def __init__(self) -> None:
        self.came = False
        self._target: process.Process[bytes] | None = None

    @classmethod
    @contextmanager
    def passed_on(cls) -> Iterator["_Interrupts"]:
        interrupts, before = cls(), signal.getsignal(signal.SIGINT)
        if before is not signal.SIG_IGN:  # as for the background jobs of a script
            signal.signal(signal.SIGINT, interrupts._on_sigint)
        try:
            yield interrupts
        finally:
            signal.signal(signal.SIGINT, before)

    def go_to(self, supervisor: "process.Process[bytes]") -> None:
        self._target = supervisor
        if self.came:
            supervisor.send_signal(signal.SIGTERM)

    def _on_sigint(self, *_: object) -> None:
        if self.came:  # the user is tired of waiting
            raise KeyboardInterrupt
        self.came = True
        if self._target is not None:
            self._target.send_signal(signal.SIGTERM)
