"""What the processes of a run use of the host's own files: programs, libraries, whatever is open.

Of these files a snapshot has a list (size, build id, hash) and the contents, as the box saw them. A restore compares
the list with its host. Where all are the same the box shows the host's files, as always. Where one is missing or
another one, the snapshot's files lie between the host's and the run's layer: the restored processes find every file
that they have mapped or open as it was.
"""

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from blake3 import blake3

from criu_agent import log
from criu_agent.box.layout import HOST, Layout
from criu_agent.errors import Corrupt, Failure, HostCannot
from criu_agent.fs import beneath
from criu_agent.fs.rebuild import rebuild
from criu_agent.fs.tree import Capture, pick
from criu_agent.linux import elf, files, syscalls
from criu_agent.model import Contents
from criu_agent.ops.facts import MEMFD, Facts
from criu_agent.repo import hostfile
from criu_agent.repo.fields import HEX, Fields
from criu_agent.repo.reading import Reader
from criu_agent.store.document import behind_version_line, from_json, to_json, version_line

NAME = "closure"  # of its tree and of its list in a snapshot
_LINE = version_line(NAME, 1)
_LIMIT = 64 << 20  # bytes of a list
_ROOM = 16 << 20  # bytes for what is in no blob: directories, ends of pages
_DELETED = " (deleted)"
_LINK = "link"


class Used(NamedTuple):
    """A file of the host as a run uses it. build: its GNU build id, "" if it has none; hash: its BLAKE3. Both hex.

    Of a symbolic link build is "link", and the others are those of its target's text.
    """

    size: int
    build: str
    hash: str


class _Identity(NamedTuple):
    """A file that has these as before has the content of before: whoever changes it changes its ctime.

    The device is not one of them: the box sees another one than the host, and a new one after each restore.
    """

    inode: int
    ctime: int
    size: int


_Measured = tuple[_Identity, Used]


