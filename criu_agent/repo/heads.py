"""The head of a run: its newest snapshot, in a register that is changed last of all (docs/format.md).

Never "the newest of a list": a store that hides or brings back a manifest is found out by its head, and one that
brings back an old head by what this host has seen (repo.floor).
"""

from dataclasses import dataclass

from criu_agent.errors import Corrupt, Failure
from criu_agent.repo.fields import Fields
from criu_agent.repo.floor import Floor, Seen
from criu_agent.repo.registers import Register, Registers

PREFIX = "heads/"


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
        return self._noted(run_id, self._registers.read(PREFIX + run_id))

    def move(self, run_id: str, *, to: str, sequence: int | None = None, from_snapshot: str | None = None) -> Head:
        """Make `to` the newest snapshot of the run. Failure if `from_snapshot` is given and is not the newest now."""
        name = PREFIX + run_id
        register = self._registers.read(name)
        old = self._noted(run_id, register)
        if from_snapshot is not None and old.snapshot != from_snapshot:
            raise _overtaken(run_id)
        new = Head(revision=old.revision + 1, sequence=old.sequence if sequence is None else sequence, snapshot=to)
        document = {"run": run_id, "revision": new.revision, "sequence": new.sequence, "snapshot": new.snapshot}
        changed = self._registers.change(name, register, document)
        if changed is None:
            raise _overtaken(run_id)
        return self._noted(run_id, changed)

    def _noted(self, run_id: str, register: Register | None) -> Head:
        head = _head(run_id, register) if register else NONE
        shown = Seen(number=head.revision, value=head.snapshot) if register else None
        if shown:
            self._floor.saw_head(run_id, shown, older=self._older)
        elif not self._older:
            self._floor.check_head(run_id, None)
        return head


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
