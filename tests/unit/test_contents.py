"""The files of a snapshot's layer: which there are, and their bytes; the images of its processes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from criu_agent.errors import Corrupt, Failure, NotFound
from criu_agent.fs.entry import LINK, Entry, to_line
from criu_agent.fs.tree import capture, save
from criu_agent.ops import contents
from criu_agent.repo.repository import Repository
from criu_agent.repo.writer import writing
from tests.fakes.images import tree as images
from tests.fakes.repositories import EMPTY, NOTHING, US, lives, take, take_tree

BLOCK = 1 << 16
MIB = 1 << 20
ROOT = Entry(path="", kind="directory", mode=0o755)


def taken(repository: Repository, root: Path) -> contents.Layer:
    with (
        capture(root, spool=None) as captured,
        writing(repository, EMPTY.run_id, holder=US, lives=lives, parent="", hashes=None) as writer,
    ):
        tree = save(captured, writer.save, name="upper")
        snapshot = writer.commit(EMPTY, replace(NOTHING, trees={"upper": tree}))
    return contents.layer(repository, snapshot)


def forged(repository: Repository, *entries: Entry, data: bytes = b"") -> contents.Layer:
    index = b"criu-agent tree 1\n" + b"".join(to_line(one) + b"\n" for one in (ROOT, *entries))
    return contents.layer(repository, take_tree(repository, index, data))


def content(layer: contents.Layer, path: str) -> bytes:
    return b"".join(contents.file_bytes(layer, path))


def fill(root: Path) -> Path:
    (root / "d/e").mkdir(parents=True)
    (root / "d/text").write_bytes(b"text\n")
    (root / "d/empty").touch()
    (root / "d/large").write_bytes(os.urandom(3 << 20))
    with open(root / "d/holes", "wb") as file:
        for number in (1, 5):
            os.pwrite(file.fileno(), bytes([number]) * BLOCK, number * BLOCK)
        file.truncate(8 * BLOCK)
    (root / "d/only-a-hole").touch()
    os.truncate(root / "d/only-a-hole", 9 << 20)
    os.link(root / "d/text", root / "z")
    (root / "d/link").symlink_to("text")
    os.mkfifo(root / "d/fifo")
    (root / os.fsdecode(b"\xff\n")).write_bytes(b"odd")
    return root


def test_every_file_has_the_bytes_that_it_had(tmp_path: Path, repository: Repository) -> None:
    layer = taken(repository, fill(tmp_path))
    for name in ("d/text", "d/empty", "d/large", "d/holes", "d/only-a-hole", "z", os.fsdecode(b"\xff\n")):
        assert content(layer, f"/{name}") == (tmp_path / name).read_bytes(), name
    assert max(map(len, contents.file_bytes(layer, "d/only-a-hole"))) <= 4 << 20


@pytest.mark.parametrize("path", ["/d/text", "d/text", "//d/./text", "/d/e/../text", "/../d/text", "/d/text/"])
def test_a_path_may_be_written_in_every_way(tmp_path: Path, repository: Repository, path: str) -> None:
    assert content(taken(repository, fill(tmp_path)), path) == b"text\n"


@pytest.mark.parametrize(
    ("path", "kind", "what"),
    [
        ("/", Failure, "/ is a directory"),
        ("/d/e", Failure, "/d/e is a directory"),
        ("/d/link", Failure, "/d/link is a symbolic link to text"),
        ("/d/fifo", Failure, "/d/fifo is a fifo and has no content"),
        ("/d/link/x", NotFound, "the snapshot has no file /d/link/x"),
        ("/d/nothing", NotFound, "the snapshot has no file /d/nothing"),
    ],
)
def test_what_is_no_file_is_said(
    tmp_path: Path, repository: Repository, path: str, kind: type[Failure], what: str
) -> None:
    with pytest.raises(kind) as error:
        contents.file_bytes(taken(repository, fill(tmp_path)), path)
    assert (type(error.value), error.value.message) == (kind, what)


def test_a_file_of_the_host_that_was_removed_is_not_there(repository: Repository) -> None:
    first = Entry(path="gone", kind="character")
    layer = forged(repository, first, Entry(path="too", kind=LINK, target="gone"))
    for path in ("gone", "too"):
        with pytest.raises(NotFound, match=f"^{path} was removed by the run"):
            contents.file_bytes(layer, path)


def test_listing_is_of_a_directory_a_file_or_everything(tmp_path: Path, repository: Repository) -> None:
    entries = taken(repository, fill(tmp_path)).entries
    directly = ["d/e", "d/empty", "d/fifo", "d/holes", "d/large", "d/link", "d/only-a-hole", "d/text"]
    assert contents.listed(entries, "/d/", recursive=False) == directly
    assert contents.listed(entries, "/", recursive=False) == ["d", "z", "\udcff\n"]
    assert contents.listed(entries, "", recursive=True) == ["d", *directly, "z", "\udcff\n"]
    assert contents.listed(entries, "/d/text", recursive=True) == ["d/text"]
    with pytest.raises(NotFound):
        contents.listed(entries, "/d/t", recursive=True)


def test_the_same_bytes_are_the_same_wherever_they_lie(tmp_path: Path, repository: Repository) -> None:
    (fill(tmp_path) / "d/in-between").write_bytes(b"behind the others")
    before = taken(repository, tmp_path)
    (tmp_path / "d/empty").write_bytes(b"now they lie elsewhere")
    (tmp_path / "d/holes").write_bytes((tmp_path / "d/holes").read_bytes())  # without the holes
    large = bytearray((tmp_path / "d/large").read_bytes())
    large[-1] ^= 1
    (tmp_path / "d/large").write_bytes(large)
    after = taken(repository, tmp_path)

    def same(path: str) -> bool:
        return contents.same_content(before, after, before.entries[path], after.entries[path])

    assert before.entries["d/in-between"].offset != after.entries["d/in-between"].offset
    assert same("d/in-between")
    assert not same("d/large")
    assert same("d/only-a-hole")
    assert before.entries["d/holes"].extents != after.entries["d/holes"].extents


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(path="a", kind="fifo"), Entry(path="a", kind="fifo")],
        [Entry(path="a", kind=LINK, target="b"), Entry(path="b", kind="fifo")],
        [Entry(path="a", kind=LINK, target="a")],
        [Entry(path="a", kind="file", size=1, extents=((0, 1),), blob=7)],
    ],
)
def test_an_index_that_breaks_a_rule_is_corrupt(repository: Repository, entries: Sequence[Entry]) -> None:
    with pytest.raises(Corrupt, match="the index of a tree is changed"):
        forged(repository, *entries)


def test_a_file_with_more_data_than_its_blob_is_corrupt(repository: Repository) -> None:
    layer = forged(repository, Entry(path="a", kind="file", size=9, extents=((0, 9),), offset=1), data=b"12345")
    with pytest.raises(Corrupt, match="'a' has more data than its blob"):
        content(layer, "a")


def test_a_snapshot_without_files_is_corrupt(repository: Repository) -> None:
    with pytest.raises(Corrupt, match="the snapshot has no files"):
        contents.layer(repository, take(repository))


def test_processes_are_described_from_the_repository(repository: Repository) -> None:
    processes = contents.description(repository, take(repository, images().data)).processes
    assert [(one.pid, one.comm, one.state) for one in processes.values()] == [
        (1, "init", "running"),
        (2, "sh", "running"),
        (3, "true", "zombie"),
    ]


def test_an_image_is_given_as_it_is_and_a_wrong_name_says_which_there_are(repository: Repository) -> None:
    one = take(repository, images().data)
    assert b"".join(contents.image_bytes(repository, one, "files.img")) == images().data["files.img"]
    with pytest.raises(NotFound) as error:
        contents.image_bytes(repository, one, "pages")
    assert "pages-1.img" in error.value.hint


@pytest.mark.parametrize("offset", [0, 1, MIB - 1, MIB, 2 * MIB + 5, 3 * MIB])
def test_a_part_of_a_blob_is_read(repository: Repository, offset: int) -> None:
    data = os.urandom(MIB // 2) + bytes(MIB) + os.urandom(MIB // 2 + 10)
    snapshot = take(repository, {"a": data})
    blob = repository.contents(snapshot).images["a"]
    for length in (0, 1, 100, MIB, 2 * MIB, 1 << 40):
        assert repository.reader(snapshot).pread(blob, offset, length) == data[offset : offset + length]
