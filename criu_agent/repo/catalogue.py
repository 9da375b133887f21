"""The names of manifests, and which of them were committed (docs/format.md).

A snapshot is committed when the head of its run has come to its sequence number. A writer that dies between the two
leaves a manifest with the next number: nobody sees it, and the next writer removes it. The head says, too, which were
deleted: so whoever deletes another one, or brings one back, is found out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from criu_agent.errors import Corrupt
from criu_agent.model import Snapshot
from criu_agent.repo.heads import Head, Range, joined
from criu_agent.store.base import Store

PREFIX = "snapshots/"
_OBJECT = re.compile(PREFIX + r"(?P<run>[A-Za-z0-9._-]{1,128})/(?P<sequence>[0-9]{10})-(?P<snapshot>[0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Name:
    """Where the manifest of a snapshot lies."""

    run: str
    sequence: int
    snapshot: str

    @property
    def object(self) -> str:
        return f"{PREFIX}{self.run}/{self.sequence:010}-{self.snapshot}"


def name_of(snapshot: Snapshot) -> Name:
    return Name(run=snapshot.manifest.run_id, sequence=snapshot.manifest.sequence, snapshot=snapshot.id)


def names(store: Store, run_id: str = "") -> list[Name]:
    """Of all manifests in the store, or of one run's; objects with other names are ignored."""
    found = map(_OBJECT.fullmatch, store.list(f"{PREFIX}{run_id}/" if run_id else PREFIX))
    return [Name(run=one["run"], sequence=int(one["sequence"]), snapshot=one["snapshot"]) for one in found if one]


def committed(found: Sequence[Name], run_id: str, head: Head) -> tuple[list[Name], Corrupt | None]:
    """Those that `head`, their run's, has come to and that were not deleted, and what is wrong with them."""
    if any(name.sequence > head.sequence + 1 for name in found):
        return list(found), _head_is_lost(run_id)
    there = [name for name in found if name.sequence < head.sequence or name.snapshot == head.snapshot]
    there = [name for name in there if not head.is_gone(name.sequence)]
    if head.snapshot and not any(name.snapshot == head.snapshot for name in there):
        return there, _corrupt(run_id, f"snapshot {head.snapshot}, the newest of run {run_id}, is missing")
    twice = next((one for one, other in pairwise(there) if one.sequence == other.sequence), None)
    if twice is not None:
        return there, _corrupt(run_id, f"there are two snapshots number {twice.sequence} of run {run_id}")
    lacking = missing(there, head)
    if lacking:
        return there, _corrupt(run_id, f"of run {run_id} is missing: snapshot number {_numbers(lacking)}")
    return there, None


def uncommitted(found: Sequence[Name], run_id: str, head: Head) -> list[Name]:
    """Those whose writer died before. Corrupt if there are more than one writer can leave: then the head is lost."""
    if any(name.sequence > head.sequence + 1 for name in found):
        raise _head_is_lost(run_id)
    return [name for name in found if name.sequence > head.sequence]


def missing(there: Sequence[Name], head: Head) -> tuple[Range, ...]:
    """The numbers that should be among `there` and are not."""
    known = joined([*head.gone, *((name.sequence, name.sequence) for name in there)])
    ends = [0, *(last for _, last in known)]
    begins = [*(first for first, _ in known), head.sequence + 1]
    return tuple((end + 1, begin - 1) for end, begin in zip(ends, begins, strict=True) if end + 1 < begin)


def _numbers(ranges: Sequence[Range]) -> str:
    shown = ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in ranges[:4])
    return f"{shown}, ..." if len(ranges) > 4 else shown


def _head_is_lost(run_id: str) -> Corrupt:
    return _corrupt(run_id, f"the head of run {run_id} is missing, or older than its snapshots")


def _corrupt(run_id: str, what: str) -> Corrupt:
    return Corrupt(what, hint=f"bring it back from a copy, or give it up: criu-agent forget --lost {run_id}")
