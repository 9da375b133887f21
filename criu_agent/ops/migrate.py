"""Move a run to another host: one straight function.

doctor there -> suspend here -> restore there, stopped -> hand over -> GO: the point of no return -> fence here.
Until the word go is said the run has not moved, and whatever goes wrong, it is resumed here. After it the target is
asked what became of it, and where it cannot be asked nothing is resumed: a run is never in two places.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from criu_agent import log, runs
from criu_agent.config import Config
from criu_agent.errors import Failure
from criu_agent.model import RunState
from criu_agent.ops import network, remote
from criu_agent.ops.remote import There

_HERE = "running here, unharmed"


@dataclass(frozen=True, kw_only=True)
class Suspended:
    """The run, suspended here. frozen_at: of time.monotonic(), when it stood still."""

    run: runs.Run
    frozen_at: float
    connections: list[dict[str, Any]]  # with other ends outside of the run: they cannot come along

    @property
    def snapshot(self) -> str:
        return self.run.state.suspended_at


@dataclass(frozen=True, kw_only=True)
class Moved:
    run: str
    name: str
    snapshot: str
    source: str  # host names
    target: str
    downtime_ms: int
    reset: list[dict[str, Any]]
    safety: str = ""  # the snapshot of what was in the place of its files there
    warning: str = ""


class Source(Protocol):
    """The run here. Each verb of it does all or nothing."""

    def suspend(self) -> Suspended:
        """Failure leaves it running."""

    def resume(self, suspended: Suspended) -> None:
        """Failure leaves it suspended."""


def migrate(config: Config, source: Source, there: There, *, tell: Callable[[str], None]) -> Moved:
    """Move the run; it runs there then. Every error says where it is. tell(step) before each step."""
    tell("doctor")
    try:
        remote.require_able(there)
        there.check()
    except Failure as error:
        error.agent_state = _HERE
        raise
    tell("suspend")
    suspended = source.suspend()
    handed_over = False
    try:
        there.check()
        tell("restore")
        with remote.Restoration(there, suspended.run.spec.id, suspended.snapshot) as restoration:
            restoration.await_restored()
            _hand_over(config, suspended, there.name)
            handed_over = True
            tell("go")
            gone = restoration.go()
    except Exception as error:  # whatever it is, a bug too: the run must go on somewhere
        if not (handed_over and _came_up(suspended, there, error)):
            raise _resumed(config, source, suspended, error) from error
        gone = remote.Gone(reset=suspended.connections, safety="")
    downtime = time.monotonic() - suspended.frozen_at
    tell("fence")
    warning = _fenced(config, suspended, there.name)
    return Moved(
        run=suspended.run.spec.id,
        name=suspended.run.spec.name,
        snapshot=suspended.snapshot,
        source=os.uname().nodename,
        target=there.name,
        downtime_ms=round(downtime * 1000),
        reset=gone.reset,
        safety=gone.safety,
        warning=warning,
    )


def _came_up(suspended: Suspended, there: There, error: Exception) -> bool:
    """Ask the target whether the run goes on there. Where that cannot be found out nothing is done: it may."""
    spec = suspended.run.spec
    try:
        return remote.runs_there(there, spec.id, suspended.snapshot)
    except Failure as second:
        raise Failure(
            f"whether {spec.name} runs on {there.name} is not known: {_text(error)}; {second.message}",
            hint=f"look on {there.name}: criu-agent inspect {spec.id}; "
            f"if it is not running there, here: criu-agent resume -y {spec.name}",
            agent_state=f"suspended here at snapshot {suspended.snapshot[:8]}, or running on {there.name}",
        ) from error


def _resumed(config: Config, source: Source, suspended: Suspended, error: Exception) -> Exception:
    """Have the run go on here; the error to raise, which says so."""
    spec = suspended.run.spec
    try:
        _change(config, suspended, moved_to="")
        source.resume(suspended)
    except Failure as second:
        return Failure(
            f"{_text(error)}; and it could not be resumed here: {second.message}",
            hint=f"criu-agent resume {spec.name}",
            agent_state=second.agent_state or f"suspended here at snapshot {suspended.snapshot[:8]}",
        )
    if isinstance(error, Failure):
        error.agent_state = _HERE
        return error
    if isinstance(error, OSError):
        return Failure(f"cannot move it: {_text(error)}", agent_state=_HERE)
    return error


def _text(error: Exception) -> str:
    if isinstance(error, Failure):
        return error.message
    return error.strerror or str(error) if isinstance(error, OSError) else repr(error)


def _hand_over(config: Config, suspended: Suspended, host: str) -> None:
    """Before the target may let it run: from now on a `resume` here is refused, also if we end this very moment."""
    _change(config, suspended, moved_to=host, error=f"handed over to {host}; whether it runs there was not yet said")


def _fenced(config: Config, suspended: Suspended, host: str) -> str:
    """It runs there: here it is over, and nothing waits for its connections. What goes wrong is a warning."""
    try:
        _change(config, suspended, state="fenced", error=f"moved to {host}", suspended_at="", network_lock="")
        network.release(suspended.run)
    except Exception as error:  # noqa: BLE001 - it has moved, and is never undone
        log.warning("after the run had moved: %r", error)
        return f"{suspended.run.spec.name} has moved, but was not tidied up here: {_text(error)}"
    return ""


def _change(config: Config, suspended: Suspended, **changes: Any) -> None:  # noqa: ANN401 - fields of RunState
    """Change the state of the suspended run; Failure if it is not that any more: somebody resumed it."""
    directory = suspended.run.directory
    lock = runs.hold_lock(directory)
    try:
        now = runs.by_id(config, suspended.run.spec.id)
        if now is None or (now.state.state, now.state.suspended_at) != ("suspended", suspended.snapshot):
            raise Failure("the run was changed by somebody else meanwhile", hint="criu-agent ps -a shows its state")
        state: RunState = dataclasses.replace(now.state, updated=runs.now(), **{"error": "", **changes})
        runs.write_state(directory, state)
    finally:
        os.close(lock)
