"""Write one snapshot of a run: packs, then its manifest, then the head (docs/format.md, commit)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from blake3 import blake3

from criu_agent import log
from criu_agent.errors import Corrupt, HostCannot, NotFound
from criu_agent.model import Blob, Contents, Manifest, Snapshot, Source, Tree
from criu_agent.repo import catalogue, envelope, locks, manifest, packs, pages, seal
from criu_agent.repo.catalogue import Name
from criu_agent.repo.heads import Overtaken
from criu_agent.repo.locks import Holder, Lives
from criu_agent.repo.repository import Repository
from criu_agent.repo.saving import Parent, Saving
from criu_agent.repo.workers import Advance, nothing


class Writer:
    """The one who writes snapshots of a run now; `writing` makes it.

    The parent, which new pages are compared with, is the snapshot of `parent` if it is there and has keys of now.
    """

    def __init__(self, repository: Repository, run_id: str, *, parent: str, hashes: Path | None) -> None:
        self._repository = repository
        self._run_id = run_id
        self._hashes = hashes
        self._keys = repository.keys(run_id)
        self._head = repository.heads.read(run_id)
        for left in catalogue.uncommitted(catalogue.names(repository.store, run_id), run_id, self._head):
            repository.store.delete(left.object)
        self._packs = packs.Writer(repository.store, run_id, partial(seal.seal, self._keys))
        before = self._parent(parent)
        self.trees: Mapping[str, Tree] = before.trees if before else {}  # of the parent: what can be taken from it
        self._saving = Saving(key=self._keys.name, writer=self._packs, parent=before)

    @property
    def sequence(self) -> int:
        """The number of the snapshot that is being made."""
        return self._head.sequence + 1

    def save(self, sources: Iterable[Source], *, advance: Advance = nothing) -> list[Blob]:
        """A blob for each source, in their order. `advance` is told plain bytes. Failure if a source ends early."""
        return self._saving.save(sources, advance=advance)

    def commit(self, new: Manifest, contents: Contents) -> Snapshot:
        """Make the snapshot of what was saved. `contents` has an empty table; the rest of `new` is the caller's.

        Its sequence, size and stored bytes are filled in. On an error there is no snapshot.
        """
        contents = replace(contents, table=self._saving.finish())
        new = replace(new, sequence=self.sequence, size=contents.size, stored=self._packs.added)
        plain = manifest.encode(new, contents)
        data = envelope.seal_manifest(self._repository.secret, self._run_id, plain)
        name = blake3(data).hexdigest()
        place = Name(run=self._run_id, sequence=new.sequence, snapshot=name)
        self._repository.store.put(place.object, data)
        self._move_head(place)
        if self._hashes:
            self._remember(self._hashes, name)
        return Snapshot(id=name, manifest=new, tags=new.tags, generation=self._keys.generation)

    def withdraw(self, snapshot: Snapshot) -> None:
        """Take back what `commit` made: the run was not stopped at it after all."""
        self._repository.heads.move(
            self._run_id, to=self._head.snapshot, sequence=self._head.sequence, from_snapshot=snapshot.id
        )
        self._repository.store.delete(catalogue.name_of(snapshot).object)

    def _move_head(self, place: Name) -> None:
        """The commit. After any error but Overtaken it may have been made all the same: nothing is taken back."""
        try:
            self._repository.heads.move(
                self._run_id, to=place.snapshot, sequence=place.sequence, from_snapshot=self._head.snapshot
            )
        except Overtaken:
            self._repository.store.delete(place.object)
            raise

    def _remember(self, path: Path, snapshot_id: str) -> None:
        try:
            self._saving.remember(path, snapshot_id)
        except OSError as error:  # the next snapshot stores more than it would have to
            log.warning("the page hashes of snapshot %s could not be kept: %s", snapshot_id, error)

    def _parent(self, snapshot_id: str) -> Parent | None:
        if not snapshot_id:
            return None
        try:
            snapshot = self._repository.read(snapshot_id)
            if snapshot.manifest.run_id != self._run_id or snapshot.generation != self._keys.generation:
                return None
            contents = self._repository.contents(snapshot)
        except (NotFound, Corrupt, HostCannot) as error:
            log.info("everything is stored anew: %s", error.message)
            return None
        hashed = pages.read(self._hashes, snapshot_id, self._keys.name) if self._hashes else None
        return Parent(table=contents.table, trees=contents.trees, hashed=hashed)


@contextmanager
def writing(
    repository: Repository, run_id: str, *, holder: Holder, lives: Lives, parent: str, hashes: Path | None
) -> Iterator[Writer]:
    """Hold the run's lock and write a snapshot of it. An error leaves packs that no snapshot names: see `prune`.

    hashes: the file with the page hashes of the last snapshot that this host made of the run.
    """
    with locks.held(repository.registers, run_id, holder, lives=lives):
        yield Writer(repository, run_id, parent=parent, hashes=hashes)
