"""What a manifest says of its run, checked before anything is done with it.

A signature says who wrote a manifest, not that it is right: another version of ours may have, or somebody who has the
key. Nothing here is believed because it is signed.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from os.path import normpath
from typing import Any, Literal, NoReturn, get_args

from criu_agent import runs
from criu_agent.box.outer import again
from criu_agent.config import Config
from criu_agent.criu.command import NetworkLock
from criu_agent.errors import Corrupt
from criu_agent.fs import container
from criu_agent.linux.cpu_baseline import LEVELS
from criu_agent.model import Closure, Contents, Manifest, RunSpec, Tree
from criu_agent.ops import automatic, privileges
from criu_agent.ops.privileges import Recorded
from criu_agent.repo.fields import Fields

_USER = re.compile(r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})")
_HIGHEST_ID = (1 << 32) - 2  # -1 means "as it is" to chown
_IMAGE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.img")
_PIPE = re.compile(r"pipe:\[[0-9]{1,20}\]")
_INPUT = 16 << 20  # bytes that lie unread in a pipe, or are on their way into it
_TYPED = 4096  # N_TTY_BUF_SIZE: no line discipline holds more
_SCROLLBACK = 8 << 20  # bytes; twice what is kept
_CONNECTION = ("id", "program", "protocol", "local", "remote", "state", "action")
_IMAGES = 1 << 17  # CRIU makes about ten of a process
_HINT = "restore another snapshot: `criu-agent snapshots` lists them"


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A tree of the snapshot that was written through to the host: its path in the box, and the globs that were left
    out of it."""

    path: str
    excluded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """terminal, connections: as a checkpoint has saved them. mounts: keys of the box's binds to where they were.
    captured: by the names of the trees, which are keys of mounts. privileges is None where the writer recorded none.
    """

    spec: RunSpec
    terminal: Mapping[str, Any]
    connections: tuple[Mapping[str, Any], ...]
    network_lock: NetworkLock
    mounts: Mapping[str, str]
    privileges: Recorded | None
    captured: Mapping[str, Captured]


def read(config: Config, manifest: Manifest) -> Saved:
    """Corrupt for what no checkpoint has written, Usage for a name that no run can have here."""
    fields = Fields(dict(manifest.resources), "the snapshot")
    try:
        mounts, trees = fields.mapping("mounts", _path), captured(manifest)
        if any(mounts.get(key) != one.path for key, one in trees.items()):
            _wrong("a tree of its files belongs to none of its mounts")
        return Saved(
            spec=_spec(config, manifest, fields.inner("run")),
            terminal=_terminal(fields.inner("terminal")),
            connections=_connections(fields),
            network_lock=_network_lock(fields.inner("network")),
            mounts=mounts,
            captured=trees,
            privileges=privileges.read(fields.any("privileges")) if "privileges" in fields.document else None,
        )
    except Corrupt as error:
        error.hint = error.hint or _HINT
        raise


def captured(manifest: Manifest) -> Mapping[str, Captured]:
    """The trees of what is written through; none in snapshots of before there were any."""
    fields = Fields(dict(manifest.resources), "the snapshot")
    if "captured" not in fields.document:
        return {}
    found = fields.mapping("captured", lambda inner, key: _captured(inner.inner(key)))
    paths = sorted(f"{one.path.rstrip('/')}/" for one in found.values())
    for outer, inner in pairwise(paths):
        if inner.startswith(outer):
            _wrong(f"two trees of its files are at {outer}")
    return found


def _captured(fields: Fields) -> Captured:
    path = _path(fields, "path")
    if path == "/":
        _wrong("a tree of its files is the whole root")
    return Captured(path=path, excluded=_globs(fields, "excluded"))


def layers(manifest: Manifest) -> list[tuple[str, str]]:
    """The trees of what the run wrote on other file systems than the root's: name and path in the box."""
    fields = Fields(dict(manifest.resources), "the snapshot")
    mounts = fields.mapping("mounts", _path) if "mounts" in fields.document else {}  # none without processes
    return [(one.key, one.path) for one in again(mounts) if one.layered]


def layer(contents: Contents, name: str = "upper") -> Tree:
    """The files that the run wrote, on / or on another file system. Corrupt if there are none."""
    if name not in contents.trees:
        _wrong("it has no files of the run")
    return contents.trees[name]


def check_contents(contents: Contents) -> None:
    """Corrupt for images that CRIU does not make, or a scrollback that is none."""
    if len(contents.images) > _IMAGES:
        _wrong(f"it has {len(contents.images)} images")
    strange = [name for name in contents.images if not _IMAGE.fullmatch(name)]
    if strange:
        _wrong(f"{strange[0]!r} is no image of CRIU's")
    if "scrollback" not in contents.attachments or contents.attachments["scrollback"].size > _SCROLLBACK:
        _wrong("it has no scrollback, or too much of it")


