"""One writer at a time for each run: a signed register that says who is at work (docs/format.md, locks).

A writer holds `locks/<run id>` from before its first pack until after its head; `prune`, `forget` and `import` hold
it too, so that nothing is deleted that a snapshot in the making counts on. A lock never goes away by itself: no
clock is trusted. One whose holder is known to be dead is taken over; of another host's the user has to say so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from criu_agent import log
from criu_agent.errors import Corrupt, Failure, NotFound
from criu_agent.repo.fields import Fields
from criu_agent.repo.registers import Register, Registers

_FREE: dict[str, Any] = {"holder": None}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process: pid and start (clock ticks since boot) mean something on the host with that boot id only."""

    hostname: str
    boot_id: str
    pid: int
    start: int
    what: str  # the verb, for people
    since: str  # RFC 3339, for people

    def to_json(self) -> dict[str, Any]:
        return {
            "hostname": self.hostname,
            "boot_id": self.boot_id,
            "pid": self.pid,
            "start": self.start,
            "what": self.what,
            "since": self.since,
        }


Lives = Callable[[Holder], bool]  # False only for a holder that is known to have ended


@contextmanager
def held(registers: Registers, run_id: str, holder: Holder, *, lives: Lives) -> Iterator[None]:
    """Hold the run's lock. Failure, naming the holder, while somebody else does."""
    name = f"locks/{run_id}"
    old, other = _read(registers, run_id)
    if other is not None and lives(other):
        raise _taken(run_id, other)
    if other is not None:
        log.info("the lock of run %s was left by pid %d (%s), which has ended", run_id, other.pid, other.what)
    mine = registers.change(name, old, {"holder": holder.to_json()})
    if mine is None:
        raise _taken(run_id, _read(registers, run_id)[1])
    try:
        yield
    finally:
        if registers.change(name, mine, _FREE) is None:
            log.warning("the lock of run %s was taken away while pid %d held it", run_id, holder.pid)


def holders(registers: Registers) -> dict[str, Holder]:
    """Who holds which run's lock. Corrupt for one that is damaged."""
    names = [name.removeprefix("locks/") for name in registers.names("locks/")]
    found = {run_id: _read(registers, run_id)[1] for run_id in names}
    return {run_id: holder for run_id, holder in found.items() if holder is not None}


def break_lock(registers: Registers, run_id: str) -> Holder | None:
    """Take the lock away from whoever holds it; None if it is damaged, so nobody knows. NotFound if nobody does."""
    name = f"locks/{run_id}"
    try:
        old, holder = _read(registers, run_id)
        if holder is None:
            raise NotFound(f"run {run_id} is not locked", hint="there is nothing to unlock")
    except Corrupt:
        old, holder = registers.unread(name), None
    if registers.change(name, old, _FREE) is None:
        raise Failure(f"the lock of run {run_id} changed at this very moment", hint="look again, and try again")
    return holder


def _read(registers: Registers, run_id: str) -> tuple[Register | None, Holder | None]:
    try:
        register = registers.read(f"locks/{run_id}")
        return register, _holder(register)
    except Corrupt as error:
        error.hint = f"if nobody is at work on that run: criu-agent unlock {run_id}"
        raise


def _holder(register: Register | None) -> Holder | None:
    if register is None:
        return None
    what = f"the lock {register.name}"
    fields = Fields(register.document, what)
    if fields.document.get("holder") is None:
        return None
    inner = fields.inner("holder")
    return Holder(
        hostname=inner.text("hostname"),
        boot_id=inner.text("boot_id"),
        pid=inner.integer("pid"),
        start=inner.integer("start"),
        what=inner.text("what"),
        since=inner.time("since"),
    )


def _taken(run_id: str, holder: Holder | None) -> Failure:
    if holder is None:
        return Failure(f"somebody else is at work on the snapshots of run {run_id}", hint="try again")
    return Failure(
        f"the snapshots of run {run_id} are locked by pid {holder.pid} on {holder.hostname} "
        f"({holder.what}, since {holder.since[:19]})",
        hint=f"try again when it is done; if that host is dead for good: criu-agent unlock {run_id}",
    )
