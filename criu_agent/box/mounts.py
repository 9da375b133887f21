"""What the box sees as its files: the overlay root and the mounts in it, for a start and for a restore alike.

At a start we mount everything. At a restore CRIU mounts again what it dumped (proc, the tmpfs with their
content, devpts), and asks for the rest by name: the root, and every `Bind`. Both sides are made from the
same `Layout`, so they cannot drift apart.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from criu_agent import log
from criu_agent.box import tools
from criu_agent.errors import HostCannot
from criu_agent.linux import syscalls

DEVICES = ("null", "zero", "full", "random", "urandom")
INIT = "/run/criu-agent/criu-agent-init"  # bound, since its path on the host may differ elsewhere
HOST = Path("/")
_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
_OPAQUE = "trusted.overlay.opaque"
_RESOLVER = "resolver"
# Without index and nfs_export CRIU cannot dump an inotify watch on an overlay (lab/criu.md section 6); without
# redirect_dir a directory of the host cannot be renamed in the box (EXDEV), which Codex does at its start.
_OVERLAY_OPTIONS = "index=on,nfs_export=on,redirect_dir=on"


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A file or directory of the host that is bound into the box: an External of CRIU under `key`."""

    key: str
    source: str  # on the host
    target: str  # in the box

    @property
    def dump_external(self) -> str:
        return f"mnt[{self.target}]:{self.key}"

    @property
    def restore_external(self) -> str:
        return f"mnt[{self.key}]:{self.source}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The directories of one run's root, and its binds.

    directory holds upper (what the run wrote), work (overlayfs' own) and is on a file system that can carry an
    upper layer. hidden are paths of the host that the box must not see, such as our own state. user_namespace: the
    box is in one of its own. lower: what the upper layer lies over, the host's root or that of a container image.
    """

    directory: Path
    binds: tuple[Bind, ...]
    hidden: tuple[str, ...]
    user_namespace: bool = False
    lower: Path = HOST

    @property
    def foreign(self) -> bool:
        """Whether the root is not the host's."""
        return self.lower != HOST

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    @property
    def work(self) -> Path:
        return self.directory / "work"

    def dump_externals(self) -> list[str]:
        """mnt[/] is the overlay root: at the restore --root is its counterpart."""
        return ["mnt[/]:root", *(bind.dump_external for bind in self.binds)]

    def restore_externals(self) -> list[str]:
        return [bind.restore_external for bind in self.binds]


def system_binds(init: Path, *, user_namespace: bool, foreign: bool = False) -> list[Bind]:
    """The binds that every box has: device nodes, /sys, the init, and the resolver's file if it is needed.

    foreign: the root is that of a container image.
    In a user namespace there is no /sys: its mounts are locked together, and each would have to be an External.
    """
    if not init.is_file():
        raise HostCannot(f"there is no init for the box at {init}", hint="install it with scripts/install-criu")
    binds = [Bind(key=f"dev-{name}", source=f"/dev/{name}", target=f"/dev/{name}") for name in DEVICES]
    binds.append(Bind(key="init", source=str(init), target=INIT))
    if not user_namespace:
        binds.append(Bind(key="sys", source="/sys", target="/sys"))
    resolver = os.path.realpath("/etc/resolv.conf")
    if foreign and Path(resolver).is_file():
        binds.append(Bind(key=_RESOLVER, source=resolver, target="/etc/resolv.conf"))
    # The box has its own /run: a resolv.conf that is a link into /run would dangle.
    elif resolver.startswith("/run/") and Path(resolver).is_file():
        binds.append(Bind(key=_RESOLVER, source=resolver, target=resolver))
    return binds


def again(binds: Iterable[Bind], mounted: Mapping[str, str]) -> list[Bind]:
    """The binds of a box that was dumped, each from where this host has it: mounted is what it had, key to target.

    Only the resolver's file can be missing here, where /etc/resolv.conf is a file of its own or there is none.
    """
    sources = {bind.key: bind.source for bind in binds}
    resolver = os.path.realpath("/etc/resolv.conf")
    sources.setdefault(_RESOLVER, resolver if os.path.isfile(resolver) else os.devnull)  # noqa: PTH113 - a str
    unknown = sorted(mounted.keys() - sources.keys())
    if unknown:
        raise HostCannot(
            f"the snapshot has a mount at {mounted[unknown[0]]} ({unknown[0]}) that this criu-agent does not make",
            hint="upgrade criu-agent",
        )
    return [Bind(key=key, source=sources[key], target=target) for key, target in mounted.items()]


def through_binds(paths: Iterable[str]) -> list[Bind]:
    """Binds of what is written through to the host, outer directories first; nested ones need none."""
    binds: list[Bind] = []
    for number, path in enumerate(sorted(set(paths))):
        if path == "/" or any(path.startswith(bind.target + "/") for bind in binds):
            continue
        if not os.path.exists(path):  # noqa: PTH110 - a str, and the user's spelling of it
            raise HostCannot(
                f"{path}, which the run writes through to, does not exist on this host",
                hint="what is written through is not in snapshots: copy it to here from where the run was",
            )
        # By number: what is made from the path could be the same for two, or hold what CRIU reads as its own.
        binds.append(Bind(key=f"through-{number}", source=path, target=path))
    return binds


def prepare_upper(layout: Layout) -> None:
    """Make the upper layer of a new run: an own empty /tmp, and nothing to see under the hidden paths."""
    for directory in (layout.upper, layout.work):
        directory.mkdir(parents=True, exist_ok=True)
    layout.upper.chmod(0o755)  # it is the root of the box, for all of its users and whatever our umask is
    _cover(layout.upper, "/tmp", 0o1777)  # noqa: S108 - of the box
    hide(layout)
    if layout.foreign:
        _prepare_foreign(layout)


def _prepare_foreign(layout: Layout) -> None:
    """What the box needs in the root of a container image, in the run's layer: the image is not changed."""
    for name in ("/proc", "/dev", "/run", "/sys", "/etc"):
        _make_way(layout, name)
    for bind in layout.binds:
        if not bind.target.startswith(("/dev/", "/run/")):
            _make_way(layout, bind.target, is_file=not Path(bind.source).is_dir())
    if not os.path.lexists(layout.lower / "etc/hosts"):
        (layout.upper / "etc/hosts").write_text(_HOSTS)
    (init,) = (bind.source for bind in layout.binds if bind.target == INIT)
    tools.bring(layout.upper, {INIT: init, tools.SHELL: tools.SHELL, tools.SETPRIV: tools.SETPRIV})


def _make_way(layout: Layout, path: str, *, is_file: bool = False) -> None:
    """An own directory or empty file `path` in the run's layer, whatever the image has there.

    No link of the image may be on the way: we mount before its root is ours, and it would lead into the host's.
    """
    made, below = layout.upper, layout.lower
    parts = Path(path).parts[1:]
    for number, part in enumerate(parts, 1):
        made, below = made / part, below / part
        last = number == len(parts)
        if below.is_symlink() and not last:
            raise HostCannot(
                f"the container image has a link at /{'/'.join(parts[:number])}, and the box needs {path}",
                hint="choose another --workdir or --through",
            )
        if made.is_dir():
            continue
        if last and is_file:
            made.touch()
            return
        made.mkdir(mode=0o755)
        if below.is_dir() and not below.is_symlink():
            facts = below.stat()
            made.chmod(stat.S_IMODE(facts.st_mode))
            os.chown(made, facts.st_uid, facts.st_gid)


def hide(layout: Layout) -> None:
    """Have nothing to see under the hidden paths of this host, also in an upper layer that comes from another one."""
    for path in layout.hidden:
        _cover(layout.upper, path, 0o700)


def _cover(upper: Path, path: str, mode: int) -> None:
    """An empty directory `path` of the upper layer, its parents with the modes and owners that the host's have.

    Where the run has something else than a directory on the way, nothing of the host is to be seen there anyway.
    """
    made = upper
    host = Path("/")
    for part in Path(path).parts[1:]:
        made, host = made / part, host / part
        try:
            if not stat.S_ISDIR(made.lstat().st_mode):
                return
        except FileNotFoundError:
            made.mkdir(mode=0o755)
            if host.is_dir():
                facts = host.stat()
                made.chmod(stat.S_IMODE(facts.st_mode))
                os.chown(made, facts.st_uid, facts.st_gid)
    if _OPAQUE not in os.listxattr(made, follow_symlinks=False):
        made.chmod(mode)
        os.setxattr(made, _OPAQUE, b"y")


def mount_root(layout: Layout, target: Path, *, between: Sequence[Path] = ()) -> None:
    """Mount the overlay of the host's root and the run's upper layer on `target`; between: layers between them."""
    lower = ":".join(map(str, (*between, layout.lower)))
    options = f"lowerdir={lower},upperdir={layout.upper},workdir={layout.work},{_OVERLAY_OPTIONS}"
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        syscalls.mount("criu-agent", str(target), "overlay", 0, options)
    except OSError as error:
        raise HostCannot(
            f"cannot mount an overlay of {layout.lower} with its upper layer in {layout.directory}: {error.strerror}",
            hint="set CRIU_AGENT_STATE_DIR to a directory on ext4, xfs or btrfs; criu-agent doctor tries it",
        ) from error


def mount_inside(root: Path, layout: Layout, uid: int) -> None:
    """Mount everything below the root of a new box. At a restore CRIU does this from its images."""
    _mount_fresh(root, "proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    _mount_fresh(root, "dev", "tmpfs", syscalls.MS_NOSUID, "mode=755,size=64k")
    for name in ("pts", "shm"):
        (root / "dev" / name).mkdir(mode=0o755)
    pts_options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    _mount_fresh(root, "dev/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, pts_options)
    _mount_fresh(root, "dev/shm", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=1777")
    _mount_fresh(root, "run", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=64m")
    links = {
        "ptmx": "pts/ptmx",
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        # A descriptor of the real /dev/tty breaks the dump of every program that opened it (ssh, sudo).
        "tty": "pts/0",
    }
    for name, to in links.items():
        (root / "dev" / name).symlink_to(to)
    _make_directory(root / "run/lock", 0o1777)
    _make_directory(root / f"run/user/{uid}", 0o700, uid)
    for bind in layout.binds:
        target = root / bind.target.lstrip("/")
        _make_mount_point(Path(bind.source), target)
        syscalls.mount(bind.source, str(target), "", syscalls.MS_BIND)


def _mount_fresh(root: Path, where: str, fstype: str, flags: int, data: str = "") -> None:
    target = root / where
    target.mkdir(exist_ok=True)
    syscalls.mount(fstype, str(target), fstype, flags, data)


def _make_directory(path: Path, mode: int, uid: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    os.chown(path, uid, -1)


def _make_mount_point(source: Path, target: Path) -> None:
    if target.exists():
        return
    if source.is_dir():
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    log.debug("made the mount point %s", target)


def pivot(root: Path) -> None:
    """Make `root` the root of this mount namespace and let go of the old one (man 2 pivot_root)."""
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")