def _spec(config: Config, manifest: Manifest, run: Fields) -> RunSpec:
    """What is known of a run from its snapshot alone. Its environment is in its memory, not in the manifest."""
    if not manifest.argv or any("\0" in argument for argument in manifest.argv):
        _wrong("it has no command")
    return RunSpec(
        id=manifest.run_id,
        name=runs.check_name(manifest.run_name),
        argv=manifest.argv,
        workdir=_checked_path(manifest.workdir, "the work directory"),
        env={},
        user=_user(run.text("user")),
        user_namespace=run.flag("user_namespace"),
        cpu_baseline=_cpu_baseline(run),
        no_new_privs=run.flag("no_new_privs") if "no_new_privs" in run.document else False,
        tty=run.flag("tty"),
        stdin_open=run.flag("stdin_open"),
        closure=_closure(run.document.get("closure", "lean")),
        image=_image(run.document.get("image", "")),
        through=tuple(_checked_path(path, "'through'") for path in run.texts("through")),
        agent_state=_agent_state(run),
        capture=tuple(_checked_path(path, "'capture'") for path in run.texts("capture"))
        if "capture" in run.document
        else (),
        exclude=_globs(run, "exclude") if "exclude" in run.document else (),
        fs=_fs(run),
        labels=manifest.labels,
        **runs.repository_of(config),
        created=run.time("started"),
        **automatic.settings(run.document),
    )


def _fs(run: Fields) -> Literal["overlay", "host"]:
    kind = run.document.get("fs", "overlay")  # a snapshot of an older version does not say
    if kind == "host":
        return "host"
    if kind != "overlay":
        _wrong(f"{kind!r} is no kind of a root")
    return "overlay"


def _agent_state(run: Fields) -> Mapping[str, str]:
    """Which of the paths that are written through known agents keep; a snapshot of an older version does not say."""
    if "agent_state" not in run.document:
        return {}
    state = run.mapping("agent_state", Fields.text)
    for path, kind in state.items():
        if path not in run.texts("through") or kind not in ("directory", "file"):
            _wrong(f"{path!r} is no state of an agent")
    return state


def _cpu_baseline(run: Fields) -> str:
    level = run.text("cpu_baseline") if "cpu_baseline" in run.document else ""
    if level and level not in LEVELS:
        _wrong(f"{level!r} is no level of processors")
    return level


def _user(text: str) -> str:
    match = _USER.fullmatch(text)
    if not match or max(map(int, match.groups())) > _HIGHEST_ID:
        _wrong(f"{text!r} is no user")
    return text


def _closure(kind: object) -> Closure:
    found: Closure | None = next((one for one in get_args(Closure) if one == kind), None)
    return found or _wrong(f"{kind!r} is no closure")


def _image(digest: object) -> str:
    """Of the container image that the box's root is; "" if it is the host's own."""
    if not isinstance(digest, str) or (digest and not container.DIGEST.fullmatch(digest)):
        _wrong(f"{digest!r} is no container image")
    return digest


def _terminal(fields: Fields) -> Mapping[str, Any]:
    kind = fields.text("kind")
    if kind not in ("pty", "pipes"):
        _wrong(f"its terminal is of the unknown kind {kind!r}")
    if kind == "pipes":
        _pipes(fields)
    _bytes(fields, "unread", _TYPED)
    try:
        fields.text("modes").encode("latin-1")
    except UnicodeEncodeError:
        _wrong("the modes of its terminal are no bytes")
    if "pending" in fields.document:
        _bytes(fields, "pending", _INPUT)
    return fields.document


def _pipes(fields: Fields) -> None:
    with_input = fields.document.get("input") is not None
    keys = fields.texts("keys")
    if len(keys) != 2 + with_input or not all(map(_PIPE.fullmatch, keys)) or len(set(keys)) != len(keys):
        _wrong("its standard streams are no pipes")
    if with_input:
        _bytes(fields, "input", _INPUT)
        fields.flag("input_closed")


def _bytes(fields: Fields, key: str, most: int) -> None:
    try:
        data = base64.b64decode(fields.text(key), validate=True)
    except (binascii.Error, ValueError):
        _wrong(f"{key!r} of its terminal is no base64")
    if len(data) > most:
        _wrong(f"{key!r} of its terminal is longer than {most} bytes")


def _connections(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    documents = fields.any("connections")
    if not isinstance(documents, list):
        _wrong("'connections' is no list")
    found = [Fields(one, "a connection of the snapshot") for one in documents]
    for one in found:
        for key in _CONNECTION:
            one.text(key)
        one.flag("internal")
    return tuple(one.document for one in found)


def _network_lock(fields: Fields) -> NetworkLock:
    lock = fields.text("lock")
    if lock == "nftables":
        return "nftables"
    if lock != "skip":
        _wrong(f"{lock!r} is no lock of its network")
    return "skip"


def _globs(fields: Fields, key: str) -> tuple[str, ...]:
    globs = fields.texts(key)
    if any("\0" in glob or not glob.strip("/") for glob in globs):
        _wrong(f"{key!r} has no globs")
    return globs


def _path(fields: Fields, key: str) -> str:
    return _checked_path(fields.text(key), f"the path {key!r}")


def _checked_path(path: str, what: str) -> str:
    """A path as realpath gives it: from the root, without a dot or two."""
    if not path.startswith("/") or normpath(path) != path or path.startswith("//") or "\0" in path:
        _wrong(f"{what} is {path!r}, which is no path from the root")
    return path


def _wrong(why: str) -> NoReturn:
    raise Corrupt(f"the snapshot is changed: {why}", hint=_HINT)
