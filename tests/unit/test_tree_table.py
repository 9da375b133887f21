"""What a snapshot has of a file is taken over: which files are read again, and which must be."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from criu_agent.errors import Failure, NoSpace
from criu_agent.fs import listing, spool, table, tree
from criu_agent.fs.excluded import matcher
from criu_agent.fs.listing import Left
from criu_agent.fs.rebuild import entries, rebuild
from criu_agent.fs.spool import Spool
from criu_agent.fs.tree import Capture, capture, prepare, save
from criu_agent.linux import process
from criu_agent.model import Tree
from tests.fakes.shelf import Shelf

SNAPSHOT = "ab" * 32
LONG = 3.0  # seconds after which a file is settled


class Line:
    """Snapshots of a tree, one after the other, each with what the one before knows."""

    def __init__(self, root: Path, shelf: Shelf, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.shelf = shelf
        self.spool = place / "spool"
        self.spool.mkdir()
        self.path = place / "files"
        self.read: list[str] = []
        self.mapped = frozenset[int]()
        self._tree: Tree | None = None
        self._now = time.time_ns  # as it is when nobody shifts it
        take = Spool.copy

        def copy(to: Spool, looking: tree.Looking, entry: tree.Entry) -> int:
            self.read.append(entry.path)
            return take(to, looking, entry)

        monkeypatch.setattr(Spool, "copy", copy)
        self.monkeypatch = monkeypatch

    def settle(self) -> None:
        """Let the clock say that all changes were long ago."""
        shift = int(LONG * 1e9)
        now = self._now
        self._now = lambda: now() + shift
        self.monkeypatch.setattr(tree.time, "time_ns", self._now)

    def prepared(self, left: Left = Left()) -> Capture:  # noqa: B008 - a value
        self.read = []
        rows = table.read(self.path, SNAPSHOT).get("t")
        known = table.known(rows, self._tree) if rows is not None and self._tree else tree.nothing_known
        return prepare(self.root, spool=self.spool, known=known, left=left, mapped=lambda: self.mapped)

    def take(self, between: Callable[[], object] = tuple, needed: tuple[str, ...] = (), left: Left = Left()) -> Tree:  # noqa: B008
        made = self.prepared(left)
        between()
        with capture(self.root, spool=None, before=made, needed=needed) as captured:
            self._tree = save(captured, self.shelf.save, "t")
            table.write(self.path, SNAPSHOT, {"t": table.rows(captured.found, captured.is_settled)})
        return self._tree

    def rebuilt(self, into: Path) -> dict[str, bytes]:
        assert self._tree
        rebuild(self._tree, self.shelf.stream, into)
        return {str(path.relative_to(into)): path.read_bytes() for path in into.rglob("*") if path.is_file()}

    def paths(self) -> list[str]:
        assert self._tree
        return [entry.path for entry in entries(self.shelf.stream(self._tree.index))]


@pytest.fixture
def line(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Line:
    root = tmp_path / "root"
    (root / "d/e").mkdir(parents=True)
    for number in range(20):
        (root / f"d/f{number:02}").write_bytes(os.urandom(3000 + number))
    (root / "big").write_bytes(os.urandom(2_000_000))
    (root / "d/e/link").symlink_to("../f01")
    os.link(root / "d/f02", root / "d/e/again")
    os.setxattr(root / "d/f03", "user.note", b"\0\xff")
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"middle")
    return Line(root, shelf, tmp_path, monkeypatch)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_unchanged_tree_is_not_read_and_is_the_same_tree(line: Line, into: Path) -> None:
    line.settle()
    first = line.take()
    assert set(line.read) >= {"big", "sparse", "d/f00"}
    assert len(line.read) == 22  # two names of a file are one
    second = line.take()
    assert line.read == []
    assert line.shelf.data[first.index.extents[0][0]] == line.shelf.data[second.index.extents[0][0]]
    assert line.rebuilt(into) == contents(line.root)
    assert os.getxattr(into / "d/f03", "user.note") == b"\0\xff"
    assert (into / "d/f02").stat().st_ino == (into / "d/e/again").stat().st_ino
    assert (into / "sparse").stat().st_blocks < (1 << 20) // 512


def test_what_changed_is_read_and_nothing_else(line: Line, into: Path) -> None:
    line.settle()
    line.take()
    (line.root / "d/f05").write_bytes(b"shorter")
    (line.root / "d/f06").write_bytes(os.urandom(40_000))
    (line.root / "d/new").write_bytes(b"new")
    (line.root / "d/f07").unlink()
    (line.root / "d/f08").rename(line.root / "d/renamed")
    os.utime(line.root / "d/f09", ns=(1, (line.root / "d/f09").stat().st_mtime_ns))
    line.settle()
    line.take()
    assert sorted(line.read) == ["d/f05", "d/f06", "d/f09", "d/new", "d/renamed"]
    assert line.rebuilt(into) == contents(line.root)


def test_another_content_of_the_same_size_and_mtime_is_read(line: Line, into: Path) -> None:
    line.settle()
    line.take()
    path = line.root / "d/f10"
    was = path.stat()
    path.write_bytes(os.urandom(was.st_size))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    line.take()
    assert line.read == ["d/f10"]
    assert line.rebuilt(into) == contents(line.root)


def test_what_changed_a_moment_ago_is_read_again_whatever_its_times_say(line: Line, into: Path) -> None:
    line.take()
    line.take()
    assert "d/f00" in line.read
    line.settle()
    line.take()
    line.take()
    assert line.read == []


def test_what_is_mapped_is_read_again_until_a_snapshot_after_it_was_let_go(line: Line) -> None:
    line.settle()
    line.mapped = frozenset({(line.root / "d/f04").stat().st_ino})
    for _ in range(2):
        line.take()
        assert "d/f04" in line.read
    line.mapped = frozenset()
    line.take()
    assert line.read == ["d/f04"]
    line.take()
    assert line.read == []


def test_a_change_between_the_look_ahead_and_the_freeze_is_in_the_snapshot(line: Line, into: Path) -> None:
    line.settle()

    def change() -> None:
        (line.root / "d/f11").write_bytes(b"changed in between")
        (line.root / "d/f12").unlink()
        (line.root / "d/f13").unlink()
        (line.root / "d/f13").mkdir()
        (line.root / "d/f13/inside").write_bytes(b"i")
        (line.root / "d/e/link").unlink()
        (line.root / "d/e/link").write_bytes(b"no link any more")

    line.take(change)
    assert {"d/f11", "d/f13/inside", "d/e/link"} <= set(line.read)
    assert line.rebuilt(into) == contents(line.root)


def test_a_directory_that_became_a_link_has_nothing_in_it(line: Line, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")

    def change() -> None:
        (line.root / "d").rename(tmp_path / "was d")
        (line.root / "d").symlink_to(outside)

    line.take(change)
    assert sorted(line.paths()) == ["", "big", "d", "sparse"]


def test_the_owner_may_change_everything_after_the_capture(line: Line, into: Path) -> None:
    line.settle()
    before = contents(line.root)
    with capture(line.root, spool=None, before=line.prepared()) as captured:
        for path in line.root.rglob("f*"):
            path.write_bytes(b"after")
        (line.root / "big").unlink()
        rebuild(save(captured, line.shelf.save, "t"), line.shelf.stream, into)
    assert contents(into) == before


def test_data_are_taken_over_again_and_again(line: Line, tmp_path: Path) -> None:
    line.settle()
    line.take()
    for number in range(12):
        (line.root / f"d/f{number:02}").write_bytes(os.urandom(1000 * (number % 3)))
        (line.root / f"added{number}").write_bytes(os.urandom(5000))
        line.settle()
        line.take()
        into = tmp_path / f"into{number}"
        into.mkdir()
        assert len(line.read) <= 2
        assert line.rebuilt(into) == contents(line.root)


def test_a_lost_or_damaged_or_foreign_table_costs_reading_only(line: Line, into: Path) -> None:
    line.settle()
    line.take()
    data = line.path.read_bytes()
    for other in (b"", b"criu-agent files 1\n", data[:-1], data[:100] + b"\0" + data[101:], data[::-1]):
        line.path.write_bytes(other)
        assert table.read(line.path, SNAPSHOT) == {}
    line.path.write_bytes(data)
    assert table.read(line.path, "cd" * 32) == {}
    assert table.read(line.path.with_name("nothing"), SNAPSHOT) == {}
    line.path.write_bytes(data[:-1])
    line.take()
    assert len(line.read) == 22
    assert line.rebuilt(into) == contents(line.root)


def test_globs_keep_files_out_unless_they_are_in_use(line: Line) -> None:
    (line.root / "__pycache__").mkdir()
    (line.root / "__pycache__/a.pyc").write_bytes(b"a")
    (line.root / "__pycache__/b.pyc").write_bytes(b"b")
    (line.root / "d/e/__pycache__").mkdir()
    (line.root / "d/e/x.log").write_bytes(b"log")
    left = Left(globs=("__pycache__", "d/*.log", "f1*"))
    line.take(left=left)
    assert {path for path in line.paths() if path.startswith("d/f")} == {f"d/f0{number}" for number in range(10)}
    assert not any("pycache" in path or path.endswith(".log") for path in line.paths())
    line.take(needed=("__pycache__/a.pyc", "d/f11", "nothing", "big"), left=left)
    assert {"__pycache__", "__pycache__/a.pyc", "d/f11"} <= set(line.paths())
    assert not {"__pycache__/b.pyc", "d/f12", "nothing"} & set(line.paths())
    assert len(line.paths()) == len(set(line.paths()))


@pytest.mark.parametrize(
    ("path", "glob", "excluded"),
    [
        ("a/b.log", "*.log", True),
        ("a.log/b", "*.log", True),
        ("a/b.txt", "*.log", False),
        ("build/x", "build/*", True),
        ("build/x/y", "build/*", True),
        ("src/build/x", "build/*", False),
        ("src/build/x", "*/build/*", True),
        ("build", "build/*", False),
        (".git/x", ".*", True),
        ("a/[x]", "[[]x]", True),
    ],
)
def test_find_and_python_agree_on_a_glob(tmp_path: Path, path: str, glob: str, excluded: bool) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert matcher([glob])(path) == excluded
    listed = {os.fsdecode(listing.path_of(one)) for one in listing.read(tmp_path, Left(globs=(glob,))).lines()}
    assert (path not in listed) == excluded
    assert "" in listed


def test_python_makes_the_same_line_as_find(line: Line) -> None:
    for number, seconds in enumerate((-1.5, -3, 0, 1.25, 4e9)):
        os.utime(line.root / f"d/f{number:02}", (seconds, seconds))
    (line.root / "d/f05").chmod(0o6755)
    os.mkfifo(line.root / "fifo")
    for one in listing.read(line.root, Left()).lines():
        path = os.fsdecode(listing.path_of(one))
        status = (line.root / path).lstat()
        assert listing.line_of(status, path) == one
        facts = listing.facts(one)
        assert (facts.mtime, facts.ctime) == (status.st_mtime_ns, status.st_ctime_ns)
        assert (facts.inode, facts.links, facts.path) == (status.st_ino, status.st_nlink, path)


def test_a_large_tree_is_listed_by_several_and_nothing_is_missed(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"p/m{number}/lib").mkdir(parents=True)
        for name in range(50):
            (tmp_path / f"p/m{number}/lib/{name}").touch()
    alone = listing.read(tmp_path, Left())
    shared = listing.shared(alone)
    assert shared.depth == 2
    assert len(shared.shares) == 4
    again = listing.read(tmp_path, Left(), like=shared)
    assert sorted(again.lines()) == sorted(alone.lines())
    (tmp_path / "p/new/lib").mkdir(parents=True)
    (tmp_path / "p/new/lib/file").touch()
    (tmp_path / "p/m1/lib/7").unlink()
    (tmp_path / "p/m2").rename(tmp_path / "gone")
    changed = listing.read(tmp_path, Left(), like=shared)
    assert sorted(changed.lines()) == sorted(listing.read(tmp_path, Left()).lines())
    assert set(changed.new_lines(again)) >= set(changed.lines()) - set(again.lines())


def after_listing(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something when a tree has been listed and nothing was read yet."""
    read = listing.read

    def then(*arguments: object, **options: object) -> listing.Listing:
        found = read(*arguments, **options)  # type: ignore[arg-type]
        act()
        return found

    monkeypatch.setattr(tree.listing, "read", then)


