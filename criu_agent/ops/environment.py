"""What the programs of a run will use later of the host's files: what `run --capture PATH` names, and for
`--closure full` what they may load: Python's modules, Node's, their libraries.

The latter is found from the outside, without a word to the programs: by what they have mapped, their arguments and
environment. All of it is in snapshots in the same way as what they use now (`ops.closure`), as a tree and a list of
its own.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from criu_agent.box.layout import Layout
from criu_agent.errors import Failure
from criu_agent.fs import beneath, tree
from criu_agent.fs.excluded import matcher
from criu_agent.fs.tree import Save
from criu_agent.linux import elf, proc
from criu_agent.model import PlanRow, Tree
from criu_agent.ops import closure
from criu_agent.ops.facts import Facts
from criu_agent.ops.live import Live
from criu_agent.ops.trees import EXCLUDED

NAME = "environment"  # of its tree and of its list in a snapshot
_PYTHON = re.compile(r"python(3(\.\d+)?)?|libpython3\.\d+\.so.*")
_STANDARD = re.compile(r"python3\.\d+")
_MODULES = re.compile(r"(/.*?/(?:site-packages|dist-packages|node_modules))/")
_WHY = {
    "none": "a restore needs the same files on its host",
    "lean": "what is mapped or open goes into the snapshot",
    "full": "what is mapped or open, or may be loaded later, goes into the snapshot",
}
_CAPTURED = ", and what --capture names"
_CACHE = 16 << 20  # bytes of the loader's cache
_MOST_LINKS = 40  # as the kernel's


class Stored(NamedTuple):
    """What is in the repository already: the tree, and the list, which is not."""

    tree: Tree
    listed: bytes


def store(live: Live, found: Facts, save: Save) -> Stored | None:
    """Put it into the repository, before the tree is frozen; None if it is not wanted.

    Failure if a file was changed meanwhile, by somebody who installs something.
    """
    if live.spec.closure != "full" and not live.spec.capture:
        return None
    with closure.Closure(live.root_pid, live.layout, live.directory / NAME) as kept:
        kept.take(*_wanted(kept.root, live, found))
        saved = tree.save(kept.capture(), save, name=NAME)
        kept.check()
        kept.remember()
        return Stored(saved, kept.list())


def planned(live: Live, found: Facts) -> PlanRow:
    """What a checkpoint would take of the files of the box's root, how many and how large."""
    kind = live.spec.closure
    try:
        kept = closure.Closure(live.root_pid, live.layout, live.directory / NAME)
    except OSError as error:
        raise Failure("the run has ended", hint="criu-agent ps -a", agent_state="not running") from error
    with kept:
        paths = set() if kind == "none" else closure.used(found, live.layout)
        paths |= _wanted(kept.root, live, found)[0]
        sizes = [_size(kept.root, path) for path in paths]
    return PlanRow(
        kind="run",
        pid=0,
        program="",
        fd=None,
        object=f"closure {kind}: {len(sizes)} files, {sum(sizes)} bytes",
        action="keep",
        reason=_WHY[kind] + (_CAPTURED if live.spec.capture else ""),
    )


def _size(root: Path, path: str) -> int:
    try:
        return os.lstat(root / path.lstrip("/")).st_size
    except OSError:  # it has gone
        return 0


def _wanted(root: Path, live: Live, found: Facts) -> tuple[set[str], set[str]]:
    """The files that are listed, and the links and directories that are not."""
    files, others = find(root, found, live.layout) if live.spec.closure == "full" else (set[str](), set[str]())
    is_hosts = closure.of_host(found, live.layout)
    is_excluded = matcher((*EXCLUDED, *live.spec.exclude))
    captured: set[str] = set()
    for top in live.spec.capture:
        for path, kind in _captured(root, top):
            if is_hosts(path) and not is_excluded(path.removeprefix(top).lstrip("/")):
                (others if kind == "directory" else captured).add(path)
    # A program is of no use where its libraries are others.
    for path, is_link in _libraries(root, filter(_may_need, captured)):
        if is_hosts(path):
            (others if is_link else files).add(path)
    return files | captured, others


