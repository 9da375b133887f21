"""What is other here than in a captured tree is found and undone, and nothing outside of it is touched."""

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace as other
from pathlib import Path

import pytest

from criu_agent.errors import Corrupt, Failure
from criu_agent.fs import replace as fs
from criu_agent.fs.difference import Difference, Place, compare
from criu_agent.fs.entry import Entry, led_by_others
from criu_agent.fs.excluded import matcher
from criu_agent.fs.rebuild import entries
from criu_agent.fs.tree import capture, save
from tests.fakes.shelf import Shelf

ODD = os.fsdecode(b"\xff\n")
Change = Callable[[Path], object]


def fill(root: Path) -> Path:
    (root / "d/e").mkdir(parents=True)
    for number in range(3):
        (root / f"d/e/{number}").write_text(f"content of {number}\n")
    (root / "text").write_bytes(b"text\n")
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(2 << 20))
    os.link(root / "text", root / "text-again")
    (root / "link").symlink_to("../../nowhere")
    os.mkfifo(root / "fifo")
    with open(root / "holes", "wb") as file:
        os.pwrite(file.fileno(), b"x" * 4096, 1 << 20)
        file.truncate(4 << 20)
    (root / ODD).write_bytes(b"odd")
    return root


def taken(root: Path, shelf: Shelf, *globs: str) -> Place:
    """The tree at root, captured now."""
    with capture(root, spool=None) as captured:
        tree = save(captured, shelf.save, name="through-0")

    def data(entry: Entry) -> Iterator[bytes]:
        yield b"".join(shelf.stream(tree.blobs[entry.blob]))[entry.offset : entry.offset + entry.length]

    found = {entry.path: entry for entry in entries(shelf.stream(tree.index))}
    return Place(base=root.parent, top=root.name, entries=found, data=data, excluded=matcher(globs))


@pytest.fixture
def place(tmp_path: Path, shelf: Shelf) -> Place:
    (tmp_path / "host").mkdir()
    return taken(fill(tmp_path / "host/work"), shelf)


def everything(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted([root, *root.rglob("*")], key=os.fsencode):
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        time = 0 if path.is_dir() else status.st_mtime_ns
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_nlink, time, content)
    return found


def told(place: Place) -> list[tuple[str, str, str]]:
    return [(one.change, one.path, one.detail) for one in compare(place)]