def test_what_vanishes_between_its_listing_and_its_reading_is_not_there(
    line: Line, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_listing(monkeypatch, lambda: (line.root / "d/f14").unlink(missing_ok=True))
    with capture(line.root, spool=line.spool) as captured:
        rebuild(save(captured, line.shelf.save, "t"), line.shelf.stream, into)
    assert contents(into) == contents(line.root)
    assert not (into / "d/f14").exists()


def test_a_fifo_that_takes_the_place_of_a_file_holds_nobody(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = tree.Looking.entry

    def entry(looking: tree.Looking, one: bytes) -> tree.Entry:
        found = looked(looking, one)
        if found.path == "d/f15" and found.kind == "file":
            (line.root / "d/f15").unlink()
            os.mkfifo(line.root / "d/f15")
        return found

    monkeypatch.setattr(tree.Looking, "entry", entry)
    with pytest.raises(Failure, match="d/f15 was replaced while it was captured"):
        capture(line.root, spool=line.spool)
    assert line.take()  # what cannot be read ahead is read in the freeze, if it can be then
    assert list(line.spool.iterdir()) == []


def test_what_cannot_be_listed_in_time_is_given_up(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = process.spawn

    def hanging(argv: list[str], **options: object) -> process.Process[bytes]:
        return spawn(["sleep", "60"], **options)  # type: ignore[arg-type]

    monkeypatch.setattr(listing.process, "spawn", hanging)
    monkeypatch.setattr(listing, "_LIMIT", 0.1)
    began = time.monotonic()
    with pytest.raises(Failure, match="cannot be listed within"):
        listing.read(line.root, Left())
    assert time.monotonic() - began < 10


def test_a_spool_without_room_is_said_so_and_leaves_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.settle()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool, "_copy", full)
    for take in (line.prepared, lambda: capture(line.root, spool=line.spool)):
        with pytest.raises(NoSpace, match=r"cannot copy the files of .*: No space left"):
            take()
    assert list(line.spool.iterdir()) == []
