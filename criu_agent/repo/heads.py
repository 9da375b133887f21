"""The head of a run: its newest snapshot, in a register that is changed last of all (docs/format.md).

Never "the newest of a list": a store that hides or brings back a manifest is found out by its head, and one that
brings back an old head by what this host has seen (repo.floor).
"""

from dataclasses import dataclass
from typing import Any

from criu_agent import log
from criu_agent.errors import Corrupt, Failure
from criu_agent.repo.fields import Fields
from criu_agent.repo.floor import Floor, Seen
from criu_agent.repo.registers import Register, Registers

PREFIX = "heads/"
RENEW_HINT = (
    "bring it back from a copy; if it is lost, `criu-agent snapshots --allow-rollback` goes on with what is there"
)


@dataclass(frozen=True, kw_only=True)
class Head:
    """revision grows with every change; sequence is that of the newest snapshot ever; snapshot "" if none is left."""

    revision: int
    sequence: int
    snapshot: str


class Overtaken(Failure):
    """Somebody else has moved the head meanwhile."""


NONE = Head(revision=0, sequence=0, snapshot="")


class Heads:
    """floor: what this host has seen of the repository. older: the user allows that the store is behind that."""

    def __init__(self, registers: Registers, floor: Floor, *, older: bool = False) -> None:
        self._registers = registers
        self._floor = floor
        self._older = older

    def runs(self) -> list[str]:
        return [name.removeprefix(PREFIX) for name in self._registers.names(PREFIX)]

    def read(self, run_id: str) -> Head:
        """Corrupt when the store shows an older one than this host has seen."""
        return self._noted(run_id, self._read(run_id))

    def move(self, run_id: str, *, to: str, sequence: int | None = None, from_snapshot: str | None = None) -> Head:
        """Make `to` the newest snapshot of the run. Failure if `from_snapshot` is given and is not the newest now."""
        name = PREFIX + run_id
        register = self._read(run_id)
        old = self._noted(run_id, register)
        if from_snapshot is not None and old.snapshot != from_snapshot:
            raise _overtaken(run_id)
        new = Head(revision=old.revision + 1, sequence=old.sequence if sequence is None else sequence, snapshot=to)
        changed = self._registers.change(name, register, _document(run_id, new))
        if changed is None:
            raise _overtaken(run_id)
        return self._noted(run_id, changed)

    def renew(self, run_id: str, *, to: str, sequence: int) -> Head:
        """Make a head anew that is lost or damaged, or names a snapshot that is: the user has allowed it."""
        seen = self._floor.head(run_id)
        try:
            old = _head(run_id, register) if (register := self._read(run_id)) else NONE
        except Corrupt:
            old = NONE
        new = Head(
            revision=max(old.revision, seen.number if seen else 0) + 1,
            sequence=max(old.sequence, sequence),  # no number is given twice
            snapshot=to,
        )
        changed = self._registers.overwrite(PREFIX + run_id, _document(run_id, new))
        if changed is None:
            raise _overtaken(run_id)
        log.warning("the head of run %s was made anew: its newest snapshot is %s", run_id, to or "none")
        return self._noted(run_id, changed)

    def _read(self, run_id: str) -> Register | None:
        try:
            return self._registers.read(PREFIX + run_id)
        except Corrupt as error:
            error.hint = error.hint or RENEW_HINT
            raise

    def _noted(self, run_id: str, register: Register | None) -> Head:
        head = _head(run_id, register) if register else NONE
        shown = Seen(number=head.revision, value=head.snapshot) if register else None
        if shown:
            self._floor.saw_head(run_id, shown, older=self._older)
        else:  # also where an older one is allowed: `renew` makes one then
            self._floor.check_head(run_id, None)
        return head


def _document(run_id: str, head: Head) -> dict[str, Any]:
    return {"run": run_id, "revision": head.revision, "sequence": head.sequence, "snapshot": head.snapshot}


def _head(run_id: str, register: Register) -> Head:
    fields = Fields(register.document, f"the head of run {run_id}")
    if fields.text("run") != run_id:
        raise Corrupt(f"the head of run {run_id} is changed: it is another run's")
    return Head(
        revision=fields.integer("revision", least=1),
        sequence=fields.integer("sequence"),
        snapshot=fields.snapshot_id("snapshot"),
    )


def _overtaken(run_id: str) -> Overtaken:
    return Overtaken(
        f"run {run_id} has got another newest snapshot meanwhile",
        hint="it is saved by somebody else, too: see `criu-agent snapshots`",
    )
