"""Which files of the host a run uses, and what is said of those that are others on this host."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from criu_agent.box.layout import Layout
from criu_agent.errors import Corrupt, HostCannot
from criu_agent.linux.proc import MappedFile
from criu_agent.model import Blob, Contents, Table, Tree
from criu_agent.ops import closure
from criu_agent.ops.closure import Used
from tests.unit.test_plan import ROOT_MOUNT, descriptor, facts

LINE = b"criu-agent closure 1\n"
HASH = "ab" * 32


class Text:
    """A reader that gives the same bytes for every blob."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self, _blob: Blob) -> list[bytes]:
        return [self._data]


def mapped(path: str) -> MappedFile:
    return MappedFile(range="1-2", perms="r-xp", device="fe:00", inode=5, path=path)


def read(data: bytes, *, size: int | None = None) -> dict[str, Used]:
    blob = Blob(size=len(data) if size is None else size, extents=())
    contents = Contents(
        table=Table(packs=(), pieces=()),
        images={},
        trees={"closure": Tree(index=blob, blobs=())},
        attachments={"closure": blob},
    )
    return dict(closure.read(Text(data), contents))  # type: ignore[arg-type]


def listed(path: Path) -> Used:
    data = path.read_bytes()
    return Used(len(data), "", blake3(data).hexdigest())


def test_it_is_what_is_mapped_or_open_of_the_hosts_own_files(tmp_path: Path) -> None:
    layout = Layout(directory=tmp_path, binds=(), hidden=())
    (layout.upper / "usr").mkdir(parents=True)
    (layout.upper / "usr/changed").touch()
    found = facts(
        descriptor("/etc/open", type=0o100000),
        descriptor("/etc/gone (deleted)", type=0o100000),
        descriptor("/srv/work/written-through", type=0o100000),
        descriptor("/etc", type=0o040000),
        mappings={100: tuple(map(mapped, ("/usr/lib/libc.so.6", "/memfd:x", "/usr/changed", "/dev/zero")))},
        mounts={2: (ROOT_MOUNT, *(replace(ROOT_MOUNT, id=60, point=point) for point in ("/dev", "/srv/work")))},
    )
    assert closure.used(found, layout) == {"/etc/open", "/usr/lib/libc.so.6"}


def test_every_difference_has_its_words(tmp_path: Path) -> None:
    same, other, longer = (tmp_path / name for name in ("same", "other", "longer"))
    for path in (same, other, longer):
        path.write_bytes(b"12345")
    known = {str(path): listed(path) for path in (same, other, longer)}
    other.write_bytes(b"54321")
    longer.write_bytes(b"123456")
    gone, fifo = tmp_path / "gone", tmp_path / "fifo"
    os.mkfifo(fifo)
    known |= {str(gone): Used(1, "", HASH), str(fifo): Used(0, "", HASH)}
    assert closure.differing(known, tmp_path / "no cache") == [
        f"{other} has another content",
        f"{longer} has another size",
        f"{gone} is missing",
        f"{fifo} is missing",
    ]


def test_a_damaged_cache_is_as_none(tmp_path: Path) -> None:
    file, cache = tmp_path / "file", tmp_path / "cache"
    file.write_bytes(b"12345")
    for text in ("", "[]", '{"a":1}', '{"a":[[1],[2]]}', "x" * 10):
        cache.write_text(text)
        assert closure.differing({str(file): listed(file)}, cache) == []


def test_a_list_comes_back() -> None:
    assert read(LINE + f'{{"/a":[5,"","{HASH}"],"/b":[0,"00ff","{HASH}"]}}'.encode()) == {
        "/a": Used(5, "", HASH),
        "/b": Used(0, "00ff", HASH),
    }


@pytest.mark.parametrize(
    "rows",
    ["[]", '{"a":[5,"","HASH"]}', '{"/a":[5,"HASH"]}', '{"/a":["5","","HASH"]}', '{"/a":[5,"","x"]}', "{"],
)
def test_a_list_that_no_checkpoint_has_written_is_corrupt(rows: str) -> None:
    with pytest.raises(Corrupt, match="list of files that the snapshot uses is changed"):
        read(LINE + rows.replace("HASH", HASH).encode())


def test_a_list_of_another_version_or_of_any_length_is_not_read() -> None:
    with pytest.raises(HostCannot, match="format 2"):
        read(b"criu-agent closure 2\n{}")
    with pytest.raises(Corrupt, match="too long"):
        read(LINE + b"{}", size=1 << 40)
