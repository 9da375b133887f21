"""random_writer.py SEED TREE...: does random things to files for ever, and knows what must be there.

It keeps in its memory what every file, link and directory below the TREEs must be, and what it has open; on SIGUSR1
it compares all of it with what it finds, and says `verified N operations`, or what differs and ends. It runs in a
box, and imports nothing of the tests.
"""

import mmap
import os
import random
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

LARGEST = 300_000
MOST = 60  # files in a tree


@dataclass(eq=False)
class File:
    """A regular file, whatever its names are. times: when it was changed last, in ns."""

    content: bytearray = field(default_factory=bytearray)
    names: set[str] = field(default_factory=set)
    mode: int = 0o644
    times: int = 0
    notes: dict[str, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class Open:
    fd: int
    file: File
    offset: int
    flags: int
    memory: mmap.mmap | None = None


class Writer:
    def __init__(self, seed: int, trees: list[str]) -> None:
        self.dice = random.Random(seed)
        self.done = 0
        self.files: dict[str, File] = {}
        self.links: dict[str, str] = {}
        self.pipes: set[str] = set()
        self.directories = dict.fromkeys(trees, 0)
        self.trees = trees
        self.open: list[Open] = []
        self.has_lost_names = False  # what was open since the last comparison
        for tree in trees:
            os.mkdir(tree)
            self.saw_directory(tree)

    # -- what is known

    def saw_directory(self, *paths: str) -> None:
        for path in paths:
            self.directories[path] = os.stat(path).st_mtime_ns

    def saw(self, file: File, *, fd: int | None = None) -> None:
        file.times = os.stat(min(file.names) if fd is None else fd).st_mtime_ns

    def a_directory(self) -> str:
        return self.dice.choice(sorted(self.directories))

    def a_new_name(self, *, of: str = "f") -> str:
        return f"{self.a_directory()}/{of}{self.dice.randrange(10**9)}"

    def a_name(self) -> str:
        return self.dice.choice(sorted(self.files))

    def bytes(self) -> bytes:
        size = self.dice.choice([1, 10, 4095, 4096, 4097, 70_000])
        return self.dice.choice([self.dice.randbytes(size), bytes(size), b"line of text\n" * (size // 13 + 1)])

    # -- what is done; each leaves the model as the files are

    def create(self) -> None:
        if len(self.files) >= MOST:
            return self.unlink()
        name, file = self.a_new_name(), File(bytearray(self.bytes()))
        with open(name, "xb") as new:
            new.write(file.content)
        os.chmod(name, file.mode)
        file.names.add(name)
        self.files[name] = file
        self.saw(file)
        return self.saw_directory(os.path.dirname(name))

    def append(self) -> None:
        file = self.files[name := self.a_name()]
        data = self.bytes()
        if len(file.content) < LARGEST:
            with open(name, "ab") as old:
                old.write(data)
            file.content += data
            self.saw(file)

    def overwrite(self) -> None:
        file = self.files[name := self.a_name()]
        data, at = self.bytes(), self.dice.randrange(LARGEST)
        with open(name, "r+b") as old:
            old.seek(at)
            old.write(data)
        self.put(file, at, data)
        self.saw(file)

    def put(self, file: File, at: int, data: bytes) -> None:
        if len(file.content) < at:
            file.content += bytes(at - len(file.content))
        file.content[at : at + len(data)] = data

    def truncate(self) -> None:
        file = self.files[name := self.a_name()]
        if any(one.memory is not None for one in self.open if one.file is file):
            return
        size = self.dice.randrange(LARGEST)
        os.truncate(name, size)
        file.content = file.content[:size] + bytes(max(0, size - len(file.content)))
        self.saw(file)

    def unlink(self) -> None:
        self.forget(name := self.a_name())
        os.unlink(name)
        self.saw_directory(os.path.dirname(name))

    def forget(self, name: str) -> None:
        file = self.files.pop(name)
        file.names.discard(name)

    def rename(self) -> None:
        """Over nothing, or over another file, as an editor saves."""
        old, new = self.a_name(), self.dice.choice([self.a_new_name(), self.a_name()])
        if self.tree_of(old) != self.tree_of(new) or self.files.get(new) is self.files[old]:
            return
        os.rename(old, new)
        if new in self.files:
            self.forget(new)
        file = self.files.pop(old)
        file.names = file.names - {old} | {new}
        self.files[new] = file
        self.saw_directory(os.path.dirname(old), os.path.dirname(new))

    def tree_of(self, path: str) -> str:
        return next(tree for tree in self.trees if path.startswith(f"{tree}/"))

    def link(self) -> None:
        old, new = self.a_name(), self.a_new_name()
        if self.tree_of(old) != self.tree_of(new) or len(self.files) >= MOST:
            return
        os.link(old, new)
        self.files[new] = self.files[old]
        self.files[old].names.add(new)
        self.saw_directory(os.path.dirname(new))

    def symlink(self) -> None:
        if len(self.links) > MOST:
            gone = self.dice.choice(sorted(self.links))
            del self.links[gone]
            os.unlink(gone)
            return self.saw_directory(os.path.dirname(gone))
        name, target = self.a_new_name(of="l"), self.dice.choice(["nowhere", "/etc/passwd", "../" * 9, self.a_name()])
        os.symlink(target, name)
        self.links[name] = target
        return self.saw_directory(os.path.dirname(name))

    def pipe(self) -> None:
        if len(self.pipes) < 5:
            name = self.a_new_name(of="p")
            os.mkfifo(name)
            self.pipes.add(name)
            self.saw_directory(os.path.dirname(name))

    def mkdir(self) -> None:
        if len(self.directories) < 20:
            os.mkdir(name := self.a_new_name(of="d"))
            self.saw_directory(name, os.path.dirname(name))

    def rmdir(self) -> None:
        """One with all that is in it."""
        name = self.a_directory()
        if name in self.trees:
            return
        shutil.rmtree(name)
        inside = f"{name}/"
        for path in [path for path in self.files if path.startswith(inside)]:
            self.forget(path)
        self.links = {path: to for path, to in self.links.items() if not path.startswith(inside)}
        self.pipes = {path for path in self.pipes if not path.startswith(inside)}
        self.directories = {
            path: at for path, at in self.directories.items() if path != name and not path.startswith(inside)
        }
        self.saw_directory(os.path.dirname(name))

    def rename_directory(self) -> None:
        old, new = self.a_directory(), self.a_new_name(of="d")
        if old in self.trees or self.tree_of(old) != self.tree_of(new) or f"{new}/".startswith(f"{old}/"):
            return
        os.rename(old, new)

        def moved(path: str) -> str:
            return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path

        self.files = {moved(path): file for path, file in self.files.items()}
        for file in self.files.values():
            file.names = set(map(moved, file.names))
        self.links = {moved(path): to for path, to in self.links.items()}
        self.pipes = set(map(moved, self.pipes))
        self.directories = {moved(path): at for path, at in self.directories.items()}
        self.saw_directory(os.path.dirname(old), os.path.dirname(new))

    def chmod(self) -> None:
        file = self.files[name := self.a_name()]
        file.mode = self.dice.choice([0o400, 0o600, 0o644, 0o755, 0o4755, 0])
        os.chmod(name, file.mode)

    def utime(self) -> None:
        file = self.files[name := self.a_name()]
        file.times = self.dice.randrange(2**60)
        os.utime(name, ns=(file.times, file.times))

    def note(self) -> None:
        file = self.files[name := self.a_name()]
        key, value = f"user.{self.dice.randrange(3)}", self.dice.randbytes(20)
        os.setxattr(name, key, value)
        file.notes[key] = value

    def open_one(self) -> None:
        if len(self.open) > 10:
            return self.close_one()
        file = self.files[name := self.a_name()]
        flags = self.dice.choice([os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
        one = Open(os.open(name, flags), file, 0, flags)
        if flags == os.O_RDWR and file.content and self.dice.random() < 0.5:
            one.memory = mmap.mmap(one.fd, len(file.content))
        return self.open.append(one)

    def close_one(self) -> None:
        self.look_for_lost_names()
        one = self.open.pop(self.dice.randrange(len(self.open)))
        if one.memory is not None:
            one.memory.close()
        os.close(one.fd)

    def use_one(self) -> None:
        if not self.open:
            return
        one = self.dice.choice(self.open)
        if one.flags == os.O_RDONLY:
            data = os.read(one.fd, 5000)
            assert data == one.file.content[one.offset : one.offset + 5000], "another content was read"
            one.offset += len(data)
            return
        data = self.bytes()
        if one.flags & os.O_APPEND:
            if len(one.file.content) > LARGEST:
                return
            one.offset = len(one.file.content)
        elif self.dice.random() < 0.3:
            one.offset = os.lseek(one.fd, self.dice.randrange(LARGEST), os.SEEK_SET)
        os.write(one.fd, data)
        self.put(one.file, one.offset, data)
        one.offset += len(data)
        self.saw(one.file, fd=one.fd)

    def use_memory(self) -> None:
        mapped = [one for one in self.open if one.memory is not None]
        if not mapped:
            return
        one = self.dice.choice(mapped)
        assert one.memory is not None
        at = self.dice.randrange(len(one.memory))
        data = self.bytes()[: len(one.memory) - at]
        one.memory[at : at + len(data)] = data
        one.memory.flush()
        self.put(one.file, at, data)
        self.saw(one.file, fd=one.fd)

    def once(self) -> None:
        often = [self.create, self.append, self.overwrite, self.rename, self.use_one, self.use_one, self.open_one]
        seldom = [
            self.truncate,
            self.unlink,
            self.link,
            self.symlink,
            self.pipe,
            self.mkdir,
            self.rename_directory,
            self.chmod,
            self.utime,
            self.note,
            self.use_memory,
            self.close_one if self.open else self.open_one,
        ]
        work: Callable[[], None] = self.dice.choice(often * 2 + seldom)
        if not self.files:
            work = self.create
        elif self.dice.random() < 0.005:
            work = self.rmdir
        work()
        self.done += 1

    # -- the comparison

    def look_for_lost_names(self) -> None:
        """Of what is open: for the freeze CRIU gives a file a new name in such a directory and takes it away again,
        which changes the directory (docs/limits.md)."""
        if any(os.readlink(f"/proc/self/fd/{one.fd}").endswith(" (deleted)") for one in self.open):
            self.has_lost_names = True

    def differences(self) -> list[str]:
        found = list[str]()
        seen = set[str]()
        for tree in self.trees:
            for parent, directories, names in os.walk(tree):
                seen |= {f"{parent}/{name}" for name in (*directories, *names)} | {parent}
        known = {*self.files, *self.links, *self.pipes, *self.directories}
        found += [f"{path} is missing" for path in sorted(known - seen)]
        found += [f"{path} is there" for path in sorted(seen - known)]
        times = {path: os.stat(path).st_mtime_ns for path in self.directories if path in seen}
        self.look_for_lost_names()
        if not self.has_lost_names:
            changed = [path for path, at in times.items() if at != self.directories[path]]
            found += [f"{path} was changed at {times[path]}, not {self.directories[path]}" for path in changed]
        self.directories |= times
        self.has_lost_names = False
        found += [
            f"{path} leads elsewhere" for path, to in self.links.items() if path in seen and os.readlink(path) != to
        ]
        for path in self.pipes & seen:
            if not stat.S_ISFIFO(os.lstat(path).st_mode):
                found.append(f"{path} is no pipe")
        for path in sorted(self.files.keys() & seen):
            with open(path, "rb") as file:
                found += self.compared(path, file.fileno(), self.files[path])
        for one in self.open:
            name = f"fd {one.fd}"
            way = f"/proc/self/fd/{one.fd}"
            with open(way, "rb") as file:
                found += self.compared(name, file.fileno(), one.file)
            if os.lseek(one.fd, 0, os.SEEK_CUR) != one.offset:
                found.append(f"{name} is at {os.lseek(one.fd, 0, os.SEEK_CUR)}, not {one.offset}")
            if one.memory is not None and one.memory[:] != one.file.content[: len(one.memory)]:
                found.append(f"the memory of {name} has another content")
        return found

    def compared(self, name: str, fd: int, file: File) -> list[str]:
        facts = os.fstat(fd)
        unit = 1 if file.names else 1000  # CRIU carries less of a file without a name (docs/limits.md)
        pairs = {
            "mode": (stat.S_IMODE(facts.st_mode), file.mode),
            "links": (facts.st_nlink, len(file.names)),
            "time": (facts.st_mtime_ns // unit, file.times // unit),
            "notes": (_notes(fd) if file.names else {}, file.notes if file.names else {}),
            "size": (facts.st_size, len(file.content)),
            "content": (os.pread(fd, facts.st_size + 1, 0) == bytes(file.content), True),
        }
        return [f"{name} has {what} {is_}, not {was}" for what, (is_, was) in pairs.items() if is_ != was]


def _notes(fd: int) -> dict[str, bytes]:
    return {key: os.getxattr(fd, key) for key in os.listxattr(fd) if key.startswith("user.")}


def main() -> None:
    asked = list[int]()
    signal.signal(signal.SIGUSR1, lambda number, _frame: asked.append(number))
    writer = Writer(int(sys.argv[1]), sys.argv[2:])
    os.umask(0o022)
    print("writes", flush=True)
    while True:
        writer.once()
        if asked:
            asked.clear()
            if found := writer.differences():
                sys.exit("\n".join(["differences:", *found]))
            print(f"verified {writer.done} operations", flush=True)
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
