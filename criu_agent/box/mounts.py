"""What the box sees as its files: the overlay root and the mounts in it, for a start and for a restore alike.

At a start we mount everything. At a restore CRIU mounts again what it dumped (proc, the tmpfs with their
content, devpts), and asks for the rest by name: the root, and every `Bind`. Both sides are made from the
same `Layout`, so they cannot drift apart.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from criu_agent import log
from criu_agent.box import tools
from criu_agent.box.layout import Bind, Layer, Layout
from criu_agent.errors import HostCannot
from criu_agent.linux import syscalls

DEVICES = ("null", "zero", "full", "random", "urandom")
INIT = "/run/criu-agent/criu-agent-init"  # bound, since its path on the host may differ elsewhere
MADE_IN_IMAGE = (tools.PLACE, "/etc/resolv.conf", "/etc/hosts")  # by us, in the layer of a run that lives in one
_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
_OPAQUE = "trusted.overlay.opaque"
_RESOLVER = "resolver"
DEVICE = "dev-"  # begins the key of a device's bind
# Without index and nfs_export CRIU cannot dump an inotify watch on an overlay (lab/criu.md section 6); without
# redirect_dir a directory of the host cannot be renamed in the box (EXDEV), which Codex does at its start.
_OVERLAY_OPTIONS = "index=on,nfs_export=on,redirect_dir=on"


def system_binds(init: Path, *, user_namespace: bool, foreign: bool = False) -> list[Bind]:
    """The binds that every box has: device nodes, /sys, the init, and the resolver's file if it is needed.

    foreign: the root is that of a container image.
    In a user namespace there is no /sys: its mounts are locked together, and each would have to be an External.
    """
    if not init.is_file():
        raise HostCannot(f"there is no init for the box at {init}", hint="install it with scripts/install-criu")
    binds = [Bind(key=f"{DEVICE}{name}", source=f"/dev/{name}", target=f"/dev/{name}") for name in DEVICES]
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


def through_binds(paths: Iterable[str], backing: Mapping[str, str] = MappingProxyType({})) -> list[Bind]:
    """Binds of what is written through to the host, outer directories first; nested ones need none.

    backing: where on the host those lie that do not lie at their own path.
    """
    binds: list[Bind] = []
    for number, path in enumerate(sorted(set(paths))):
        if path == "/" or any(path.startswith(bind.target + "/") for bind in binds):
            continue
        source = backing.get(path, path)
        if not os.path.exists(source):  # noqa: PTH110 - a str, and the user's spelling of it
            raise HostCannot(
                f"{source}, which the run writes through to, does not exist on this host",
                hint="this snapshot does not have it: copy it to here from where the run was",
            )
        # By number: what is made from the path could be the same for two, or hold what CRIU reads as its own.
        binds.append(Bind(key=f"through-{number}", source=source, target=path))
    return binds


def outer_binds(layout: Layout, through: list[Bind]) -> list[Bind]:
    """The binds of the host's other file systems and of what is written through, those first on which others lie."""
    layers = [layer.bind for layer in layout.layers]
    return sorted([*layers, *layout.bound, *through], key=lambda bind: bind.target)


def prepare_upper(layout: Layout) -> None:
    """Make the upper layer of a new run: an own empty /tmp, and nothing to see under the hidden paths."""
    for directory in (layout.upper, layout.work):
        directory.mkdir(parents=True, exist_ok=True)
    layout.upper.chmod(0o755)  # it is the root of the box, for all of its users and whatever our umask is
    for layer in layout.layers:
        prepare_layer(layer)
        layer.upper.mkdir()
        _dress_like(layer.upper, Path(layer.path))
    if not layout.host_root:
        _cover(layout.upper, "/", "/tmp", 0o1777)  # noqa: S108 - of the box
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


def prepare_layer(layer: Layer) -> None:
    """Make the directories of a layer but upper, and note where it belongs: `layer_paths` finds it."""
    (layer.directory / "work").mkdir(parents=True)
    (layer.directory / "empty").mkdir()
    (layer.directory / "path").write_bytes(os.fsencode(layer.path))