class Closure:
    """The files that a live run uses, gathered before it is frozen: then only what came since is left to be read.

    cache: a file of the run's directory with what was read for the snapshot before. kept: False leaves them all out.
    """

    def __init__(self, root_pid: int, layout: Layout, cache: Path, *, kept: bool = True) -> None:
        self._kept = kept
        self._layout = layout
        self._cache = cache
        self._known = _cached(cache)
        self._used: dict[str, _Measured] = {}
        self._links: set[str] = set()
        self._fd = os.open(f"/proc/{root_pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.root = Path(f"/proc/self/fd/{self._fd}")  # there when the run has ended, too

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def add(self, found: Facts) -> None:
        """Take in what is used now and was not yet."""
        if self._kept:
            self.take(used(found, self._layout))

    def take(self, paths: set[str], links: Collection[str] = ()) -> None:
        """Take in files by their paths in the box; and links and directories, which are in no list."""
        for path in sorted(paths - self._used.keys()):
            with suppress(OSError):  # it has gone since: the dump says so if that matters
                self._used[path] = _measured(self.root, path, self._known)
        self._links.update(links)

    def capture(self) -> Capture:
        """The files, to be read in place. Failure if one has gone since: `check` tells of those that changed."""
        try:
            return pick(self.root, (path.lstrip("/") for path in (*self._used, *self._links)))
        except OSError as error:
            raise _changed(error.filename or "a file") from error

    def list(self) -> bytes:
        """The list, as it is stored."""
        return _LINE + to_json({path: one for path, (_, one) in self._used.items()})

    def check(self) -> None:
        """Failure unless they are still the files that were listed: some package may be upgraded at this moment."""
        for path, (identity, _) in self._used.items():
            parent, name = beneath.split(path.lstrip("/"))
            with beneath.directory(self.root, parent) as at:
                if _identity(os.stat(name, dir_fd=at, follow_symlinks=False)) != identity:
                    raise _changed(path)

    def remember(self) -> None:
        """Keep what was read for the next snapshot. Without it that reads all of them again."""
        with suppress(OSError):
            hostfile.replace(self._cache, to_json(self._used), 0o600)


def used(found: Facts, layout: Layout) -> set[str]:
    """The paths in the box of the regular files that are mapped or open and are the host's own.

    Not what the run has changed (its layer has that; a run without one has it open for writing), and not what lies
    on a mount of the box.
    """
    processes = [process.pid for process in found.processes]
    mapped = {one.path for pid in processes for one in found.mappings[pid] if not one.path.startswith(MEMFD)}
    fds = [one for pid in processes for one in found.fds[pid] if stat.S_ISREG(one.mode)]
    opened = {one.target for one in fds if not (layout.host_root and one.flags & os.O_ACCMODE)}
    is_hosts = of_host(found, layout)
    return {
        path for path in mapped | opened if path.startswith("/") and not path.endswith(_DELETED) and is_hosts(path)
    }


def of_host(found: Facts, layout: Layout) -> Callable[[str], bool]:
    """Tells of a path in the box whether it is the host's own: the run has not changed it, and it lies on no mount
    but the root and those that have a layer.
    """
    space = found.namespaces[found.root.pid]["mnt"]
    layered = {"/", *(layer.path for layer in layout.layers)}
    mounted = tuple(f"{one.point}/" for one in found.mounts[space] if one.point not in layered)

    def is_hosts(path: str) -> bool:
        if f"{path}/".startswith(mounted):
            return False
        base, upper = layout.upper_of(path)
        return not os.path.lexists(upper / path.removeprefix(base).lstrip("/"))

    return is_hosts


def read(reader: Reader, contents: Contents, name: str = NAME) -> Mapping[str, Used]:
    """The list `name` of a snapshot, by paths in the box; empty if it has none. Corrupt for one that is changed."""
    blob = contents.attachments.get(name)
    if blob is None:
        return {}
    what = "the list of files that the snapshot uses"
    if blob.size > _LIMIT or name not in contents.trees:
        raise Corrupt(f"{what} is changed: it is too long, or without the files")
    data = behind_version_line(b"".join(reader.stream(blob)), NAME, 1, what)
    rows = Fields(from_json(data, what), what)
    return {path: _used(path, row, what) for path, row in rows.document.items()}


def _used(path: str, row: object, what: str) -> Used:
    match row:
        case [int(size), str(build), str(text)] if path.startswith("/") and "\0" not in path and HEX.fullmatch(text):
            return Used(size, build, text)
    raise Corrupt(f"{what} is changed: {path!r}")


def differing(listed: Mapping[str, Used], cache: Path, root: Path = HOST) -> list[str]:
    """The files that are missing below `root` or are others: "PATH is missing", "PATH is another build".

    root: what lies below the run's layer, the host's root or that of a container image.
    """
    known = _cached(cache)
    found = (_difference(path, one, known, root) for path, one in listed.items())
    return [one for one in found if one]


def _difference(path: str, listed: Used, known: Mapping[str, _Measured], root: Path) -> str:
    try:
        # On the host links are followed; those of an image lead into the host, and a used path goes through none.
        here = _measured(root, path if root != HOST else _real(path, listed), known, name=path)[1]
        if here.size != listed.size:
            return f"{path} has another size"
    except OSError:
        return f"{path} is missing"
    if here.hash == listed.hash:
        return ""
    return f"{path} is another build" if here.build != listed.build else f"{path} has another content"


def _real(path: str, listed: Used) -> str:
    """Where the path leads on this host; a link is looked at itself."""
    if listed.build != _LINK:
        return os.path.realpath(path)
    directory, name = os.path.split(path)
    return f"{os.path.realpath(directory).rstrip('/')}/{name}"


def room(contents: Contents, name: str = NAME) -> int:
    """Bytes of memory that `between` may take; small files take a page each."""
    tree = contents.trees[name]
    return 2 * sum(blob.size for blob in (tree.index, *tree.blobs)) + _ROOM


@contextmanager
def between(reader: Reader, contents: Contents, name: str, place: Path) -> Iterator[Path]:
    """The snapshot's tree `name` in a directory, as long as it takes to mount a box over it, which then keeps it.

    In memory: overlayfs does not take a lower layer that lies in another one, as all of the host's disk lies in /.
    """
    files.make_private(place)
    try:
        options = f"mode=0755,size={room(contents, name)}"
        syscalls.mount("criu-agent-closure", str(place), "tmpfs", syscalls.MS_NODEV, options)
    except OSError as error:
        raise HostCannot(f"cannot mount a tmpfs for the files of the run: {error.strerror}") from error
    try:
        rebuild(contents.trees[name], reader.stream, place)
        yield place
    finally:
        syscalls.umount2(str(place), syscalls.MNT_DETACH)


def _measured(root: Path, path: str, known: Mapping[str, _Measured], *, name: str = "") -> _Measured:
    """What the file at `path` below `root` is; `known` has it under `name`. OSError if there is none, nor a link."""
    parent, last = beneath.split(path.lstrip("/"))
    with beneath.directory(root, parent) as at:
        status = os.stat(last, dir_fd=at, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target = os.fsencode(os.readlink(last, dir_fd=at))
            return _identity(status), Used(len(target), _LINK, blake3(target).hexdigest())
    with beneath.file(root, path.lstrip("/")) as fd:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        identity = _identity(status)
        before = known.get(name or path)
        if before and before[0] == identity:
            return before
        with open(fd, "rb", closefd=False) as file:
            build = elf.build_id(file)
        content = blake3().update_mmap(f"/proc/self/fd/{fd}") if status.st_size else blake3()
        return identity, Used(status.st_size, build, content.hexdigest())


def _identity(status: os.stat_result) -> _Identity:
    return _Identity(status.st_ino, status.st_ctime_ns, status.st_size)


def _cached(path: Path) -> dict[str, _Measured]:
    """What `remember` wrote; nothing if it is not there or not whole."""
    try:
        rows: dict[str, Any] = from_json(path.read_bytes(), str(path))
        return {name: (_Identity(*identity), Used(*one)) for name, (identity, one) in rows.items()}
    except (OSError, Corrupt, AttributeError, TypeError, ValueError) as error:
        log.debug("nothing is known of the host's files: %s", error)
        return {}


def _changed(path: str) -> Failure:
    return Failure(f"{path}, which the run uses, was changed at this very moment", hint="try again")