def _captured(root: Path, top: str) -> Iterator[tuple[str, str]]:
    """What lies at a path of the box, and below it: each file, link ("file") and directory ("directory")."""
    with suppress(OSError):
        mode = os.lstat(root / top.lstrip("/")).st_mode
        yield top, "directory" if stat.S_ISDIR(mode) else "file"
    waiting = [top]
    while waiting:
        parent = waiting.pop()
        with suppress(OSError), beneath.directory(root, parent.lstrip("/")) as at, os.scandir(at) as entries:
            for entry in entries:
                path = f"{parent.rstrip('/')}/{entry.name}"
                if entry.is_symlink() or entry.is_file(follow_symlinks=False):
                    yield path, "file"
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                    yield path, "directory"


def find(root: Path, found: Facts, layout: Layout) -> tuple[set[str], set[str]]:
    """The regular files and the symbolic links, by their paths in the box, that are not in the run's layer.

    root: a way to the box's root that stays while the run may change it. What goes meanwhile is left out.
    """
    mapped = {mapping.path for table in found.mappings.values() for mapping in table}
    tops: set[str] = set()
    pairs: dict[str, bool] = {}  # path, and whether it is a link
    for one in found.processes:
        with suppress(OSError):  # it has ended
            paths = {mapping.path for mapping in found.mappings[one.pid]}
            environment, cwd = proc.environment(one.pid), proc.cwd(one.pid)
            tops |= _directories(root, one, paths, environment, cwd)
            pairs.update(dict.fromkeys(_names(root, one, environment, cwd), True))
    for top in tops:
        pairs.update(_walk(root, top))
    files = (path for path, is_link in pairs.items() if not is_link)
    pairs.update(list(_libraries(root, {path for path in (*mapped, *files) if _may_need(path)})))
    is_hosts = closure.of_host(found, layout)
    ours = {path: is_link for path, is_link in pairs.items() if is_hosts(path)}
    return {path for path in ours if not ours[path]}, {path for path in ours if ours[path]}


def _names(root: Path, one: proc.Process, environment: Mapping[str, str], cwd: str) -> list[str]:
    """The links that lead from what it was started as to its program: it may start itself again by them."""
    for path in _candidates(one.argv[0] if one.argv else "", environment, cwd):
        with suppress(OSError):
            return [f"/{link}" for link in real(root, path)[1]]
    return []


def _directories(
    root: Path, one: proc.Process, mapped: set[str], environment: Mapping[str, str], cwd: str
) -> set[str]:
    """Where the process may load modules from, without links; those that are there."""
    asked = {match[1] for path in mapped if (match := _MODULES.match(path))}
    for path in mapped:
        name = PurePosixPath(path).name
        if _PYTHON.fullmatch(name):
            asked |= _of_python(root, PurePosixPath(path), one, environment, cwd)
        elif name == "node":
            asked |= _of_node(root, PurePosixPath(path), one, environment, cwd)
    return {f"/{path}" for path in (_directory(root, one) for one in asked) if path}


def _of_python(
    root: Path, program: PurePosixPath, one: proc.Process, environment: Mapping[str, str], cwd: str
) -> set[str]:
    found = set(_listed(environment, "PYTHONPATH"))
    versions = {name for parent in program.parents for name in _standard_libraries(root, parent)}
    for prefix in [
        *program.parents,
        PurePosixPath("/usr/local"),
        PurePosixPath(environment.get("HOME", "/"), ".local"),
    ]:
        found |= {f"{prefix}/lib/{version}" for version in versions}
    if versions:
        found |= {f"{prefix}/lib/python3/dist-packages" for prefix in program.parents}  # Debian's
    if "VIRTUAL_ENV" in environment:
        found.add(environment["VIRTUAL_ENV"])
    for path in _candidates(one.argv[0] if one.argv else "", environment, cwd):
        virtual = PurePosixPath(path).parent.parent
        if _is_there(root, f"{virtual}/pyvenv.cfg"):
            found.add(str(virtual))
    return found


def _standard_libraries(root: Path, prefix: PurePosixPath) -> Iterator[str]:
    """The names of Python's libraries below that prefix, as it looks for them itself: by os.py."""
    with suppress(OSError):
        for name in os.listdir(root / str(prefix).lstrip("/") / "lib"):
            if _STANDARD.fullmatch(name) and _is_there(root, f"{prefix}/lib/{name}/os.py"):
                yield name


