"""The names of manifests, and which of them were committed (docs/format.md).

A snapshot is committed when the head of its run has come to its sequence number. A writer that dies between the two
leaves a manifest with the next number: nobody sees it, and the next writer removes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from criu_agent.errors import Corrupt
from criu_agent.model import Snapshot
from criu_agent.repo.heads import RENEW_HINT, Head
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


def committed(found: Sequence[Name], run_id: str, head: Head) -> list[Name]:
    """Those that `head`, the head of their run, has come to. Corrupt if it does not fit them."""
    left = uncommitted(found, run_id, head)
    if head.snapshot and not any(name.snapshot == head.snapshot for name in found):
        raise Corrupt(f"snapshot {head.snapshot}, the newest of run {run_id}, is missing", hint=RENEW_HINT)
    return [name for name in found if name not in left]


def uncommitted(found: Sequence[Name], run_id: str, head: Head) -> list[Name]:
    """Those whose writer died before. Corrupt if there are more than one writer can leave: the head is lost."""
    if any(name.sequence > head.sequence + 1 for name in found):
        raise Corrupt(f"the head of run {run_id} is missing, or older than its snapshots", hint=RENEW_HINT)
    return [name for name in found if name.sequence > head.sequence]