def write(path: Path, data: bytes) -> None:
    """Other content, and nobody who looks at size and time will see it."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def in_its_place(path: Path, make: Callable[[Path], object]) -> None:
    fs.remove(Place(base=path.parent, top=path.name, entries={}, data=no_data), root=True)
    make(path)


def no_data(_entry: Entry) -> Iterator[bytes]:
    raise AssertionError("the snapshot's data were asked for")


CHANGES: dict[str, tuple[Change, list[tuple[str, str, str]]]] = {
    "grows": (lambda root: append(root / "d/e/1"), [("~", "d/e/1", "appended, 4 bytes")]),
    "grows and is another": (
        lambda root: (root / "d/e/1").write_bytes(b"another, and longer"),
        [("~", "d/e/1", "content, 13 -> 19 bytes")],
    ),
    "shrinks": (lambda root: os.truncate(root / "large", 5), [("~", "large", f"cut off, {2 << 20} -> 5 bytes")]),
    "of the same size and time": (
        lambda root: write(root / "d/e/2", b"content of x\n"),
        [("~", "d/e/2", "content, of the same size")],
    ),
    "deleted": (lambda root: (root / ODD).unlink(), [("-", ODD, "file, 3 bytes")]),
    "renamed": (
        lambda root: (root / "d/e/1").rename(root / "d/1"),
        [("+", "d/1", "file, 13 bytes"), ("-", "d/e/1", "file, 13 bytes")],
    ),
    "read-only": (lambda root: (root / "large").chmod(0o400), [("~", "large", "mode 0644 -> 0400")]),
    "added": (lambda root: (root / "d/new").touch(), [("+", "d/new", "file, 0 bytes")]),
    "a directory added": (lambda root: fill(root / "d/new"), [("+", "d/new", "directory")]),
    "a directory gone": (
        lambda root: in_its_place(root / "d", lambda _: None),
        [("-", "d", "directory")],
    ),
    "a directory's mode": (lambda root: (root / "d/e").chmod(0o700), [("~", "d/e", "mode 0755 -> 0700")]),
    "the root's mode": (lambda root: root.chmod(0o700), [("~", "", "mode 0755 -> 0700")]),
    "a link elsewhere": (
        lambda root: in_its_place(root / "link", lambda path: path.symlink_to("/")),
        [("~", "link", "target ../../nowhere -> /")],
    ),
    "a fifo where a file was": (
        lambda root: in_its_place(root / "large", os.mkfifo),
        [("~", "large", "file -> fifo")],
    ),
    "a file where a fifo was": (
        lambda root: in_its_place(root / "fifo", Path.touch),
        [("~", "fifo", "fifo -> file")],
    ),
    "a file where a directory was": (
        lambda root: in_its_place(root / "d", Path.touch),
        [("~", "d", "directory -> file")],
    ),
    "a directory where a file was": (
        lambda root: in_its_place(root / "large", fill),
        [("~", "large", "file -> directory")],
    ),
    "a link to a directory where that was": (
        lambda root: in_its_place(root / "d", lambda path: path.symlink_to("../..")),
        [("~", "d", "directory -> symlink")],
    ),
    "no hard link any more": (
        lambda root: in_its_place(root / "text-again", lambda path: path.write_bytes(b"text\n")),
        [("~", "text-again", "no hard link to text any more")],
    ),
    "a hard link": (
        lambda root: append(root / "text-again"),
        [("~", "text", "appended, 4 bytes"), ("~", "text-again", "a hard link to what has changed")],
    ),
    "data in a hole": (
        lambda root: os.pwrite(os.open(root / "holes", os.O_WRONLY | os.O_CLOEXEC), b"y", 3 << 20),
        [("~", "holes", "content, of the same size")],
    ),
    "an attribute": (
        lambda root: os.setxattr(root / "large", "user.note", b"n"),
        [("~", "large", "extended attributes")],
    ),
    "a socket, and a name that is no text": (
        lambda root: os.mknod(root / os.fsdecode(b"\x80\x1b"), stat.S_IFSOCK | 0o600),
        [("+", os.fsdecode(b"\x80\x1b"), "socket")],
    ),
}


def test_what_has_not_changed_is_no_difference(place: Place) -> None:
    assert told(place) == []
    for path in place.root.rglob("*"):
        os.utime(path, follow_symlinks=False)
    assert told(place) == [], "times prove nothing, neither the one nor the other"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_can_be_undone(place: Place, name: str) -> None:
    change, expected = CHANGES[name]
    before = everything(place.root)
    change(place.root)
    assert told(place) == expected
    fs.replace(place, compare(place))
    assert told(place) == []
    assert everything(place.root) == before


def test_nothing_that_is_proven_is_read(place: Place) -> None:
    proven = {path: os.lstat(place.root / path).st_ctime_ns for path in place.entries}
    append(place.root / "text")
    unread = other(place, data=no_data)
    with pytest.raises(AssertionError, match="asked for"):
        compare(unread)
    found = compare(
        other(
            place,
            data=lambda entry: place.data(entry) if entry.path == "text" else no_data(entry),
            proven=lambda path, status: proven[path] == status.st_ctime_ns,
        )
    )
    assert [one.path for one in found] == ["text", "text-again"]


def test_what_is_excluded_is_left_alone(tmp_path: Path, shelf: Shelf) -> None:
    place = taken(fill(tmp_path / "work"), shelf, "*.pyc", "d/cache")
    (place.root / "d/cache/deep").mkdir(parents=True)
    (place.root / "d/cache/deep/file").touch()
    (place.root / "new").mkdir()
    for path in ("x.pyc", "d/e/y.pyc", "new/z.pyc", "new/other"):
        (place.root / path).touch()
    assert told(place) == [("+", "new", "directory")]
    fs.replace(place, compare(place))
    left = {str(path.relative_to(place.root)) for path in place.root.rglob("*")} - set(place.entries)
    assert left == {"d/cache", "d/cache/deep", "d/cache/deep/file", "x.pyc", "d/e/y.pyc", "new", "new/z.pyc"}


@pytest.mark.parametrize(
    ("globs", "path", "is_excluded"),
    [
        (["node_modules"], "a/node_modules/b", True),
        (["node_modules"], "a/node_modules_too", False),
        (["a/*.o"], "a/b/c.o", True),
        (["a/*.o"], "b/a/c.o", False),
        (["/build/"], "x/build/y", True),
        (["*"], "", False),
        ([], "a", False),
    ],
)
def test_globs(globs: list[str], path: str, is_excluded: bool) -> None:
    assert matcher(globs)(path) is is_excluded


def test_a_single_file_can_be_a_tree(tmp_path: Path) -> None:
    file = tmp_path / "settings"
    file.write_bytes(b"as it was")
    status = file.stat()
    root = Entry(
        path="",
        kind="file",
        mode=0o644,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=9,
        extents=((0, 9),),
    )
    place = Place(base=tmp_path, top="settings", entries={"": root}, data=lambda _: iter([b"as it ", b"was"]))
    assert told(place) == []
    append(file)
    assert told(place) == [("~", "", "appended, 4 bytes")]
    fs.replace(place, compare(place))
    assert file.read_bytes() == b"as it was"
    file.unlink()
    fs.make(place, "run")
    assert file.read_bytes() == b"as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["settings"]


def test_a_hole_is_not_read_whatever_its_size(place: Place) -> None:
    os.truncate(place.root / "empty", 1 << 42)
    start = time.monotonic()
    assert told(place) == [("~", "empty", f"appended, {1 << 42} bytes")]
    fs.replace(place, compare(place))
    assert time.monotonic() - start < 10
    assert (place.root / "empty").stat().st_size == 0


def test_nothing_outside_is_touched(place: Place, tmp_path: Path) -> None:
    """By symbolic links in the way, and by hard links to files that are elsewhere."""
    outside = fill(tmp_path / "outside")
    (outside / "secret").write_bytes(b"text\n")
    before = everything(outside)
    in_its_place(place.root / "d", lambda path: path.symlink_to(outside / "d"))
    in_its_place(place.root / "large", lambda path: path.symlink_to(outside / "large"))
    in_its_place(place.root / "text", lambda path: os.link(outside / "secret", path))
    (place.root / "text").chmod(0o600)
    (outside / "secret").chmod(0o600)
    before |= {"secret": everything(outside)["secret"]}
    (place.root / "added").symlink_to(outside)
    fs.replace(place, compare(place))
    assert told(place) == []
    (outside / "secret-link").touch()
    (outside / "secret-link").unlink()
    now = everything(outside)
    assert {path: facts for path, facts in now.items() if path != "secret"} == {
        path: facts for path, facts in before.items() if path != "secret"
    }
    assert (outside / "secret").read_bytes() == b"text\n"
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o600


def test_the_root_is_not_followed_either(place: Place, tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside")
    before = everything(outside)
    place.root.rename(tmp_path / "moved")
    place.root.symlink_to(outside)
    assert told(place) == [("~", "", "directory -> symlink")]
    fs.replace(place, compare(place))
    assert told(place) == []
    assert everything(outside) == before


@pytest.mark.parametrize("after", range(6))
def test_who_is_killed_in_the_middle_can_do_it_again(place: Place, after: int) -> None:
    before = everything(place.root)
    for path in ("d/e/0", "d/e/1", "d/e/2", "text", "large"):
        append(place.root / path)
    (place.root / "added").touch()
    gone, taken = set(everything(place.root)), 0

    def data(entry: Entry) -> Iterator[bytes]:
        nonlocal taken
        taken += 1
        for piece in place.data(entry):
            yield piece[: len(piece) // 2]
            if taken > after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield piece[len(piece) // 2 :]

    differences = compare(place)
    child = os.fork()
    if child == 0:
        fs.replace(other(place, data=data), differences)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-signal.SIGKILL if after < 5 else 0)
    for path in gone - {"added"}:
        assert os.path.lexists(place.root / path), "nothing is gone that is not there again"
    assert (place.root / "large").stat().st_size in (2 << 20, (2 << 20) + 4)
    fs.replace(place, compare(place))
    assert everything(place.root) == before


def test_a_tree_is_made_at_once_or_not_at_all(place: Place) -> None:
    before = everything(place.root)
    elsewhere = other(place, base=place.base / "a/b", top="c")
    broken = other(elsewhere, data=lambda _: iter([b"t"]))
    with pytest.raises(Corrupt, match="more data than its blob"):
        fs.make(broken, "run")
    assert list((place.base / "a/b").iterdir()) == []
    fs.make(elsewhere, "run")
    assert everything(elsewhere.root) == before
    fs.remove(elsewhere, root=False)
    assert list(elsewhere.root.iterdir()) == []
    fs.make(elsewhere, "run")
    assert everything(elsewhere.root) == before


def test_what_a_dead_maker_left_is_removed_by_the_next(place: Place) -> None:
    (place.base / ".criu-agent-run-new").mkdir()
    (place.base / ".criu-agent-run-new/half").touch()
    (place.base / ".criu-agent-other-new").mkdir()
    fs.make(other(place, top="new"), "run")
    assert everything(place.base / "new") == everything(place.root)
    assert sorted(path.name for path in place.base.iterdir()) == [".criu-agent-other-new", "new", "work"]


def test_what_others_have_is_left_alone_where_it_is_shared(place: Place) -> None:
    shared = other(place, is_shared=True)
    (place.root / "d/new").touch()
    append(place.root / "text")
    assert [one.path for one in compare(shared)] == ["text", "text-again"]
    fs.replace(shared, compare(shared))
    assert told(place) == [("+", "d/new", "file, 0 bytes")]


def test_what_is_there_is_never_made_over(place: Place) -> None:
    taken = other(place, top="taken")
    taken.root.mkdir()
    (taken.root / "mine").touch()
    with pytest.raises(Failure, match=r"cannot make .*taken: Directory not empty"):
        fs.make(taken, "run")
    assert [path.name for path in place.base.iterdir()] in (["work", "taken"], ["taken", "work"])
    assert [path.name for path in taken.root.iterdir()] == ["mine"]


def test_a_deep_tree_is_removed(place: Place) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.root)
        for _ in range(300):
            os.mkdir("deeper")  # noqa: PTH102 - beside os.chdir
            os.chdir("deeper")
    fs.replace(place, [Difference(change="+", path="deeper", detail="")])
    assert told(place) == []


def led_by(place: Place, path: str) -> Place:
    """The same tree, where of all names of the file this is the first one in the index."""
    return other(place, entries=led_by_others(place.entries, lambda name: name != path))


@pytest.mark.parametrize("first", ["a/name", "d/name", "z/name"])
def test_which_name_of_a_file_comes_first_in_the_index_does_not_matter(
    tmp_path: Path, shelf: Shelf, first: str
) -> None:
    root = tmp_path / "work"
    for parent in ("a", "d", "z"):
        (root / parent).mkdir(parents=True)
    (root / "a/name").write_text("of the snapshot\n")
    for parent in ("d", "z"):
        os.link(root / "a/name", root / parent / "name")
    place = led_by(taken(root, shelf), first)
    assert compare(place) == []
    before = everything(root)
    (root / "d/name").write_text("changed in place\n")
    assert {one.path for one in compare(place)} == {"a/name", "d/name", "z/name"}
    fs.replace(place, compare(place))
    assert everything(root) == before
    (root / "d/name").unlink()
    (root / "d/name").write_text("of the snapshot\n")
    assert {one.path for one in compare(place)} & {"a/name", "d/name", "z/name"}
    fs.replace(place, compare(place))
    assert compare(place) == []
    assert len({(root / parent / "name").stat().st_ino for parent in ("a", "d", "z")}) == 1


def test_a_name_that_has_passed_is_made_again_as_a_link_to_what_is_here(tmp_path: Path, shelf: Shelf) -> None:
    root = tmp_path / "work"
    (root / "a").mkdir(parents=True)
    (root / "a/link_remap.5").write_text("content\n")
    os.link(root / "a/link_remap.5", root / "name")
    (root / "b").mkdir()
    os.link(root / "name", root / "b/other")
    place = taken(root, shelf)
    inode = (root / "name").stat().st_ino
    (root / "a/link_remap.5").unlink()
    place = other(place, entries=led_by_others(place.entries, lambda path: path.endswith("link_remap.5")))
    assert [(one.change, one.path) for one in compare(place)] == [("-", "a/link_remap.5")]
    fs.replace(place, compare(place))
    names = [root / "a/link_remap.5", root / "name", root / "b/other"]
    assert {path.stat().st_ino for path in names} == {inode}
    alone = {"": place.entries[""], "link_remap.5": other(place.entries["name"], path="link_remap.5")}
    assert led_by_others(alone, lambda path: path.endswith("link_remap.5")) == alone, "it has no other name"