def layer_paths(directory: Path) -> dict[str, Path]:
    """The layers in the directory of a layout: the path in the box to the upper layer that it has."""
    return {
        os.fsdecode((layer / "path").read_bytes()): layer / "upper"
        for layer in ((directory / "layers").iterdir() if (directory / "layers").is_dir() else ())
    }


def _dress_like(made: Path, host: Path) -> None:
    """The root of a layer has the mode, owner and ACL of the directory that it lies on, as that is seen."""
    facts = host.stat()
    made.chmod(stat.S_IMODE(facts.st_mode))
    os.chown(made, facts.st_uid, facts.st_gid)
    for name in os.listxattr(host):
        if name.startswith("system.posix_acl_"):
            os.setxattr(made, name, os.getxattr(host, name))


def hide(layout: Layout) -> None:
    """Have nothing to see under the hidden paths of this host, also in an upper layer that comes from another one."""
    for path in layout.hidden if not layout.host_root else ():
        base, upper = layout.upper_of(path)
        _cover(upper, base, path, 0o700)


def _cover(upper: Path, base: str, path: str, mode: int) -> None:
    """An empty directory `path` in the layer of `base`, its parents with the modes and owners that the host's have.

    Where the run has something else than a directory on the way, nothing of the host is to be seen there anyway.
    """
    made = upper
    host = Path(base)
    for part in Path(path).relative_to(base).parts:
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
    """Mount the root of the box on `target`, and its layers on their mount points: what `unmount_root` takes away.

    between: layers between the host's root, or the image's, and the run's.
    """
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for bind in layout.copied:
        _make_mount_point(Path(bind.target), Path(bind.source))
        syscalls.mount(bind.target, bind.source, "", syscalls.MS_BIND)
    if layout.host_root:
        if between:
            raise HostCannot(
                "the run has no layer, and files that it uses are not the same on this host",
                hint="-v names them: install those of the other host here",
            )
        syscalls.mount("/", str(target), "", syscalls.MS_BIND)
        return
    _mount_overlay([*map(str, between), str(layout.lower)], layout.directory, target)
    for layer in layout.layers:
        layer.mount_point.mkdir(mode=0o700, parents=True, exist_ok=True)
        here = os.path.isdir(layer.path)  # noqa: PTH112 - a str; another host need not have it
        lower = layer.path if here else str(layer.directory / "empty")
        more = [str(one / layer.path.lstrip("/")) for one in between]
        _mount_overlay([*filter(os.path.isdir, more), lower], layer.directory, layer.mount_point)


def _mount_overlay(lowers: Iterable[str], directory: Path, target: Path) -> None:
    escaped = [one.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for one in lowers]
    options = f"lowerdir={':'.join(escaped)},upperdir={directory}/upper,workdir={directory}/work,{_OVERLAY_OPTIONS}"
    try:
        syscalls.mount("criu-agent", str(target), "overlay", 0, options)
    except OSError as error:
        under = " and ".join(lowers)
        raise HostCannot(
            f"cannot mount an overlay of {under} with its upper layer in {directory}: {error.strerror}",
            hint="set CRIU_AGENT_STATE_DIR to a directory on ext4, xfs or btrfs; criu-agent doctor tries it",
        ) from error


def unmount_root(layout: Layout, target: Path) -> None:
    """The box has mounts of its own of all of it."""
    copies = [bind.source for bind in layout.copied]
    for mount_point in (target, *(layer.mount_point for layer in layout.layers), *copies):
        syscalls.umount2(str(mount_point), syscalls.MNT_DETACH)


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
    for path in layout.hidden if layout.host_root else ():  # last: it may lie in one of the others
        if os.path.isdir(path):  # noqa: PTH112 - a str
            _mount_fresh(root, path.lstrip("/"), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=700,size=4k")


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
