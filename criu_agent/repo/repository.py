"""Snapshots in a store. The manifest is written last: its existence is the snapshot (docs/format.md, 9)."""

import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from blake3 import blake3

from criu_agent.errors import Corrupt, HostCannot, NotFound
from criu_agent.model import Blob, Manifest, Snapshot
from criu_agent.repo import chunks, manifest, specs
from criu_agent.repo.chunks import Advance, Readable, nothing
from criu_agent.repo.fields import HEX, Fields
from criu_agent.store.base import Store
from criu_agent.store.document import behind_version_line, from_json, to_json, version_line

VERSION = 1
_CONFIG = "config"
_CONFIG_LIMIT = 1 << 16
_SNAPSHOTS = "snapshots/"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All snapshots of a repository, the newest last, and an error for each manifest that cannot be read."""

    snapshots: tuple[Snapshot, ...]
    unreadable: tuple[Corrupt | HostCannot, ...]


class Repository:
    """A store whose `config` was read. It may be used by several threads, and has nothing to be closed.

    `advance`, where it is taken, is told the plain bytes that are done since it was last called.
    """

    def __init__(self, store: Store, repository_id: str) -> None:
        self.store = store
        self.id = repository_id
        self._added = 0
        self._lock = threading.Lock()

    def save(self, source: Readable | int, size: int, *, advance: Advance = nothing) -> Blob:
        """Store `size` bytes of a file object or descriptor from its position on. Failure if it ends early."""
        blob, added = chunks.save(self.store, source, size, advance=advance)
        with self._lock:
            self._added += added
        return blob

    def load(self, blob: Blob, fd: int, *, advance: Advance = nothing) -> None:
        """Write a blob into the empty file `fd`. Corrupt names the chunk, before a wrong byte is written."""
        chunks.load(self.store, blob, fd, advance=advance)

    def stream(self, blob: Blob, *, advance: Advance = nothing) -> Iterator[bytes]:
        """The bytes of a blob in pieces, each verified before it is handed out."""
        return chunks.stream(self.store, blob, advance=advance)

    def pread(self, blob: Blob, offset: int, length: int) -> bytes:
        """`length` verified bytes of a blob from `offset` on, fewer at its end."""
        return chunks.pread(self.store, blob, offset, length)

    def commit(self, new: Manifest) -> Snapshot:
        """Write the manifest, the last write of a snapshot. Its `stored` is what was saved since the last one."""
        with self._lock:
            added = self._added
        new = replace(new, stored=added)
        data = manifest.encode(new)
        snapshot_id = blake3(data).hexdigest()
        self.store.put(_SNAPSHOTS + snapshot_id, data)
        with self._lock:
            self._added -= added
        return _snapshot(snapshot_id, new)

    def read(self, snapshot_id: str) -> Snapshot:
        """The snapshot of that whole id. NotFound, Corrupt, or HostCannot for a version that is not ours."""
        try:
            data = self.store.get(_SNAPSHOTS + snapshot_id, manifest.SIZE_LIMIT + 1)
        except NotFound as error:
            raise NotFound(f"there is no snapshot {snapshot_id}", hint="`criu-agent snapshots` lists them") from error
        if blake3(data).hexdigest() != snapshot_id:
            raise Corrupt(
                f"the manifest of snapshot {snapshot_id} is changed or truncated",
                hint="restore another snapshot: `criu-agent snapshots` lists them",
            )
        return _snapshot(snapshot_id, manifest.decode(data, f"snapshot {snapshot_id}"))

    def snapshots(self) -> Listing:
        """Everything that is there; a manifest that cannot be read does not hide the others."""
        found: list[Snapshot] = []
        unreadable: list[Corrupt | HostCannot] = []
        for name in self.store.list(_SNAPSHOTS):
            snapshot_id = name.removeprefix(_SNAPSHOTS)
            if not HEX.fullmatch(snapshot_id):
                continue
            try:
                found.append(self.read(snapshot_id))
            except NotFound:  # deleted since it was listed
                continue
            except (Corrupt, HostCannot) as error:
                unreadable.append(error)
        return Listing(snapshots=tuple(specs.oldest_first(found)), unreadable=tuple(unreadable))

    def find(self, spec: str) -> Snapshot:
        """The snapshot that SNAP means (repo.specs). Corrupt or HostCannot if it cannot be read.

        What is not an id is refused while any manifest is unreadable: it could be the very newest, and to
        restore an older state in its place, unasked, would repeat what the agent did since.
        """
        listing = self.snapshots()
        if not listing.unreadable:
            return specs.choose(spec, listing.snapshots)
        if specs.is_prefix(spec) and not specs.names_run(spec, listing.snapshots):
            names = self.store.list(_SNAPSHOTS + spec)
            if len(names) == 1:
                return self.read(names[0].removeprefix(_SNAPSHOTS))
        error = listing.unreadable[0]
        intact = specs.choose(spec, listing.snapshots)
        raise type(error)(
            f"{error.message}, and it may be newer than what {spec} would be without it",
            hint=f"name the snapshot by its id; the one that can be read is {intact.id[:16]}",
        )

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete the manifest of that whole id: the snapshot is gone. Its chunks stay (docs/format.md, 9)."""
        self.store.delete(_SNAPSHOTS + snapshot_id)

    def verify(self, snapshot: Snapshot, *, advance: Advance = nothing) -> None:
        """Read the manifest again and every chunk that it names. Corrupt for the first that is not right."""
        chunks.verify(self.store, _blobs(self.read(snapshot.id).manifest), advance=advance)


def open_or_init(store: Store) -> Repository:
    """The repository in that store, made if the store is empty.

    Corrupt if its `config` is damaged or lost, HostCannot if it has a version that is not ours.
    """
    try:
        data = store.get(_CONFIG, _CONFIG_LIMIT)
    except NotFound as error:
        if store.list("chunks/") or store.list(_SNAPSHOTS):
            raise Corrupt("config of the repository is missing", hint="bring it back from a copy") from error
        store.put(_CONFIG, _encode_config(secrets.token_hex(16), datetime.now(UTC)))
        data = store.get(_CONFIG, _CONFIG_LIMIT)  # ours, or that of whoever was quicker
    return Repository(store, _repository_id(data))


def _encode_config(repository_id: str, created: datetime) -> bytes:
    document = {
        "created": created.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "id": repository_id,
    }
    body = version_line("repository", VERSION) + to_json(document) + b"\n"
    return body + blake3(body).hexdigest().encode() + b"\n"


def _repository_id(data: bytes) -> str:
    what = "config of the repository"
    body, checksum = data[:-65], data[-65:]
    if blake3(body).hexdigest().encode() + b"\n" != checksum:
        raise Corrupt(f"{what} is changed or truncated", hint="bring it back from a copy")
    fields = Fields(from_json(behind_version_line(body, "repository", VERSION, what), what), what)
    fields.time("created")
    return fields.name("id")


def _blobs(of: Manifest) -> list[Blob]:
    """Every blob that a manifest names."""
    blobs = [*of.images.values(), *of.attachments.values()]
    for tree in of.trees.values():
        blobs += [tree.index, *tree.blobs]
    return blobs


def _snapshot(snapshot_id: str, of: Manifest) -> Snapshot:
    return Snapshot(id=snapshot_id, manifest=of, size=sum(blob.size for blob in _blobs(of)))
