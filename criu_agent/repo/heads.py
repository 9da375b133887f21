"""The head of a run: its newest snapshot, in a register that is changed last of all (docs/format.md).

Never "the newest of a list": a store that hides or brings back a manifest is found out by its head, and one that
brings back an old head by what this host has seen (repo.floor).
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from criu_agent.errors import Corrupt, Failure
from criu_agent.repo.fields import Fields
from criu_agent.repo.floor import Floor, Seen
from criu_agent.repo.registers import Register, Registers
from criu_agent.store.base import NAME

PREFIX = "heads/"

Range = tuple[int, int]  # of numbers of snapshots: first, last


@dataclass(frozen=True, kw_only=True)
class Head:
    """revision grows with every change; sequence is that of the newest snapshot ever; snapshot "" if none is left.

    gone are the numbers of those that were deleted, ascending: all others from 1 to `sequence` must be there.
    """

    revision: int
    sequence: int
    snapshot: str
    gone: tuple[Range, ...] = ()

    def is_gone(self, number: int) -> bool:
        at = bisect_right(self.gone, (number, self.sequence)) - 1
        return at >= 0 and number <= self.gone[at][1]


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
        found = [name.removeprefix(PREFIX) for name in self._registers.names(PREFIX)]
        return [run_id for run_id in found if NAME.fullmatch(run_id)]

    def read(self, run_id: str) -> Head:
        """Corrupt when it is damaged, or the store shows an older one, or none, where this host has seen one."""
        return self._noted(run_id, self._read(run_id))

    def move(
        self,
        run_id: str,
        *,
        to: str,
        sequence: int | None = None,
        gone: Iterable[int] = (),
        from_snapshot: str | None = None,
    ) -> Head:
        """Make `to` the newest snapshot of the run, and note which were deleted.

        Failure if `from_snapshot` is given and is not the newest now.
        """
        register = self._read(run_id)
        old = self._noted(run_id, register)
        if from_snapshot is not None and old.snapshot != from_snapshot:
            raise _overtaken(run_id)
        sequence = old.sequence if sequence is None else sequence
        all_gone = joined([*old.gone, *((number, number) for number in gone)])
        new = Head(revision=old.revision + 1, sequence=sequence, snapshot=to, gone=all_gone)
        return self._change(run_id, register, new)

    def renew(self, run_id: str, head: Head) -> Head:
        """Put `head` into the place of whatever is there, even of what cannot be read; its revision is a new one."""
        name = PREFIX + run_id
        seen = self._floor.head(run_id)
        revision = max(head.revision, seen.number if seen else 0) + 1
        return self._change(run_id, self._registers.unread(name), replace(head, revision=revision))

    def _read(self, run_id: str) -> Register | None:
        try:
            return self._registers.read(PREFIX + run_id)
        except Corrupt as error:
            error.hint = _lost_hint(run_id)
            raise

    def _change(self, run_id: str, old: Register | None, new: Head) -> Head:
        document = {
            "run": run_id,
            "revision": new.revision,
            "sequence": new.sequence,
            "snapshot": new.snapshot,
            "gone": new.gone,
        }
        changed = self._registers.change(PREFIX + run_id, old, document)
        if changed is None:
            raise _overtaken(run_id)
        return self._noted(run_id, changed)

    def _noted(self, run_id: str, register: Register | None) -> Head:
        head = _head(run_id, register) if register else NONE
        shown = Seen(number=head.revision, value=head.snapshot) if register else None
        if shown:
            self._floor.saw_head(run_id, shown, older=self._older)
        else:  # also where an older one is allowed: without its head nobody knows which snapshots were committed
            self._check_none(run_id)
        return head

    def _check_none(self, run_id: str) -> None:
        try:
            self._floor.check_head(run_id, None)
        except Corrupt as error:
            error.hint = _lost_hint(run_id)
            raise


def _head(run_id: str, register: Register) -> Head:
    fields = Fields(register.document, f"the head of run {run_id}")
    if fields.text("run") != run_id:
        raise Corrupt(f"the head of run {run_id} is changed: it is another run's")
    sequence = fields.integer("sequence")
    return Head(
        revision=fields.integer("revision", least=1),
        sequence=sequence,
        snapshot=fields.snapshot_id("snapshot"),
        gone=_gone(fields.document.get("gone", []), sequence, fields.what),
    )


def joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Ranges in any order as the fewest that have the same numbers, ascending."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def _gone(document: object, sequence: int, what: str) -> tuple[Range, ...]:
    if not isinstance(document, list | tuple) or not all(_is_range(one, sequence) for one in document):
        raise Corrupt(f"{what} is changed: 'gone' is no list of ranges of its snapshots' numbers")
    found = tuple((first, last) for first, last in document)
    if joined(found) != found:
        raise Corrupt(f"{what} is changed: 'gone' is not in order")
    return found


def _is_range(value: Any, sequence: int) -> bool:  # noqa: ANN401 - of a JSON document
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(one) is int for one in value):
        return False
    first, last = map(int, value)
    return 1 <= first <= last <= sequence


def _lost_hint(run_id: str) -> str:
    return f"bring heads/{run_id} back from a copy, or give up what is lost: criu-agent forget --lost {run_id}"


def _overtaken(run_id: str) -> Overtaken:
    return Overtaken(
        f"run {run_id} has got another newest snapshot meanwhile",
        hint="it is saved by somebody else, too: see `criu-agent snapshots`",
    )
