"""A repository's data path without keys and manifests: streams in, table and blobs out, and back."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

from criu_agent.errors import NotFound
from criu_agent.model import Blob, Pack, PageRun, Source, Table
from criu_agent.repo import pages
from criu_agent.repo.opened import Opened
from criu_agent.repo.packs import SEGMENT, Writer, prefix
from criu_agent.repo.reading import Reader
from criu_agent.repo.saving import Parent, Saving
from criu_agent.store.memory import MemoryStore

KEY = bytes(range(32))
_PREFIX = prefix("run")


def plain(_pack: str, parts: Sequence[bytes | memoryview], _room: memoryview) -> memoryview:
    """A seal that closes nothing."""
    return memoryview(b"".join(parts))


class Vault:
    """Every `save` is a snapshot of streams by name; the one before is its parent unless `full` is asked for."""

    def __init__(self, place: Path) -> None:
        self.store = MemoryStore()
        self.cache = place / "hashes"
        self.asked: list[tuple[str, int, int]] = []  # segments that were read: pack, first, count
        self.table = Table(packs=(), pieces=())
        self.blobs: dict[str, Blob] = {}
        self.added = 0
        self._number = 0

    def save(
        self, streams: dict[str, bytes], runs: dict[str, tuple[PageRun, ...]] | None = None, *, full: bool = False
    ) -> dict[str, Blob]:
        parent = None
        if self._number and not full:
            parent = Parent(table=self.table, hashed=pages.read(self.cache, self._id(), KEY))
        writer = Writer(self.store, "run", plain)
        saving = Saving(key=KEY, writer=writer, parent=parent)
        sources = (
            Source(stream=name, size=len(data), content=io.BytesIO(data), runs=(runs or {}).get(name, ()))
            for name, data in streams.items()
        )
        self.blobs = dict(zip(streams, saving.save(sources), strict=True))
        self.table, self.added = saving.finish(), writer.added
        self._number += 1
        saving.remember(self.cache, self._id())
        return self.blobs

    def _id(self) -> str:
        return f"{self._number:064x}"

    def segments(self, pack: Pack, first: int, count: int) -> Opened:
        self.asked.append((pack.id, first, count))
        name = _PREFIX + pack.id
        if name not in self.store.objects:
            raise NotFound(f"there is no {name}")
        return Opened(self.store.objects[name][first * SEGMENT : (first + count) * SEGMENT], KEY)

    @property
    def reader(self) -> Reader:
        return Reader(table=self.table, segments=self.segments)

    def load(self, blob: Blob, path: Path) -> bytes:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            self.reader.load([(blob, fd)])
        finally:
            os.close(fd)
        return path.read_bytes()
