"""Snapshots in a store. The manifest and then the head are written last: they are the snapshot (docs/format.md)."""

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Lock

from criu_agent.errors import Corrupt, HostCannot, NotFound
from criu_agent.model import Contents, Pack, Snapshot, Table
from criu_agent.repo import catalogue, envelope, heads, manifest, specs
from criu_agent.repo.catalogue import Name
from criu_agent.repo.fields import HEX, Fields
from criu_agent.repo.floor import Floor
from criu_agent.repo.header import Header
from criu_agent.repo.heads import Head, Heads, Range
from criu_agent.repo.opened import Opened, Segments
from criu_agent.repo.packs import SEGMENT
from criu_agent.repo.reading import Reader
from criu_agent.repo.registers import Registers
from criu_agent.repo.seal import HEADER, Opener, span
from criu_agent.repo.secret import RunKeys, Secret
from criu_agent.repo.workers import in_order
from criu_agent.store.base import Store

TAGS = "tags/"
_HINT = "restore another snapshot: `criu-agent snapshots` lists them"
_AT_ONCE = 8  # manifests that are got at a time: a store far away answers each after a while
_SMALL = 2 << 20  # bytes of a manifest; of larger ones one at a time is in memory

Unreadable = Corrupt | HostCannot


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All snapshots, the newest last, and an error for each manifest that cannot be read or is missing."""

    snapshots: tuple[Snapshot, ...]
    unreadable: tuple[Unreadable, ...]


class Repository:
    """A store that was opened with its secret. It may be used by several threads, and has nothing to be closed.

    older: the user allows that the store has fallen behind what this host has seen of it. exported: the store is an
    exported file, which has single snapshots, without the heads of their runs.
    """

    def __init__(
        self,
        store: Store,
        header: Header,
        secret: Secret,
        floor: Floor,
        *,
        revoked: frozenset[bytes] = frozenset(),
        older: bool = False,
        exported: bool = False,
    ) -> None:
        self.store = store
        self.header = header
        self.secret = secret
        self.registers = Registers(store, secret, revoked=revoked)
        self.heads = Heads(self.registers, floor, older=older)
        self._revoked = revoked
        self._exported = exported
        self._one_large = Lock()

    @property
    def id(self) -> str:
        return self.header.id

    def read(self, snapshot_id: str) -> Snapshot:
        """The snapshot of that whole id. NotFound, Corrupt, or HostCannot for a version that is not ours."""
        for name in catalogue.names(self.store):
            if name.snapshot == snapshot_id and self._is_committed(name):
                return self._read(name)
        for run_id in self.heads.runs():
            head = self._head_or_none(run_id)
            if head and head.snapshot == snapshot_id:
                raise Corrupt(f"snapshot {snapshot_id}, the newest of run {run_id}, is missing", hint=_HINT)
        raise NotFound(f"there is no snapshot {snapshot_id}", hint="`criu-agent snapshots` lists them")

    def snapshots(self, run_id: str = "") -> Listing:
        """Everything that is there, or of one run; what cannot be read does not hide the others."""
        found: list[Snapshot] = []
        unreadable: list[Unreadable] = []
        names, errors = self._committed(run_id)
        unreadable += errors
        with closing(
            in_order(self._read_or_say, (name for name in names), workers=_AT_ONCE, ahead=2 * _AT_ONCE)
        ) as read:
            for one in read:
                if isinstance(one, Snapshot):
                    found.append(one)
                elif one is not None:
                    unreadable.append(one)
        return Listing(snapshots=tuple(specs.oldest_first(found)), unreadable=tuple(unreadable))

    def find(self, spec: str) -> Snapshot:
        """The snapshot that SNAP means (repo.specs). Corrupt or HostCannot if it cannot be read.

        What is not an id is refused while any manifest is unreadable: it could be the very newest, and to
        restore an older state in its place, unasked, would repeat what the agent did since.
        """
        if HEX.fullmatch(spec):
            return self.read(spec)
        listing = self.snapshots()
        if not listing.unreadable:
            return specs.choose(spec, listing.snapshots)
        if specs.is_prefix(spec) and not specs.names_run(spec, listing.snapshots):
            names = [name for name in self._committed("")[0] if name.snapshot.startswith(spec)]
            if len(names) == 1:
                return self.read(names[0].snapshot)
        error = listing.unreadable[0]
        try:
            intact = specs.choose(spec, listing.snapshots)
        except NotFound:
            raise error from None  # it may be the one that is meant
        by_id = f"name the snapshot by its id; the one that can be read is {intact.id[:16]}"
        raise type(error)(
            f"{error.message}, and it may be newer than what {spec} would be without it",
            hint=by_id if error.hint in ("", _HINT) else error.hint,
        )

    def contents(self, snapshot: Snapshot) -> Contents:
        """Where everything of the snapshot is stored."""
        name = catalogue.name_of(snapshot)
        plain, _ = self._open_manifest(name, envelope.MANIFEST_LIMIT)
        try:
            return manifest.contents_of(manifest.body_of(plain, _what(name)), _what(name))
        except Corrupt as error:
            error.hint = error.hint or _HINT
            raise

    def reader(self, snapshot: Snapshot, contents: Contents | None = None) -> Reader:
        """Reads its blobs, every byte verified before it is handed out."""
        table = (contents or self.contents(snapshot)).table
        return self.reader_of(table, snapshot.manifest.run_id)

    def reader_of(self, table: Table, run_id: str) -> Reader:
        return Reader(table=table, segments=self.segments(run_id))

    def segments(self, run_id: str) -> Segments:
        """Gets and opens segments of the packs of a run."""
        return _Packs(self.store, self.secret, run_id).segments

    def keys(self, run_id: str, generation: int | None = None) -> RunKeys:
        keys = self.secret.keys(run_id, generation)
        if keys is None:
            raise Corrupt(f"run {run_id} has keys of generation {generation}, which this repository does not have")
        return keys

    def tag(self, snapshot: Snapshot, tags: Iterable[str]) -> Snapshot:
        """Give the snapshot these tags in the place of those that it has."""
        name = f"{TAGS}{snapshot.manifest.run_id}/{snapshot.id}"
        chosen = tuple(dict.fromkeys(tags))
        old = self.registers.read(name)
        if self.registers.change(name, old, {"snapshot": snapshot.id, "tags": list(chosen)}) is None:
            raise Corrupt(f"the tags of snapshot {snapshot.id} changed at this very moment", hint="try again")
        return replace(snapshot, tags=chosen)

    def remove(self, snapshots: Iterable[Snapshot], *, keep: Iterable[Snapshot] = ()) -> None:
        """Delete the manifests of snapshots of one run; the caller holds its lock.

        `keep` are those of the run that stay. The head is moved first: it must never name what is not there.
        """
        doomed = list(snapshots)
        ids = {one.id for one in doomed}
        for run_id in {one.manifest.run_id for one in doomed}:
            newest = self.heads.read(run_id).snapshot
            if newest in ids:
                left = [one for one in keep if one.manifest.run_id == run_id and one.id not in ids]
                newest = max(left, key=lambda one: one.manifest.sequence).id if left else ""
            gone = [one.manifest.sequence for one in doomed if one.manifest.run_id == run_id]
            self.heads.move(run_id, to=newest, gone=gone)
        for one in doomed:
            self._delete(catalogue.name_of(one))

    def give_up(self, run_id: str) -> tuple[Range, ...]:
        """Forget what of a run is missing or cannot be read, its tags too: the numbers. The caller holds its lock.

        Where its head cannot be read, or is not of these snapshots, all that can be read are its snapshots from now
        on. HostCannot for what another version of ours could read.
        """
        names = catalogue.names(self.store, run_id)
        head, rebuilt = self._head_or_none(run_id), False
        newest = max((name.sequence for name in names), default=0)
        if head is None or newest > head.sequence + 1:
            head, rebuilt = replace(head or heads.NONE, sequence=newest), True
        there = [one for one in names if one.sequence <= head.sequence and not head.is_gone(one.sequence)]
        found = [snapshot for snapshot in map(self._read_if_intact, there) if snapshot]
        intact = self._one_of_each_number(found)
        lost = catalogue.missing(intact, head)
        if lost or rebuilt:
            to = intact[-1].snapshot if intact else ""
            self.heads.renew(run_id, replace(head, snapshot=to, gone=heads.joined([*head.gone, *lost])))
        for one in there:
            if one not in intact:
                self._delete(one)
        for snapshot in found:
            self._give_up_tags(snapshot)
        return lost

    def _give_up_tags(self, snapshot: Snapshot) -> None:
        try:
            self._tags(snapshot)
        except Corrupt:
            self.store.delete(f"{TAGS}{snapshot.manifest.run_id}/{snapshot.id}")

    def _one_of_each_number(self, found: list[Snapshot]) -> list[Name]:
        """Of two with one number that which another one comes from, or the later one: then the writer of the first
        one died before it was committed."""
        parents = {one.manifest.parent for one in found}
        found.sort(key=lambda one: (one.manifest.sequence, one.id in parents, one.manifest.created))
        return list({one.manifest.sequence: catalogue.name_of(one) for one in found}.values())

    def _head_or_none(self, run_id: str) -> Head | None:
        """None if it cannot be read, or there is none."""
        try:
            head = self.heads.read(run_id)
        except Corrupt:
            return None
        return head if head.revision else None

    def _read_if_intact(self, name: Name) -> Snapshot | None:
        try:
            return self._read_manifest(name)
        except (Corrupt, NotFound):
            return None

    def _delete(self, name: Name) -> None:
        self.store.delete(name.object)
        self.store.delete(f"{TAGS}{name.run}/{name.snapshot}")

    def _is_committed(self, name: Name) -> bool:
        """Corrupt if that cannot be found out, whatever may be wrong with other snapshots of the run."""
        if self._exported:
            return True
        head = self.heads.read(name.run)
        there, error = catalogue.committed(catalogue.names(self.store, name.run), name.run, head)
        if error is not None and name in there and name.sequence > head.sequence:
            raise error  # the head is too old to say
        return name in there

    def _committed(self, run_id: str) -> tuple[list[Name], list[Unreadable]]:
        """The names of the snapshots that were committed. An error of one run does not hide the others."""
        names = catalogue.names(self.store, run_id)
        if self._exported:
            return names, []
        found: list[Name] = []
        errors: list[Unreadable] = []
        for run in sorted({name.run for name in names} | set([run_id] if run_id else self.heads.runs())):
            mine = [name for name in names if name.run == run]
            try:
                mine, error = catalogue.committed(mine, run, self.heads.read(run))
            except (Corrupt, HostCannot) as unreadable:
                errors.append(unreadable)
            else:
                errors += [error] if error else []
            found += mine
        return found, errors

    def _read_or_say(self, name: Name) -> Snapshot | Unreadable | None:
        try:
            return self._read(name)
        except NotFound:  # deleted since it was listed
            return None
        except (Corrupt, HostCannot) as error:
            return error

    def _read(self, name: Name) -> Snapshot:
        snapshot = self._read_manifest(name)
        return replace(snapshot, tags=self._tags(snapshot))

    def _read_manifest(self, name: Name) -> Snapshot:
        plain, generation = self._open_manifest(name, manifest.HEAD_LIMIT)
        try:
            found = manifest.decode_head(plain, _what(name))
            if (found.run_id, found.sequence) != (name.run, name.sequence):
                raise Corrupt(f"{_what(name)} lies under the name of another")
        except Corrupt as error:
            error.hint = error.hint or _HINT
            raise
        return Snapshot(id=name.snapshot, manifest=found, tags=found.tags, generation=generation)

    def _open_manifest(self, name: Name, most: int) -> tuple[bytes, int]:
        """The first plain bytes of a manifest, and the generation of its keys."""
        data = self.store.get(name.object, _SMALL + 1)
        if len(data) <= _SMALL:
            return self._opened(name, data, most)
        with self._one_large:
            return self._opened(name, self.store.get(name.object, envelope.MANIFEST_LIMIT + 1), most)

    def _opened(self, name: Name, data: bytes, most: int) -> tuple[bytes, int]:
        try:
            plain = envelope.open_manifest(
                self.secret, name.run, name.snapshot, data, most=most, revoked=self._revoked
            )
        except Corrupt as error:
            error.hint = error.hint or _HINT
            raise
        return plain, envelope.generation_of(data)

    def _tags(self, snapshot: Snapshot) -> tuple[str, ...]:
        """As they are now."""
        run_id = snapshot.manifest.run_id
        try:
            register = self.registers.read(f"{TAGS}{run_id}/{snapshot.id}")
            return snapshot.tags if register is None else Fields(register.document, "tags").texts("tags")
        except Corrupt as error:
            error.hint = f"to have the tags that it was made with: criu-agent forget --lost {run_id}"
            raise


def _what(name: Name) -> str:
    return f"the manifest of snapshot {name.snapshot}"


class _Packs:
    """Segments of the packs of one run; the header of each pack is got once."""

    def __init__(self, store: Store, secret: Secret, run_id: str) -> None:
        self._store = store
        self._secret = secret
        self._run_id = run_id
        self._openers: dict[str, Opener] = {}

    def segments(self, pack: Pack, first: int, count: int) -> Opened:
        """repo.opened.Segments."""
        name = f"packs/{self._run_id}/{pack.id}"
        start = first * SEGMENT
        wanted = span(pack.length, start, min(count * SEGMENT, pack.length - start))
        opener = self._openers.get(pack.id)
        if opener is None and first == 0:  # the header lies before the first segment: one request for both
            data = memoryview(self._store.get(name, HEADER + wanted.length))
            opener = self._openers[pack.id] = self._opener(pack, bytes(data[:HEADER]))
            return Opened(opener.open(wanted, data[HEADER:]), opener.keys.name)
        if opener is None:
            opener = self._openers[pack.id] = self._opener(pack, self._store.get(name, HEADER))
        plain = opener.open(wanted, self._store.get(name, wanted.length, offset=wanted.offset))
        return Opened(plain, opener.keys.name)

    def _opener(self, pack: Pack, header: bytes) -> Opener:
        return Opener(self._secret, self._run_id, pack.id, pack.length, header)


def used_packs(contents: Iterable[Contents]) -> Mapping[str, Pack]:
    """The packs that these snapshots need, by id."""
    return {pack.id: pack for one in contents for pack in one.table.packs}
