"""A repository as a host has it after a while, made and opened by the tool's own functions (ops.vault)."""

import dataclasses
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from criu_agent.config import Config
from criu_agent.fs.entry import Entry, to_line
from criu_agent.model import Manifest, Snapshot, Tree
from criu_agent.ops import vault
from criu_agent.repo import wrap
from criu_agent.repo.repository import Repository
from criu_agent.repo.writer import writing
from criu_agent.store.base import Store
from criu_agent.store.memory import MemoryStore
from tests.fakes.repositories import EMPTY, NOTHING, US, blob, lives

Objects = Mapping[str, bytes]


def config_in(directory: Path, **changes: object) -> Config:
    """The configuration of a host whose files are all below `directory`."""
    made = Config(
        state_dir=directory / "state",
        runtime_dir=directory / "run",
        repository=str(directory / "repository"),
        endpoint_url="",
        key_file=None,
        passphrase_file=None,
        criu=directory / "criu",
        init=directory / "init",
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@contextmanager
def stored_in(store: Store) -> Iterator[None]:
    """Every repository that is opened is the one in that store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault, "open_store", lambda _url, **_options: store)
        yield


def store_of(objects: Objects) -> MemoryStore:
    store = MemoryStore()
    store.objects.update(objects)
    return store


@dataclass(frozen=True, kw_only=True)
class Vault:
    """objects: what its store holds. older: what some of the names held before. gone: objects that were deleted."""

    config: Config
    objects: Objects
    older: Objects
    gone: Objects
    snapshots: tuple[Snapshot, ...]

    @property
    def key_file(self) -> Path:
        (path,) = self.config.keys.glob("*.key")
        return path


def grown(directory: Path, *, seed: int = 1, rotated: bool = True) -> Vault:
    """Two runs, one of them with two names' worth of history: parents and page hashes, files, tags that were changed,
    a snapshot that was forgotten, and in the middle of it a rotation of the keys."""
    config = config_in(directory)
    store, dice = MemoryStore(), random.Random(seed)
    older: dict[str, bytes] = {}
    ever: dict[str, bytes] = {}

    def noted() -> None:
        for name, data in store.objects.items():
            if ever.get(name, data) != data:
                older[name] = ever[name]
            ever[name] = data

    memory = bytearray(dice.randbytes(100_000) + bytes(40_000))
    made: list[Snapshot] = []
    with stored_in(store):
        repository = vault.open_repository(config)
        vault.add_key(repository, recipient=wrap.recipient_of(wrap.generate()), passphrase=b"", label="another host")
        for number in range(6):
            repository = vault.open_repository(config)
            run = "run-b" if number in (2, 4) else "run-a"
            mine = [one for one in made if one.manifest.run_id == run]
            for _ in range(4):
                at = dice.randrange(24) * 4096
                memory[at : at + 4096] = dice.randbytes(4096)
            of = replace(
                EMPTY,
                run_id=run,
                run_name=run.replace("run", "agent"),
                created=f"2026-11-21T03:14:{number:02}.000000Z",
                tags=("made",) if number == 1 else (),
                parent=mine[-1].id if mine else "",
            )
            made.append(_take(repository, of, bytes(memory), dice.randbytes(3000), directory / f"{run}.pages"))
            noted()
            if number in (1, 4):
                repository.tag(made[-1], ["good", "kept"])
                noted()
                repository.tag(made[-1], ["kept"])
                noted()
            if number == 3:
                repository.remove([made.pop(0)], keep=repository.snapshots("run-a").snapshots)
                noted()
            if number == 2 and rotated:
                vault.rotate_keys(config, repository, passphrases=(), drop=())
                noted()
    return Vault(
        config=config,
        objects=dict(store.objects),
        older=older,
        gone={name: data for name, data in ever.items() if name not in store.objects},
        snapshots=tuple(made),
    )


def contents_of(repository: Repository, snapshot: Snapshot) -> dict[str, bytes]:
    """Every blob of a snapshot that `grown` has made, by name."""
    contents = repository.contents(snapshot)
    reader = repository.reader(snapshot, contents)
    blobs = {**contents.images, **contents.attachments}
    for name, tree in contents.trees.items():
        blobs |= {f"{name}/index": tree.index, **{f"{name}/{number}": one for number, one in enumerate(tree.blobs)}}
    return {name: b"".join(reader.stream(one)) for name, one in blobs.items()}


def _take(repository: Repository, of: Manifest, memory: bytes, file: bytes, hashes: Path) -> Snapshot:
    with writing(repository, of.run_id, holder=US, lives=lives, parent=of.parent, hashes=hashes) as writer:
        images = {
            "pages-1.img": blob(writer, "memory/pagemap-1.img", memory),
            "core-1.img": blob(writer, "image/core-1.img", file[:700]),
        }
        data = blob(writer, "upper/after/", file)
        tree = Tree(index=blob(writer, "upper/index", _index(len(file))), blobs=(data,))
        said = {"scrollback": blob(writer, "scrollback", file[-50:])}
        return writer.commit(of, replace(NOTHING, images=images, trees={"upper": tree}, attachments=said))


def _index(size: int) -> bytes:
    root = Entry(path="", kind="directory", mode=0o755)
    file = Entry(path="kept", kind="file", mode=0o600, size=size, extents=((0, size),))
    return b"criu-agent tree 1\n" + b"".join(to_line(one) + b"\n" for one in (root, file))
