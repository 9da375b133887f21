"""The run as its supervisor has it: its state on disk, its console, and PID 1 of its box."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from criu_agent import log, runs
from criu_agent.errors import Failure
from criu_agent.model import RunState
from criu_agent.ops.live import Live
from criu_agent.supervisor.clients import Client
from criu_agent.supervisor.output import OutputLog
from criu_agent.supervisor.session import Session
from criu_agent.term.console import Stream


class Supervised:
    """One live run. Everything here is for the loop's thread only.

    status is the wait status of PID 1 once that has ended; kill_at, on the monotonic clock, when the run is killed
    if it has not ended by then. on_output is called whenever the run has printed something.
    """

    def __init__(self, live: Live, state: RunState, *, on_output: Callable[[], None]) -> None:
        self._on_output = on_output
        self.live = live
        self.state = state
        self.session = Session(live.console, self._record)
        self.session.restore_input(live.pending_input)
        self.root = os.pidfd_open(live.root_pid)
        self.status: int | None = None
        self.suspended = False
        self.is_written = True  # what is on the disk is the state as it is now
        self.kill_at: float | None = None
        self._log = OutputLog(live.directory / "output.log")

    def set(self, **changes: Any) -> None:  # noqa: ANN401 - fields of RunState, checked by replace()
        self.state = dataclasses.replace(self.state, updated=runs.now(), **changes)
        try:
            runs.write_state(self.live.directory, self.state)
            self.is_written = True
        except OSError as error:  # a full disk: the run goes on, and the next change is written again
            self.is_written = False
            log.warning("cannot write the state %s: %s", self.state.state, error)

    def _record(self, stream: Stream, data: bytes) -> None:
        self._on_output()
        self._log.write(stream, data)
        self.live.scrollback.add(data)
        if self.session.is_terminal:
            self.live.modes.follow(data)

    def reap(self) -> None:
        """Take the status of PID 1, if it has ended."""
        pid, status = os.waitpid(self.live.root_pid, os.WNOHANG) if self.status is None else (0, 0)
        if pid:
            self.status = status
            log.info("PID 1 of the box ended with wait status %#x", status)

    def stop(self, *, timeout: float) -> None:
        """TERM, and KILL after `timeout` seconds."""
        if self.status is None:
            os.kill(self.live.root_pid, signal.SIGTERM)
            self.kill_at = time.monotonic() + timeout

    def kill_if_due(self) -> None:
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            self.kill_at = None
            log.info("it did not stop in time, and is killed")
            self.kill_all()

    def kill_all(self) -> None:
        try:
            self.live.cgroup.kill()
        except Failure as error:  # one hangs in the kernel: that is no reason to leave the others alone
            log.warning("%s", error.message)

    def end(self) -> None:
        """The run is over: nothing of it may be left, and its state says how it ended."""
        self.kill_all()
        self.session.drain()
        if self.suspended:
            self.set(state="suspended", root_pid=0)
        else:
            self.set(state="exited", exit_code=self.exit_code, root_pid=0, network_lock="")

    @property
    def exit_code(self) -> int:
        """As a shell would show it: 128+N for a signal. dumb-init gives its child's in the same way."""
        code = os.waitstatus_to_exitcode(self.status or 0)
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        self.session.close()
        self._log.close()
        self.live.cgroup.remove()

    def done(self, client: Client, **fields: object) -> None:
        """Tell the client that what it asked for is done."""
        client.tell("summary", run=self.live.spec.id, name=self.live.spec.name, state=self.state.state, **fields)