def _of_node(
    root: Path, program: PurePosixPath, one: proc.Process, environment: Mapping[str, str], cwd: str
) -> set[str]:
    found = {*_listed(environment, "NODE_PATH"), f"{program.parent.parent}/lib/node_modules"}
    for script in (argument for argument in one.argv[1:] if not argument.startswith("-")):
        with suppress(OSError):
            path = PurePosixPath("/", real(root, os.path.join(cwd, script))[0])  # noqa: PTH118 - of the box
            found |= {f"{parent}/node_modules" for parent in path.parents if parent.name != "node_modules"}
            outermost = _MODULES.match(str(path))
            return found | ({outermost[1]} if outermost else set())
    return found


def _listed(environment: Mapping[str, str], name: str) -> list[str]:
    return [path for path in environment.get(name, "").split(":") if path.startswith("/")]


def _candidates(program: str, environment: Mapping[str, str], cwd: str) -> list[str]:
    """The paths that a command may have been started by."""
    if "/" in program:
        return [os.path.join(cwd, program)]  # noqa: PTH118 - of the box
    return [f"{directory}/{program}" for directory in _listed(environment, "PATH")] if program else []


def _is_there(root: Path, path: str) -> bool:
    try:
        real(root, path)
    except OSError:
        return False
    return True


def _directory(root: Path, path: str) -> str:
    """The directory without links, relative to the root; "" if there is none, or it is the root."""
    try:
        found, _ = real(root, path)
        return found if stat.S_ISDIR(os.lstat(root / found).st_mode) else ""
    except OSError:
        return ""


def real(root: Path, path: str) -> tuple[str, list[str]]:
    """Where a path of the box leads, relative to its root and without links; and the links that its end goes through.

    The kernel would follow an absolute link into our own root. OSError if it leads nowhere.
    """
    todo, done, links = path.split("/"), list[str](), list[str]()
    hops = 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = "/".join([*done, part])
        if not stat.S_ISLNK(os.lstat(root / here).st_mode):
            done.append(part)
            continue
        hops += 1
        if hops > _MOST_LINKS:
            raise OSError(f"{path} has too many links")
        if not todo:
            links.append(here)
        target = os.readlink(root / here)
        done = [] if target.startswith("/") else done
        todo = [*target.split("/"), *todo]
    return "/".join(done), links


def _walk(root: Path, top: str) -> Iterator[tuple[str, bool]]:
    """The files below a directory, and whether each is a link. Bytecode is left out: Python makes it again."""
    waiting = [top]
    while waiting:  # os.fwalk calls itself for each level, and a tree may have any depth
        parent = waiting.pop()
        with suppress(OSError), beneath.directory(root, parent.lstrip("/")) as at, os.scandir(at) as entries:
            for entry in entries:
                path = f"{parent}/{entry.name}"
                if entry.is_symlink() or entry.is_file(follow_symlinks=False):
                    yield path, entry.is_symlink()
                elif entry.is_dir(follow_symlinks=False) and entry.name != "__pycache__":
                    waiting.append(path)


def _may_need(path: str) -> bool:
    """Whether it may be a program or a library that others are loaded for."""
    return ".so" in path or path.endswith(".node") or "/bin/" in path


def _libraries(root: Path, paths: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """The libraries that these files need, and those that they need in turn, with the links to them."""
    waiting, seen = list(paths), set(paths)
    known = _loader_cache(root) if waiting else {}
    while waiting:
        path = waiting.pop()
        for candidate in _needed(root, path, known):
            with suppress(OSError):
                found, links = real(root, candidate)
                if f"/{found}" in seen:
                    continue
                seen.add(f"/{found}")
                waiting.append(f"/{found}")
                yield f"/{found}", False
                yield from ((f"/{link}", True) for link in links)


def _needed(root: Path, path: str, known: Mapping[str, list[str]]) -> Iterator[str]:
    with suppress(OSError), beneath.file(root, path.lstrip("/")) as fd:
        names, places = elf.needed(fd)
        where = [place.replace("$ORIGIN", os.path.dirname(path)).replace("${ORIGIN}", "") for place in places]  # noqa: PTH120
        for name in names:
            yield from known.get(name, ())
            yield from (f"{place}/{name}" for place in (*where, os.path.dirname(path), "/lib", "/usr/lib"))  # noqa: PTH120


def _loader_cache(root: Path) -> Mapping[str, list[str]]:
    """What the loader of the box finds by name (man 8 ldconfig). Empty where it has no cache, as musl's."""
    try:
        with beneath.file(root, "etc/ld.so.cache") as fd, open(fd, "rb", closefd=False) as file:
            return elf.loader_cache(file.read(_CACHE))
    except OSError:
        return {}
