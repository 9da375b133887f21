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

_PREFIX = "locks/"
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

    def is_same(self, other: "Holder") -> bool:
        """Whether it is the same process: that does one thing at a time to a run, so it could not give it back."""
        return (self.boot_id, self.pid, self.start) == (other.boot_id, other.pid, other.start)

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
    """Hold the run's lock. Failure, naming the holder, while somebody else does; Corrupt if it cannot be read."""
    name = f"{_PREFIX}{run_id}"
    old, other = _read(registers, run_id)
    if other is not None and not other.is_same(holder) and lives(other):
        raise _taken(run_id, other)
    if other is not None:
        log.info("the lock of run %s was left by pid %d (%s)", run_id, other.pid, other.what)
    mine = registers.change(name, old, {"holder": holder.to_json()})
    if mine is None:
        raise _taken(run_id, _read(registers, run_id)[1])
    try:
        yield
    finally:
        _release(registers, mine)


def _release(registers: Registers, mine: Register) -> None:
    """What was done under the lock is done: that it cannot be given back is no failure of it."""
    try:
        if registers.change(mine.name, mine, _FREE) is None:
            log.warning("%s was taken away while it was held", mine.name)
    except (Failure, OSError) as error:
        log.warning("%s could not be given back: %s", mine.name, error)


def holders(registers: Registers) -> dict[str, Holder | None]:
    """Who holds which run's lock; None for a lock that is damaged, so that nobody knows."""
    found: dict[str, Holder | None] = {}
    for name in registers.names(_PREFIX):
        run_id = name.removeprefix(_PREFIX)
        try:
            if holder := _read(registers, run_id)[1]:
                found[run_id] = holder
        except Corrupt:
            found[run_id] = None
    return found


def break_lock(registers: Registers, run_id: str) -> Holder | None:
    """Take the lock away from whoever holds it; None if it was damaged. NotFound if nobody does."""
    name = f"{_PREFIX}{run_id}"
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
