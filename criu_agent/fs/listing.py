"""What lstat says of every file of a tree, a line for each: if a file's line is as it was, so is the file.

By find(1), several at once: of 100,000 files a Python loop over os.scandir took 0.8 s, one over os.stat of known
names 0.35 s, fstatat by ctypes 0.28 s, one find 0.35 s, and four on two processors 0.25 s, most of it in the kernel.
Two listings are compared as bytes (1 ms). And a process that hangs in a dead network mount can be given up.
"""

import os
import select
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from criu_agent import config
from criu_agent.errors import Failure
from criu_agent.fs.entry import KINDS
from criu_agent.linux import process

# Access times are left out, and the blocks: both change without a change. The path begins with "./", that of the root
# is ".".
_FORMAT = r"%i %C@ %T@ %s %m %U %G %n %y %D/%p\0"
_LETTERS: Mapping[str, str] = {
    "directory": "d",
    "file": "f",
    "symlink": "l",
    "fifo": "p",
    "socket": "s",
    "character": "c",
    "block": "b",
}
KIND: Mapping[bytes, str] = {letter.encode(): kind for kind, letter in _LETTERS.items()}
_LETTER = {KINDS[kind]: letter for kind, letter in _LETTERS.items()}
_AT_ONCE = 4  # finds: on a machine that is busy, more of them than processors get a larger part of it
_NAMES = 1 << 18  # bytes of directories that are named on command lines
_FEW = 2000  # files that one find lists as quickly
_LIMIT = 60.0  # seconds until a listing is given up: a million files take 5 to 10
_SECOND = 1_000_000_000


class Facts(NamedTuple):
    """A line. Times in nanoseconds, path relative to the root."""

    inode: int
    ctime: int
    mtime: int
    size: int
    mode: int
    uid: int
    gid: int
    links: int
    kind: str
    device: int
    path: str


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is not looked into. globs: as `--exclude`; mounts: paths in the tree where something is mounted."""

    globs: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the finds said. shares: the directories, all at `depth`, that each of them was given."""

    outputs: tuple[bytes, ...]
    depth: int = 0
    shares: tuple[tuple[bytes, ...], ...] = ()

    def lines(self) -> list[bytes]:
        return [line for output in self.outputs for line in _split(output)]

    def new_lines(self, before: "Listing") -> Iterator[bytes]:
        """The lines that are not in `before`, if both were shared in the same way; else all."""
        if self.shares != before.shares:
            yield from self.lines()
            return
        for output, old in zip(self.outputs, before.outputs, strict=False):
            if output != old:
                yield from set(_split(output)).difference(_split(old))
        for output in self.outputs[len(before.outputs) :]:
            yield from _split(output)


def facts(line: bytes) -> Facts:
    numbers, _, path = line.partition(b"/")
    inode, ctime, mtime, size, mode, uid, gid, links, letter, device = numbers.split(b" ")
    return Facts(
        inode=int(inode),
        ctime=_time(ctime),
        mtime=_time(mtime),
        size=int(size),
        mode=int(mode, 8),
        uid=int(uid),
        gid=int(gid),
        links=int(links),
        kind=KIND[letter],
        device=int(device),
        path=os.fsdecode(path[2:]),
    )


def path_of(line: bytes) -> bytes:
    """The path relative to the root, "" for it."""
    return line.partition(b"/")[2][2:]


def is_directory(line: bytes) -> bool:
    return b" d " in line.partition(b"/")[0]


def links_of(line: bytes) -> int:
    return int(line.split(b" ", 8)[7])


def ctime_of(line: bytes) -> int:
    return _time(line.split(b" ", 2)[1])


def inode_of(line: bytes) -> int:
    return int(line.partition(b" ")[0])


def line_of(status: os.stat_result, path: str) -> bytes:
    """The line that find would have made of it."""
    numbers = (
        status.st_ino,
        _as_find(status.st_ctime_ns),
        _as_find(status.st_mtime_ns),
        status.st_size,
        f"{stat.S_IMODE(status.st_mode):o}",
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        _LETTER[stat.S_IFMT(status.st_mode)],
        status.st_dev,
    )
    return " ".join(map(str, numbers)).encode() + b"/." + os.fsencode(f"/{path}" if path else "")


def read(root: Path, left: Left, *, like: Listing | None = None) -> Listing:
    """List the tree at `root`, a directory or a file, without following links or entering other file systems.

    like: an older listing whose sharing among processes is used again. What vanishes meanwhile is left out.
    Failure if something cannot be read.
    """
    try:
        status = root.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return Listing(outputs=(line_of(status, "") + b"\0",))
        like = like or Listing(outputs=())
        return Listing(outputs=_find(root, left, like), depth=like.depth, shares=like.shares)
    except OSError as error:
        raise Failure(f"cannot read the files in {root}: {error}") from error


def shared(listing: Listing) -> Listing:
    """The same, to be listed again by several processes that take equally long."""
    lines = listing.lines()
    depth, sizes = _level(lines)
    if not depth:
        return listing
    loads, shares = [0] * _AT_ONCE, [list[bytes]() for _ in range(_AT_ONCE)]
    for path, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        lightest = loads.index(min(loads))
        loads[lightest] += size + 1
        shares[lightest].append(path)
    return Listing(outputs=(), depth=depth, shares=tuple(map(tuple, filter(None, shares))))


