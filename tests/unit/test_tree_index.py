"""The index of a tree: it says everything, and a forged one makes nothing outside of its directory."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criu_agent.errors import Corrupt, Failure, HostCannot
from criu_agent.fs.entry import KINDS, LINK, Entry, from_line, to_line
from criu_agent.fs.rebuild import entries as read_entries
from criu_agent.fs.rebuild import rebuild
from criu_agent.fs.scan import scan
from criu_agent.fs.tree import capture, save
from criu_agent.model import Blob, Tree
from tests.fakes.shelf import Shelf

MINE = {"uid": os.getuid(), "gid": os.getgid()}
ROOT = Entry(path="", kind="directory", mode=0o700, **MINE)
HEADER = b"criu-agent tree 1\n"  # most of them are of the version before: it is still read
HEADER_2 = b"criu-agent tree 2\n"

# any name that a file can have, as os.fsdecode gives it
names = (
    st.binary(min_size=1, max_size=12)
    .filter(lambda raw: raw not in (b".", b"..") and not set(raw) & {0, ord("/")})
    .map(os.fsdecode)
)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
extents = st.lists(st.integers(1, 1000), max_size=5).map(
    lambda steps: tuple((sum(steps[:i]) * 2, step) for i, step in enumerate(steps))
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from([LINK, *KINDS]))
    path = draw(paths)
    if kind == LINK:
        return Entry(path=path, kind=kind, target=draw(paths))
    parts = draw(extents) if kind == "file" else ()
    device = (draw(st.integers(0, 4095)), draw(st.integers(0, 1048575)))
    return Entry(
        path=path,
        kind=kind,
        target=draw(paths) if kind == "symlink" else "",
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, (1 << 32) - 2)),
        gid=draw(st.integers(0, (1 << 32) - 2)),
        mtime=draw(st.integers(-(1 << 62), 1 << 62)),
        xattrs=draw(st.dictionaries(names.map("user.".__add__), st.binary(max_size=9), max_size=2)),
        device=device if kind in ("character", "block") else (0, 0),
        size=20_000 if kind == "file" else 0,
        extents=parts,
        blob=draw(st.integers(0, 9)) if parts else 0,
        offset=draw(st.integers(0, 999)) if parts else 0,
    )


@given(entries())
def test_an_entry_comes_back_from_its_line(entry: Entry) -> None:
    line = to_line(entry)
    assert b"\n" not in line
    assert from_line(line) == entry


GOOD = replace(ROOT, path="f", kind="file", size=10, extents=((0, 4), (6, 4)), blob=0, offset=0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"path":"f"', b'"path":"/f"'),
        (b'"path":"f"', b'"path":"../f"'),
        (b'"path":"f"', b'"path":"a/../f"'),
        (b'"path":"f"', b'"path":"a//f"'),
        (b'"path":"f"', b'"path":"."'),
        (b'"path":"f"', b'"path":"f/"'),
        (b'"path":"f"', b'"path":"a\\u0000b"'),
        (b'"path":"f"', b'"path":"\\ud800"'),
        (b'"path":"f"', b'"path":7'),
        (b'"path":"f",', b""),
        (b'"type":"file"', b'"type":"door"'),
        (b'"type":"file"', b'"type":["file"]'),
        (b'"type":"file"', b'"type":"character"'),
        (b'"size":10', b'"size":9'),
        (b'"size":10', b'"size":true'),
        (b'"mtime":0', b'"mtime":1e3'),
        (b'"xattrs":{}', b'"xattrs":{"user.a":"?"}'),
        (b'"xattrs":{}', b'"xattrs":[]'),
        (b"[[0,4],[6,4]]", b"[[0,4],[3,4]]"),
        (b"[[0,4],[6,4]]", b"[[6,4],[0,4]]"),
        (b"[[0,4],[6,4]]", b"[[0,4],[6,0]]"),
        (b"[[0,4],[6,4]]", b"[[0,4,1]]"),
        (b"[[0,4],[6,4]]", b"7"),
        (b'"blob":0', b'"blob":-1'),
        (b'"offset":0,', b""),
    ],
)
def test_a_line_that_breaks_a_rule_is_corrupt(old: bytes, new: bytes) -> None:
    line = to_line(GOOD)
    assert from_line(line) == GOOD
    assert line.count(old) == 1
    with pytest.raises(Corrupt, match="index of a tree"):
        from_line(line.replace(old, new))


# --- forged indexes


def blob_of(shelf: Shelf, data: bytes) -> Blob:
    return shelf.put(data)


def forged(shelf: Shelf, found: Sequence[Entry], *data: bytes, header: bytes = HEADER) -> Tree:
    index = header + b"".join(to_line(entry) + b"\n" for entry in found)
    return Tree(index=blob_of(shelf, index), blobs=tuple(blob_of(shelf, one) for one in data))


def a(kind: str, path: str, **values: object) -> Entry:
    return Entry(path=path, kind=kind, mode=0o600, **MINE, **values)  # type: ignore[arg-type]


def a_file(path: str, blob: int, offset: int, length: int) -> Entry:
    return a("file", path, size=length, extents=((0, length),), blob=blob, offset=offset)


@pytest.mark.parametrize(
    "found",
    [
        [],
        [a("file", "f")],
        [ROOT, ROOT],
        [a("file", "")],
        [ROOT, a("file", "f"), a("file", "f")],
        [ROOT, a("symlink", "f", target="x"), a("file", "f")],
        [ROOT, a("directory", "d"), a("directory", "d")],
        [ROOT, a("file", "no/f")],
        [ROOT, a("file", "f"), a("file", "f/g")],
        [ROOT, a("symlink", "s", target=".."), a("file", "s/escaped")],
        [ROOT, a("symlink", "s", target="/"), a("directory", "s/escaped")],
        [ROOT, a("symlink", "s", target="../outside"), Entry(path="l", kind=LINK, target="s/secret")],
        [ROOT, Entry(path="l", kind=LINK, target="later"), a("file", "later")],
        [ROOT, a("file", "n" * 300)],
    ],
    ids=lambda found: " ".join(f"{entry.kind}:{entry.path[:9]}" for entry in found) or "nothing",
)
def test_a_forged_index_is_corrupt_and_makes_nothing_outside(
    tmp_path: Path, into: Path, shelf: Shelf, found: list[Entry]
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"s")
    before = sorted(path for path in tmp_path.rglob("*") if into not in path.parents)
    with pytest.raises(Corrupt, match="index of a tree"):
        rebuild(forged(shelf, found), shelf.stream, into)
    assert sorted(path for path in tmp_path.rglob("*") if into not in path.parents) == before
    assert (tmp_path / "outside/secret").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("found", "data"),
    [
        ([a_file("f", 0, 0, 4)], []),
        ([a_file("f", 0, 0, 5)], [b"1234"]),
        ([a_file("f", 0, 0, 3)], [b"1234"]),
        ([a_file("f", 0, 1, 3)], [b"1234"]),
        ([a_file("f", 1, 0, 4)], [b"1234", b"1234"]),
        ([a_file("f", 0, 0, 4)], [b"1234", b"1234"]),
        ([a_file("f", 0, 0, 2), a_file("g", 0, 0, 2)], [b"1234"]),
        ([a_file("f", 0, 0, 2), a_file("g", 1, 0, 4)], [b"1234", b"1234"]),
        ([], [b"1234"]),
    ],
)
def test_data_that_do_not_fit_the_files_are_corrupt(
    into: Path, shelf: Shelf, found: list[Entry], data: list[bytes]
) -> None:
    with pytest.raises(Corrupt, match="index of a tree"):
        rebuild(forged(shelf, [ROOT, *found], *data), shelf.stream, into)


def test_data_that_fit_are_written_where_they_belong(into: Path, shelf: Shelf) -> None:
    found = [ROOT, a_file("f", 0, 0, 2), a_file("g", 0, 2, 2), replace(GOOD, path="h", blob=1)]
    rebuild(forged(shelf, found, b"1234", b"abcdefgh"), shelf.stream, into)
    contents = {path.name: path.read_bytes() for path in into.iterdir()}
    assert contents == {"f": b"12", "g": b"34", "h": b"abcd\0\0efgh"}


def test_an_index_of_a_later_version_is_refused_before_it_is_read(into: Path, shelf: Shelf) -> None:
    tree = Tree(index=blob_of(shelf, b"criu-agent tree 3\n\xff garbage"), blobs=())
    with pytest.raises(HostCannot, match="format 3, this criu-agent reads up to 2"):
        rebuild(tree, shelf.stream, into)


@pytest.mark.parametrize("index", [b"", b"criu-agent tree 1", HEADER + b"{", HEADER + to_line(ROOT)])
def test_an_index_that_ends_early_is_corrupt(into: Path, shelf: Shelf, index: bytes) -> None:
    with pytest.raises(Corrupt, match="index of a tree"):
        rebuild(Tree(index=blob_of(shelf, index), blobs=()), shelf.stream, into)


def test_a_directory_that_is_not_empty_is_left_alone(into: Path, shelf: Shelf) -> None:
    (into / "mine").touch()
    with pytest.raises(Failure, match="not empty"):
        rebuild(forged(shelf, [ROOT]), shelf.stream, into)
    assert [path.name for path in into.iterdir()] == ["mine"]


# --- what is stored


def take(root: Path, shelf: Shelf) -> Tree:
    with capture(root, spool=None) as captured:
        return save(captured, shelf.save, name="upper")


def test_small_files_share_objects_and_a_change_moves_only_its_neighbours(tmp_path: Path, shelf: Shelf) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(2000):
        (root / f"file-{number}").write_bytes(os.urandom(50))
    (root / "large").write_bytes(os.urandom(1 << 20))
    first = take(root, shelf)
    assert len(first.blobs) < 40
    (root / "file-1000").write_bytes(b"longer than before" * 10)
    second = take(root, shelf)
    assert len(set(first.blobs) - set(second.blobs)) == 1


def test_an_unchanged_tree_is_stored_as_the_same_objects(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_bytes(b"x")
    assert take(tmp_path / "tree", shelf) == take(tmp_path / "tree", shelf)


def test_a_file_that_shrinks_while_it_is_read_in_place_is_a_failure(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_bytes(b"0123456789")
    with capture(tmp_path / "tree", spool=None) as captured:
        (tmp_path / "tree/f").write_bytes(b"012")
        with pytest.raises(Failure, match="became shorter"):
            save(captured, shelf.save, name="upper")
        (tmp_path / "tree/f").unlink()
        with pytest.raises(Failure, match="cannot read a file"):
            save(captured, shelf.save, name="upper")


def test_a_tree_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot read the files"):
        scan(tmp_path / "nothing")


# --- a single file, and the version before


def test_a_single_file_is_a_tree_and_comes_back(tmp_path: Path, into: Path, shelf: Shelf) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(b"{}\n" * 3000)
    file.chmod(0o640)
    os.setxattr(file, "user.note", b"n")
    tree = take(file, shelf)
    (root,) = rebuilt_entries(shelf, tree)
    assert (root.path, root.kind, root.size) == ("", "file", 9000)
    rebuild(tree, shelf.stream, into / "again")
    assert (into / "again").read_bytes() == file.read_bytes()
    assert (into / "again").stat().st_mtime_ns == file.stat().st_mtime_ns
    assert (into / "again").stat().st_mode == file.stat().st_mode
    assert os.getxattr(into / "again", "user.note") == b"n"
    with pytest.raises(Failure, match="is there already"):
        rebuild(tree, shelf.stream, into / "again")


def test_a_single_file_is_in_the_snapshot_as_it_was_at_the_capture(tmp_path: Path, into: Path, shelf: Shelf) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"before")
    with capture(file, spool=tmp_path) as captured:
        file.write_bytes(b"after, and longer")
        tree = save(captured, shelf.save, name="through-1")
    rebuild(tree, shelf.stream, into / "log")
    assert (into / "log").read_bytes() == b"before"


def rebuilt_entries(shelf: Shelf, tree: Tree) -> list[Entry]:
    return list(read_entries(shelf.stream(tree.index)))


def test_a_file_as_root_has_nothing_beside_it(into: Path, shelf: Shelf) -> None:
    root = replace(a("file", "x"), path="")
    for number, found in enumerate(([root, a("file", "f")], [root, ROOT], [replace(a("fifo", "x"), path="")])):
        with pytest.raises(Corrupt, match="index of a tree"):
            rebuild(forged(shelf, found, header=HEADER_2), shelf.stream, into / str(number))
    assert all(path.stat().st_size == 0 for path in into.iterdir())


def test_in_version_2_data_begin_at_a_page(into: Path, shelf: Shelf) -> None:
    found = [ROOT, a_file("f", 0, 0, 2), a_file("g", 0, 4096, 3), a_file("h", 1, 0, 1)]
    blobs = (b"12".ljust(4096, b"\0") + b"345".ljust(4096, b"\0"), b"6".ljust(4096, b"\0"))
    rebuild(forged(shelf, found, *blobs, header=HEADER_2), shelf.stream, into)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {"f": b"12", "g": b"345", "h": b"6"}


@pytest.mark.parametrize(
    ("found", "data"),
    [
        ([a_file("f", 0, 0, 2), a_file("g", 0, 2, 2)], b"1234"),
        ([a_file("f", 0, 0, 2)], b"12"),
        ([a_file("f", 0, 0, 2)], bytes(8192)),
        ([a_file("f", 0, 4096, 2)], bytes(8192)),
    ],
)
def test_in_version_2_data_that_begin_elsewhere_are_corrupt(
    into: Path, shelf: Shelf, found: list[Entry], data: bytes
) -> None:
    with pytest.raises(Corrupt, match="index of a tree"):
        rebuild(forged(shelf, [ROOT, *found], data, header=HEADER_2), shelf.stream, into)
