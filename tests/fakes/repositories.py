"""Repositories without a configuration: a store, a secret of their own, and snapshots of a few bytes."""

import io
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from criu_agent.model import Blob, Contents, Host, Manifest, Snapshot, Source, Table, Tree
from criu_agent.repo import header, secret
from criu_agent.repo.floor import Floor
from criu_agent.repo.locks import Holder
from criu_agent.repo.repository import Repository
from criu_agent.repo.secret import Secret
from criu_agent.repo.writer import Writer, writing
from criu_agent.store.base import Store
from criu_agent.store.memory import MemoryStore

NOW = "2026-11-21T03:14:15.000001Z"
HOST = Host(hostname="h", boot_id="b", kernel="6.1", machine="x86_64", page_size=4096, criu="4.1.1")
EMPTY = Manifest(
    run_id="run-1",
    run_name="agent",
    sequence=1,
    parent="",
    created=NOW,
    reason="user",
    stopped=False,
    argv=("bash",),
    workdir="/srv",
    labels={},
    tags=(),
    host=HOST,
    resources={},
)
NOTHING = Contents(table=Table(packs=(), pieces=()), images={}, trees={}, attachments={})
US = Holder(hostname="h", boot_id="b", pid=os.getpid(), start=1, what="test", since=NOW)


THEM = replace(US, pid=1)


def lives(_holder: Holder) -> bool:
    return True


def dead(_holder: Holder) -> bool:
    return False


def opened(
    store: Store | None = None, *, keys: Secret | None = None, state: Path | None = None, older: bool = False
) -> Repository:
    """The repository in `store`, made if it is empty. keys: its secret; state: what its host remembers."""
    store = store if store is not None else MemoryStore()
    found = header.read(store) if header.NAME in store.list(header.NAME) else None
    found = found or header.write(store, created=NOW, conditional=True)
    state = state or Path(tempfile.mkdtemp(prefix="criu-agent-test-"))
    return Repository(store, found, keys or secret.new(found.id), Floor(state, found.id), older=older)


def blob(writer: Writer, name: str, content: bytes) -> Blob:
    return writer.save([Source(stream=name, size=len(content), content=io.BytesIO(content))])[0]


def take(
    repository: Repository,
    images: Mapping[str, bytes] | None = None,
    *,
    of: Manifest = EMPTY,
    parent: str = "",
    hashes: Path | None = None,
    holders_live: bool = True,
    holder: Holder = US,
) -> Snapshot:
    """Save and commit a snapshot with these images, as a checkpoint does."""
    with writing(
        repository, of.run_id, holder=holder, lives=lives if holders_live else dead, parent=parent, hashes=hashes
    ) as writer:
        saved = {name: blob(writer, f"image/{name}", data) for name, data in (images or {}).items()}
        return writer.commit(replace(of, parent=parent), replace(NOTHING, images=saved))


def take_tree(repository: Repository, index: bytes, *data: bytes) -> Snapshot:
    """A snapshot with a tree "upper" of that index and these blobs."""
    with writing(repository, EMPTY.run_id, holder=US, lives=lives, parent="", hashes=None) as writer:
        blobs = tuple(blob(writer, f"upper/{number}", one) for number, one in enumerate(data))
        tree = Tree(index=blob(writer, "upper/index", index), blobs=blobs)
        return writer.commit(EMPTY, replace(NOTHING, trees={"upper": tree}))


def read_back(repository: Repository, snapshot: Snapshot) -> dict[str, bytes]:
    """The bytes of its images, by two ways that must agree."""
    contents = repository.contents(snapshot)
    reader = repository.reader(snapshot, contents)
    found = {name: b"".join(reader.stream(one)) for name, one in contents.images.items()}
    files = {name: os.memfd_create(name) for name in found}
    try:
        reader.load([(contents.images[name], fd) for name, fd in files.items()])
        assert {name: os.pread(fd, len(found[name]) + 1, 0) for name, fd in files.items()} == found
    finally:
        for fd in files.values():
            os.close(fd)
    return found
