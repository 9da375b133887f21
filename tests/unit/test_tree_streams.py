"""A tree that was saved before: what its streams are called, and what is stored again when files change."""

import os
import zlib
from pathlib import Path

import pytest

from criu_agent.fs.rebuild import rebuild
from criu_agent.fs.tree import capture, save
from criu_agent.model import Blob, Source, Tree
from criu_agent.repo.windows import PAGE
from tests.fakes.vault import Vault

_BIG = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    for number in range(40):
        (path / f"file{number:02}").write_bytes(os.urandom(1000))
    (path / "big").write_bytes(os.urandom(3 * _BIG))
    (path / "zbig").write_bytes(os.urandom(2 * _BIG))
    return path


def take(vault: Vault, root: Path) -> tuple[Tree, list[str]]:
    names: list[str] = []

    def store(sources: object) -> list[Blob]:
        streams = dict[str, bytes]()
        for source in sources:  # type: ignore[attr-defined]
            assert isinstance(source, Source)
            data = bytearray(source.size)
            view = memoryview(data)
            while view:
                view = view[source.content.readinto(view) or 0 :]
            streams[source.stream] = bytes(data)
        names.extend(streams)
        return list(vault.save(streams).values())

    with capture(root, spool=None) as captured:
        return save(captured, store, "upper"), names


def changed_bytes(vault: Vault, before: frozenset[str]) -> int:
    return sum(piece.plain for piece in vault.table.pieces if piece.name not in before)


def known(vault: Vault) -> frozenset[str]:
    return frozenset(piece.name for piece in vault.table.pieces)


def test_streams_are_called_by_paths_and_a_tree_comes_back(tmp_path: Path, root: Path) -> None:
    vault = Vault(tmp_path)
    tree, names = take(vault, root)
    assert names == ["upper/file/big", "upper/after/big", "upper/file/zbig", "upper/index"]
    into = tmp_path / "into"
    into.mkdir()
    rebuild(tree, vault.reader.stream, into)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {
        path.name: path.read_bytes() for path in root.iterdir()
    }


def test_an_append_to_a_big_file_stores_its_last_pages(tmp_path: Path, root: Path) -> None:
    vault = Vault(tmp_path)
    take(vault, root)
    before = known(vault)
    with open(root / "big", "ab") as file:
        file.write(b"line\n")
    index_size = vault.blobs["upper/index"].size
    take(vault, root)
    assert changed_bytes(vault, before) <= 5 + index_size + PAGE


def test_a_new_file_changes_no_other_group(tmp_path: Path, root: Path) -> None:
    end = next(name for name in (f"m{number}" for number in range(9999)) if zlib.crc32(name.encode()) % 256 == 0)
    (root / end).write_bytes(os.urandom(1000))
    (root / "n").write_bytes(os.urandom(200 * PAGE))
    vault = Vault(tmp_path)
    _, names = take(vault, root)
    assert f"upper/after/{end}" in names
    before = known(vault)
    (root / "aaa").write_bytes(b"new")
    _, again = take(vault, root)
    assert again == ["upper/after/", *names]
    assert changed_bytes(vault, before) <= vault.blobs["upper/index"].size + PAGE


def test_a_line_of_another_length_changes_the_index_only_near_itself(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(3000):
        (root / f"file{number:04}").write_bytes(b"%d" % number)
    vault = Vault(tmp_path)
    take(vault, root)
    before, size = known(vault), vault.blobs["upper/index"].size
    os.utime(root / "file1500", ns=(0, 5))
    take(vault, root)
    assert 0 < changed_bytes(vault, before) < size / 3