def _level(lines: Sequence[bytes]) -> tuple[int, Counter[bytes]]:
    """The first depth at which there are enough directories to be shared, and the entries below each; 0 if none."""
    for depth in range(1, 9):
        level = dict.fromkeys(_directories(lines, depth), 0)
        if sum(map(len, level)) > _NAMES or len(lines) < _FEW:
            break
        sizes = Counter(level)
        for line in lines:
            above = b"/".join(path_of(line).split(b"/", depth)[:depth])
            if above in sizes:
                sizes[above] += 1
        below = sum(sizes.values())
        if below and max(sizes.values()) * _AT_ONCE <= 1.2 * below and below * 2 > len(lines):
            return depth, sizes
    return 0, Counter()


def _find(root: Path, left: Left, like: Listing) -> tuple[bytes, ...]:
    """What each find says: the first one of what lies above the shares, the others of a share each."""
    starts = [[b"."], *(tuple(b"./" + path for path in share) for share in like.shares)]
    limits = [["-maxdepth", str(like.depth)] if like.depth else [], *(["-mindepth", "1"] for _ in like.shares)]
    with ExitStack() as stack:
        finds = [
            _Find(stack, root, [*map(os.fsdecode, start), *limit, *_expression(left)])
            for start, limit in zip(starts, limits, strict=True)
        ]
        outputs = [find.output() for find in finds]
        known = {path for share in like.shares for path in share}
        now = _directories(_split(outputs[0]), like.depth) if like.depth else ()
        for path in now:
            if path not in known:  # it was made since the tree was shared
                start = os.fsdecode(b"./" + path)
                outputs.append(_Find(stack, root, [start, "-mindepth", "1", *_expression(left)]).output())
    return tuple(outputs)


class _Find:
    """A find that runs. Its output goes to memory: nobody need read it for it to end."""

    def __init__(self, stack: ExitStack, root: Path, arguments: Sequence[str]) -> None:
        self._root = root
        self._out = stack.enter_context(_memory())
        self._err = stack.enter_context(_memory())
        argv = ["find", "-P", *arguments]
        env = {**config.tool_environment(), "LC_ALL": "C"}  # bytes are characters, and errors are English
        self._process = process.spawn(argv, stdout=self._out, stderr=self._err, cwd=str(root), env=env)
        stack.callback(self._end)
        self._ended = os.pidfd_open(self._process.pid)
        stack.callback(os.close, self._ended)

    def output(self) -> bytes:
        # not by wait, which looks only every 50 ms whether it has ended
        waiting = select.poll()
        waiting.register(self._ended, select.POLLIN)
        if not waiting.poll(_LIMIT * 1000):
            raise Failure(f"the files in {self._root} cannot be listed within {_LIMIT:g} s")
        for line in os.pread(self._err.fileno(), 1 << 20, 0).decode(errors="replace").splitlines():
            if not line.endswith(": No such file or directory"):
                raise Failure(f"cannot read the files in {self._root}: {line.removeprefix('find: ')}")
        self._out.seek(0)
        return self._out.read()

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            with suppress(process.TimeoutExpired):  # in a dead file system not even that ends it at once
                self._process.wait(1)


def _memory() -> IO[bytes]:
    return open(os.memfd_create("listing", os.MFD_CLOEXEC), "w+b")


def _expression(left: Left) -> list[str]:
    """find's: what is mounted is named and not entered, what is excluded is neither."""
    mounts = [word for path in left.mounts for word in ("-o", "-path", _escaped(f"./{path}"))][1:]
    globs = [word for glob in left.globs for word in ("-o", *_matching(glob))][1:]
    return [
        "-xdev",
        *(["(", *mounts, ")", "-prune", "-printf", _FORMAT, "-o"] if mounts else []),
        *(["(", *globs, ")", "!", "-path", ".", "-prune", "-o"] if globs else []),
        "-printf",
        _FORMAT,
    ]


def _matching(glob: str) -> list[str]:
    """A glob with a slash is of the path from the root of the tree, else of the name."""
    return ["-path", f"./{glob.strip('/')}"] if "/" in glob.strip("/") else ["-name", glob.strip("/")]


def _escaped(path: str) -> str:
    return "".join(f"\\{c}" if c in "*?[\\" else c for c in path)


def _directories(lines: Iterable[bytes], depth: int) -> Iterator[bytes]:
    for line in lines:
        path = path_of(line)
        if path and path.count(b"/") == depth - 1 and is_directory(line):
            yield path


def _split(output: bytes) -> list[bytes]:
    return output.split(b"\0")[:-1]


def _time(text: bytes) -> int:
    """Nanoseconds. find prints one second and a half before 1970 as -2.5: the fraction is always added."""
    seconds, _, fraction = text.partition(b".")
    return int(seconds) * _SECOND + int(fraction[:9])


def _as_find(nanoseconds: int) -> str:
    seconds, fraction = divmod(nanoseconds, _SECOND)
    return f"{seconds}.{fraction:09}0"
